"""Sums without rounding: as many numbers as are said to be summable are summed to the last bit."""

import math

import numpy as np
import pytest

from microgpt_trace.arrays.exact_sum import added_up, least_above_0, summable

LEAST, LARGEST = float(np.float32(1e-45)), float(np.finfo(np.float32).max)


def drawn(rng, spread, shape):
    """float32 numbers over so many binary orders, a tenth of them 0."""
    values = np.ldexp(rng.uniform(-1, 1, shape), rng.integers(-spread, 1, shape)).astype(np.float32)
    return np.where(rng.random(shape) < 0.1, np.float32(0), values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_least_above_0(dtype):
    assert least_above_0(np.array([[3, -2], [5, -7]], dtype)) == (2, False)
    assert least_above_0(np.array([[3, -0.0], [0, -7]], dtype)) == (3, True)
    assert least_above_0(np.zeros((2, 3), dtype)) == (math.inf, True)
    tiny = np.nextafter(dtype(0), dtype(1))
    assert least_above_0(np.array([1, 0, -tiny], dtype)) == (float(tiny), True)


@pytest.mark.parametrize("spread", [0, 12, 20, 28])
def test_what_is_summable_is_summed_to_the_last_bit(spread):
    rng = np.random.default_rng(spread)
    values = drawn(rng, spread, (1 << 13, 3))
    most = summable(float(np.abs(values).max()), least_above_0(values)[0])
    print(spread, most)
    if most:
        some = values[: min(most, 1 << 13)].astype(np.float64)
        for column in some.T:
            assert column.sum() == np.cumsum(column)[-1] == math.fsum(column.tolist())
    sums = added_up(values.astype(np.float64), max(most, 1))
    assert len(sums) <= 2 * -(-len(values) // max(most, 1))
    for found, column in zip(sums.T, values.T, strict=True):
        assert math.fsum(found.tolist()) == math.fsum(column.astype(np.float64).tolist())


@pytest.mark.parametrize("span", [13, 20, 28])
def test_four_times_as_many_lose_a_bit(span):
    """Which shows that no more could be promised but these."""
    largest, least = np.float32(2 - 2**-23), np.float32(2.0**-span * (1 + 2**-23))
    most = summable(float(largest), float(least))
    assert most == 1 << 29 - span
    for count, whole in ((most, True), (4 * most, False)):
        held = np.full(count, largest, np.float64)
        held[0] = least
        exact = math.fsum(held[1:].tolist())  # all but the least have room
        assert (held[0] + exact - exact == held[0]) == whole


def test_denormal_numbers_and_zeros():
    assert (summable(LEAST, LEAST), summable(2 * LEAST, 2 * LEAST)) == (1 << 52, 1 << 51)
    assert summable(LARGEST, LEAST) == summable(LARGEST, 2 * LEAST) == 0
    assert summable(0.0, math.inf) >= 1 << 20
    assert added_up(np.zeros((5, 2)), 1 << 20).tolist() == [[0, 0]]
