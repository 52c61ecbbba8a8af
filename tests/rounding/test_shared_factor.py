"""The factor common to all rows of a tensor, and its standard error."""

import numpy as np
import pytest

from microgpt_trace.rounding.precision import CHANCE, beyond_usual
from microgpt_trace.rounding.row_differences import FactorMeter, factor_of_logarithms

RNG = np.random.default_rng(3)


def measured(a, b, step=None):
    meter = FactorMeter()
    for start in range(0, len(a), step or len(a)):
        rows = slice(start, start + (step or len(a)))
        meter.add(a[rows].astype(np.float64), b[rows].astype(np.float64))
    return meter.result()


def test_a_factor_is_measured_the_same_in_blocks():
    a = RNG.standard_normal((12, 40))
    factor, error = measured(a, a * 1.003)
    assert factor == pytest.approx(0.003)
    assert error == pytest.approx(0, abs=1e-12)
    assert measured(a, a * 1.003 + 0.01, step=5) == pytest.approx(measured(a, a * 1.003 + 0.01))


@pytest.mark.parametrize("shared", ["none", "row", "column", "one row again and again"])
def test_errors_common_to_rows_or_columns_are_not_a_factor(shared):
    """No factor of 200 samples exceeds its error, although common errors do not average out."""
    worst = 0.0
    for _ in range(200):
        a = RNG.standard_normal((8, 64))
        off = RNG.standard_normal({"row": (8, 1), "column": (1, 64)}.get(shared, (8, 64)))
        if shared.startswith("one"):
            a[:], off[:] = a[0], off[0]
        factor, error = measured(a, a * (1 + 0.01 * off))
        worst = max(worst, abs(factor) / error)
    print(shared, worst)
    assert worst < CHANCE


def test_a_massive_channel_neither_hides_nor_mimics_a_factor():
    a = RNG.standard_normal((8, 64))
    a[:, 5] = 3000.0
    noise = 1 + 0.002 * RNG.standard_normal(a.shape)
    (right, of_right), (wrong, of_wrong) = measured(a, a * noise), measured(a, a * noise * 1.005)
    print(right, of_right, wrong, of_wrong)
    assert abs(right) < CHANCE * of_right
    assert wrong > CHANCE * of_wrong


def test_a_row_of_one_element_may_have_a_larger_error():
    alone, many = beyond_usual(np.array([1.0, 1 / 4096]))
    print(alone, many)
    assert 2.5 < alone < 3
    assert 1 < many < 1.1


def test_the_factor_of_scores_is_measured_from_shares():
    scores = 3 * RNG.standard_normal((2, 9, 9))
    scores[:, ~np.tri(9, dtype=bool)] = -np.inf

    def shares(factor, zero=0.0):  # `zero` has no effect on shares
        powers = np.exp(factor * scores + zero)
        return powers / powers.sum(axis=-1, keepdims=True)

    factor, error = factor_of_logarithms(shares(1), shares(1.02, zero=RNG.standard_normal((2, 9, 1))))
    assert (factor, error) == (pytest.approx(0.02), pytest.approx(0, abs=1e-9))
    noise = 1 + 0.004 * RNG.uniform(-1, 1, scores.shape)  # as in bfloat16
    factor, error = factor_of_logarithms(shares(1), shares(1) * noise)
    print(factor, error)
    assert abs(factor) < CHANCE * error < 0.01
