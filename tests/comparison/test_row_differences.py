"""Distances of rows: calculated by hand, and laws that hold for any two tensors."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microgpt_trace.arrays.stats import causal_mask
from microgpt_trace.rounding.row_differences import RowDifferences, compare_rows, join, with_predictions

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
NUMBERS = st.floats(-100, 100, width=32)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_row_matches_a_calculation_by_hand():
    a, b = np.array([[3.0, 4.0, 0.0]]), np.array([[3.0, 3.0, 0.0]])
    rows = compare_rows(a, b)
    assert rows.a == pytest.approx(5 / 3**0.5)
    assert rows.b == pytest.approx((18 / 3) ** 0.5)
    assert rows.d == pytest.approx(1 / 3**0.5)
    assert rows.relative() == pytest.approx(1 / 5)  # of the larger of the two
    assert rows.cosine == pytest.approx((9 + 12) / (5 * 18**0.5))
    assert (rows.largest, rows.column, rows.of_a, rows.of_b, rows.odd) == (1, 1, 4, 3, -1)


@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 0.0])
def test_a_scaled_row_differs_by_the_factor(factor):
    a = normal(5, 64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)  # so that no row is smaller than the median row
    found = compare_rows(a, a * np.float32(factor)).relative()
    expected = abs(1 - factor) / max(1, abs(factor))
    print(found, expected)
    assert found == pytest.approx(np.full(5, expected), rel=1e-5, abs=1e-7)


def test_predictions_match_a_calculation_by_hand():
    a, b = np.log(np.array([[0.5, 0.25, 0.25]])), np.log(np.array([[0.25, 0.5, 0.25]]))
    (rows,) = with_predictions([compare_rows(a, b)], a, [b + 7])  # a constant changes no prediction
    assert rows.kl == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert rows.in_prediction() == pytest.approx((2 * 0.25 * math.log(2)) ** 0.5)
    assert compare_rows(a, b).in_prediction() == 0  # not measured


def test_a_prediction_differs_by_the_weighted_spread_of_its_logits():
    a, noise = normal(3, 50), np.float32(1e-3) * normal(3, 50, seed=2)
    (rows,) = with_predictions([compare_rows(a, a + noise)], a, [a + noise])
    p = np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)
    spread = np.sqrt((p * (noise - (p * noise).sum(axis=1, keepdims=True)) ** 2).sum(axis=1))
    assert rows.in_prediction() == pytest.approx(spread, rel=1e-2)


def test_logits_that_are_not_finite_give_no_prediction():
    a = np.array([[0.0, 1.0, -np.inf], [0.0, 1.0, np.nan]])
    found = with_predictions([compare_rows(a, a)], a, [a])[0].in_prediction()
    assert found.tolist() == [0, 0]


def test_equal_rows_have_distance_0_and_a_missing_row_1():
    a = normal(3, 8)
    a[1] = 0
    same = compare_rows(a, a)
    assert not np.any([same.relative(), same.strict(), same.largest])
    assert (compare_rows(normal(4, 8), normal(4, 8)).cosine == 1).all()
    b = a.copy()
    b[2] = 0
    assert compare_rows(a, b).relative().tolist() == [0, 0, 1]
    zero = np.zeros((2, 4))
    assert (compare_rows(zero, zero + 1).strict() == 1).all()


def test_a_small_row_counts_as_the_median_row():
    a = normal(5, 64)
    a[3] *= np.float32(1e-6)
    b = a.copy()
    b[3] *= 2
    assert 0 < compare_rows(a, b).relative()[3] < 1e-5


def test_an_outlier_hides_neither_its_own_error_nor_others():
    a = normal(4, 256)
    a[:, 7] = 3000
    b = a * np.float32(1.01)
    b[:, 7] = 3000
    rows = compare_rows(a, b)
    print(rows.relative(), rows.strict())
    assert (rows.relative() < 1e-4).all()
    assert rows.strict() == pytest.approx(np.full(4, 0.01), rel=0.15)
    b = a.copy()
    b[:, 7] = 2970
    assert compare_rows(a, b).strict() == pytest.approx(np.full(4, 0.01), rel=0.02)


def test_the_bias_is_subtracted():
    bias = 600 * normal(64, seed=2)
    plain = normal(6, 64)
    rows = compare_rows(plain + bias, plain * np.float32(1.01) + bias, bias=bias)
    print(rows.relative(), rows.strict())
    assert (rows.relative() < 1e-4).all()
    assert rows.plain_a == pytest.approx(np.sqrt(np.square(plain).mean(axis=1)), rel=1e-3)
    assert rows.strict() == pytest.approx(np.full(6, 0.01), rel=0.5)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("in_a", "in_b", "column"),
    [(1, NAN, 2), (NAN, 1, 2), (INF, 1, 2), (INF, -INF, 2), (NAN, INF, 2), (NAN, NAN, -1), (-INF, -INF, -1)],
)
def test_an_element_that_is_not_finite_on_one_side_is_located(in_a, in_b, column):
    a, b = normal(3, 5), normal(3, 5)
    a[1, 2], b[1, 2] = in_a, in_b
    rows = compare_rows(a, b)
    assert rows.odd.tolist() == [-1, column, -1]
    assert rows.strict().tolist() == [0, 0 if column < 0 else np.inf, 0]


def test_nan_in_both_leaves_the_other_elements_to_compare():
    a, b = normal(3, 5), normal(3, 5)
    a[1, 2] = b[1, 2] = np.nan
    b[1, 4] += 1
    rows = compare_rows(a, b)
    assert (rows.odd.tolist(), rows.column[1]) == ([-1, -1, -1], 4)
    assert rows.largest[1] == pytest.approx(1)
    assert rows.relative()[1] > 0.1


def test_the_causal_mask_leaves_out_later_keys():
    a = normal(2, 4, 4)
    b = a + np.triu(np.full((4, 4), 100, np.float32), 1)
    b[0, 0, 2] = np.nan
    b[1, 3, 0] += 1
    rows = compare_rows(a, b, causal_mask(4, 4))
    assert np.flatnonzero(rows.d).tolist() == [7]  # head 1, query 3
    assert rows.d[7] == pytest.approx((1 / 4) ** 0.5, rel=1e-5)
    assert rows.a[1] == pytest.approx(np.sqrt(np.square(a[0, 1, :2]).mean()))
    b[1, 2, 0] = np.nan
    assert compare_rows(a, b, causal_mask(4, 4)).odd.tolist() == [-1] * 6 + [0, -1]


def test_the_last_queries_see_all_keys():
    a = normal(1, 2, 5)
    b = a.copy()
    b[0, 0, 4] += 9
    assert not compare_rows(a, b, causal_mask(2, 5)).d.any()
    b[0, 0, 3] += 9
    assert compare_rows(a, b, causal_mask(2, 5)).d[0] > 1


def test_a_single_number_is_a_row():
    rows = compare_rows(np.float32(3.0).reshape(()), np.float32(3.3).reshape(()))
    assert rows.strict() == pytest.approx([0.3 / 3.3], rel=1e-5)


@given(st.data(), SHAPES, st.booleans())
def test_laws_that_hold_for_any_two_tensors(data, shape, odd):
    """The distance is symmetric and bounded, and joined parts equal the whole."""
    a, b = (data.draw(arrays.arrays(np.float32, shape, elements=NUMBERS)) for _ in "ab")
    if odd:
        b[-1, 0] = np.nan
    one, other = compare_rows(a, b), compare_rows(b, a)
    for name in ("d", "cosine", "largest", "column", "odd"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name
    assert one.relative() == pytest.approx(other.relative())
    assert (one.relative() <= 2 + 1e-9).all()
    assert (np.abs(one.cosine) <= 1 + 1e-9).all()
    cut = data.draw(st.integers(0, len(a)))
    parts = join([compare_rows(a[own], b[own]) for own in (slice(0, cut), slice(cut, None))])
    for field in fields(RowDifferences):
        joined, whole = getattr(parts, field.name), getattr(one, field.name)
        np.testing.assert_allclose(joined, whole, rtol=1e-12, err_msg=field.name)
