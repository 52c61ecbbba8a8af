"""Compare TensorStats with numbers computed by hand and plain sums, and merged statistics with those of the
whole."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.judges import agree

from microgpt_trace import TensorStats
from microgpt_trace.arrays.stats import median, row_medians

MOMENTS = ("mean", "std", "l2_norm", "min", "max", "max_abs")


def test_statistics_agree_with_numbers_computed_by_hand():
    stats = TensorStats.of([[3.0, -4.0], [0.0, 1.0]])
    assert (stats.count, stats.mean, stats.min, stats.max, stats.max_abs) == (4, 0, -4, 3, 4)
    agree(stats.std, math.sqrt(26 / 4))
    agree(stats.l2_norm, math.sqrt(26))
    assert (stats.zero_count, stats.nan_count, stats.inf_count, stats.finite_count) == (1, 0, 0, 4)
    agree(stats.rms, math.sqrt(26 / 4))


def test_moments_are_those_of_the_finite_elements():
    stats = TensorStats.of([1.0, math.nan, 3.0, math.inf, -math.inf, 0.0])
    assert (stats.count, stats.nan_count, stats.inf_count, stats.zero_count) == (6, 1, 2, 1)
    assert (stats.min, stats.max, stats.finite_count, stats.nonfinite_count) == (0, 3, 3, 3)
    agree(stats.mean, 4 / 3)
    agree(stats.l2_norm, math.sqrt(10))
    cancel = TensorStats.of(np.array([np.inf, -np.inf, 1, 3] * 3, np.float32))
    assert (cancel.mean, cancel.std, cancel.max, cancel.inf_count) == (2, 1, 3, 6)


@pytest.mark.parametrize("bits", [np.array([0x7C01], np.uint16), np.array([0x7F800001], np.uint32)])
def test_a_signalling_nan_gives_no_warning(bits):
    stats = TensorStats.of(bits.view(f"f{bits.itemsize}"))
    assert (stats.count, stats.nan_count, stats.mean) == (1, 1, None)


@pytest.mark.parametrize("values", [[], [math.nan] * 3, [math.inf, -math.inf], [math.nan, math.inf]])
def test_moments_are_none_without_a_finite_element(values):
    stats = TensorStats.of(np.array(values))
    assert [getattr(stats, name) for name in (*MOMENTS, "rms")] == [None] * 7
    assert (stats.count, stats.finite_count, stats.zero_count) == (len(values), 0, 0)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.bool_, np.float16, np.float32])
def test_every_dtype_is_summed_in_float64(dtype):
    values = np.array([0, 1, 1, 100 if dtype is not np.bool_ else 1] * 50, dtype)
    stats = TensorStats.of(values)
    wide = values.astype(np.float64)
    agree([stats.mean, stats.std, stats.l2_norm], [wide.mean(), wide.std(), np.linalg.norm(wide)])
    assert stats.zero_count == 50


def test_sums_of_integers_and_float32_lose_nothing():
    stats = TensorStats.of(np.array([-128, 127, -128], np.int8))
    assert (stats.min, stats.max, stats.max_abs) == (-128, 127, 128)
    agree(stats.l2_norm, math.sqrt(2 * 128**2 + 127**2))
    stats = TensorStats.of(np.full(100_000, 0.1, np.float32))
    agree(stats.mean, float(np.float32(0.1)), rtol=1e-12)
    assert stats.std < 1e-12


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-200, 1.0, 1e200, 1e308])
def test_squares_outside_the_range_of_float64_do_no_harm(scale):
    stats = TensorStats.of(np.array([-1.0, 0.5, 1.0, 0.0]) * scale)
    rtol = 1e-12 if scale > 1e-308 else 1e-3  # subnormal numbers have few digits
    agree(stats.l2_norm / scale, 1.5, rtol=rtol)
    agree(stats.std / scale, math.sqrt(2.25 / 4 - 0.125**2), rtol=rtol)
    agree(stats.mean / scale, 0.125, rtol=rtol)
    assert stats.max_abs == scale


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e12])
def test_a_large_mean_does_not_spoil_the_standard_deviation(offset):
    agree(TensorStats.of(np.array([1.0, 2.0, 3.0, 4.0]) + offset).std, math.sqrt(1.25), rtol=1e-4)


def test_statistics_of_huge_and_tiny_numbers():
    stats = TensorStats.of(np.full(4, 1.7e308))
    assert (stats.mean, stats.std) == (pytest.approx(1.7e308), 0)
    assert TensorStats.of([-0.0, 0.0, 1e-320]).zero_count == 2


def test_statistics_of_a_single_number_are_python_numbers():
    for value in ([7.0], 7.0, np.float32(7)):
        stats = TensorStats.of(value)
        assert (stats.count, stats.mean, stats.std, stats.l2_norm) == (1, 7, 0, 7)
        assert {type(value) for value in asdict(stats).values()} == {int, float}


def test_only_elements_in_the_mask_count():
    values = np.array([[1.0, math.nan], [2.0, 3.0]])
    assert TensorStats.of(values, np.tri(2, dtype=bool)) == TensorStats.of([1.0, 2.0, 3.0])
    twice = np.stack([values, values])
    assert TensorStats.of(twice, np.tri(2, dtype=bool)).count == 6


def test_the_array_does_not_change():
    values = np.array([[1e300, 2e300], [math.nan, 0.0]])
    copy = values.copy()
    TensorStats.of(values)
    assert np.array_equal(values, copy, equal_nan=True)


numbers = st.one_of(
    st.floats(-1e6, 1e6, width=64),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x / 4),
)


def close(found, expected, rtol=1e-7):
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=rtol, abs_tol=0) or found == expected


@settings(derandomize=True)
@given(st.lists(numbers, max_size=12), st.lists(numbers, max_size=12))
def test_merged_statistics_are_those_of_both_arrays_together(a, b):
    stats = TensorStats.of(a)
    merged, expected = stats.merge(TensorStats.of(b)), TensorStats.of([*a, *b])
    assert stats.merge(TensorStats.of([])) == TensorStats.of([]).merge(stats) == stats
    for name in ("count", "zero_count", "nan_count", "inf_count", "min", "max", "max_abs"):
        assert getattr(merged, name) == getattr(expected, name), name
    assert close(merged.l2_norm, expected.l2_norm), (merged.l2_norm, expected.l2_norm)
    if expected.mean is not None:  # after cancellation, a sum has the error of its largest term
        assert abs(merged.mean - expected.mean) <= 1e-12 * expected.max_abs
        assert abs(merged.std - expected.std) <= 1e-7 * expected.max_abs
    else:
        assert merged.mean is merged.std is None


@pytest.mark.parametrize("count", [1, 2, 3, 10, 5001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_median_is_exact(count, dtype):
    rng = np.random.default_rng(count)
    rows = np.array([rng.standard_cauchy(count), rng.integers(0, 3, count), rng.normal(size=count)], dtype)
    rows[1] = np.where(rows[1] == 2, np.inf, rows[1])
    np.testing.assert_array_equal(row_medians(rows), np.median(rows, axis=1))
    assert row_medians(rows).dtype == dtype
    for row in rows:
        assert median(row) == pytest.approx(float(np.median(row.astype(np.float64))), rel=1e-15)
    rows[:, 0] = np.nan
    assert math.isnan(median(rows[0]))
    assert np.isnan(row_medians(rows)).all()
