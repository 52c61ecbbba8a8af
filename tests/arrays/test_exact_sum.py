"""Compare exact sums with math.fsum bit for bit, in any order and in any parts, and check their terms."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt_trace.arrays.exact_sum import BLOCK, MOST, OFFSET, WIDTH, ExactSum

numbers = st.one_of(
    st.floats(-1e150, 1e150),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 2.0**18, 2.0**18 - 2.0**-24, 1e150, -1e150]),
)


def summed(rows):
    exact = ExactSum(rows.shape[1])
    exact.add(rows)
    return exact


def assert_bits(exact, rows):
    """Check that the sums are those of math.fsum, with 0.0 for -0.0, and that the terms sum to the
    columns."""
    columns, terms = np.asarray(rows, float).T.tolist(), exact.terms().T.tolist()
    sums = exact.values().tolist()
    for channel, (value, column, own) in enumerate(zip(sums, columns, terms, strict=True)):
        expected, rest = math.fsum(column) + 0.0, math.fsum([*column, *(-term for term in own)])
        assert value.hex() == expected.hex(), f"channel {channel}: {value!r}, fsum {expected!r}"
        assert rest == 0, f"channel {channel}: {rest!r}"


def magnitudes(rng, shape, low=-1000, high=498):
    """Return random numbers of both signs and many magnitudes."""
    return np.ldexp(rng.uniform(-1, 1, shape), rng.integers(low, high, shape))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_sums_have_the_bits_of_fsum(rows):
    assert_bits(summed(np.array(rows)), rows)


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms())
def test_cancellation_loses_nothing(values, random):
    rows = [*values, *(-value for value in values), 1e-300]
    random.shuffle(rows)
    assert summed(np.array(rows)[:, None]).values().tolist() == [1e-300]


@pytest.mark.parametrize("spread", [(-1074, -1000), (-30, 30), (-1000, 498), (495, 498)])
def test_sums_numbers_of_any_magnitude_in_rows_of_any_width(spread):
    wide = (2, BLOCK + 1) if spread == (-30, 30) else (40, 3)
    for shape in ((40, 1), (40, 81), wide):
        rows = magnitudes(np.random.default_rng(shape[1]), shape, *spread)
        assert_bits(summed(rows), rows)


FULL = [2.0**18 - 2.0**-24, 2.0**18 - 2.0**-34, 2.0**19 - 2.0**-24, -(2.0**18 - 2.0**-25), 1e150, 2.0**-1074]


@pytest.mark.parametrize("first", [1, MOST - 1, MOST])
def test_sums_of_the_largest_pieces_stay_exact(first):
    """Sums of full pieces come as close to 2^53 as possible: blocks of MOST after some numbers without a
    carry."""
    for value in FULL:
        exact, counts = ExactSum(1), (first, 2 * MOST - 1, 8 * MOST, 1, 8 * MOST)
        rows = [np.full((1, 1), 2.0**-500), *(np.full((count, 1), value) for count in counts)]
        for part in rows:
            exact.add(part)
            exact.values()
        assert_bits(exact, np.concatenate(rows))


def test_sums_of_full_pieces_of_the_first_place_stay_exact():
    full = math.ldexp(2**WIDTH - 1, -OFFSET)
    rows = np.full((MOST - 1, 1), full)  # the sum is odd, in units of the place
    assert_bits(summed(rows), rows)


def test_a_carry_goes_through_many_places():
    """Every place has 2^42 - 1, and one more in the last place carries through all of them."""
    full = [math.ldexp(2**WIDTH - 1, WIDTH * place - 24) for place in range(-3, 4)]
    rows = np.array([*full * 3000, math.ldexp(1, -3 * WIDTH - 24)])[:, None]
    assert_bits(summed(rows), rows)


@given(st.lists(st.tuples(st.integers(0, 3), numbers), max_size=30))
def test_adds_numbers_at_channels(pairs):
    exact = ExactSum(4)
    channels, values = np.array([c for c, _ in pairs], int), np.array([v for _, v in pairs])
    exact.add_at(channels, values)
    expected = [math.fsum(v for c, v in pairs if c == channel) + 0.0 for channel in range(4)]
    assert exact.values().tolist() == expected, f"{exact.values().tolist()}, fsum {expected}"


def test_adds_many_numbers_at_one_channel():
    values = np.random.default_rng(4).normal(size=5 * MOST + 3) * 2.0**17
    exact = ExactSum(2)
    exact.add_at(np.zeros(len(values), int), values)
    assert exact.values().tolist() == [math.fsum(values), 0.0]


@pytest.mark.parametrize("seed", range(2))
def test_merges_parts_in_any_order(seed):
    rng = np.random.default_rng(seed)
    rows = magnitudes(rng, (400, 3), *((-1074, 498) if seed % 2 else (-20, 20)))
    cuts = np.sort(rng.integers(0, 400, 9))
    parts = [summed(part) for part in np.split(rows[rng.permutation(400)], cuts)]
    while len(parts) > 1:
        into, other = (parts.pop(rng.integers(len(parts))) for _ in range(2))
        into.merge(other)
        parts.append(into)
    assert_bits(parts[0], rows)
    assert parts[0].terms().tobytes() == summed(rows).terms().tobytes()


def test_merges_more_than_most_parts():
    for value in (2.0**18 - 2.0**-24, 2.0**17 - 2.0**-24):
        exact, part = ExactSum(1), np.array([[value]])
        for _ in range(2 * MOST):
            exact.merge(summed(part))
        assert_bits(exact, np.full((2 * MOST, 1), value))


def test_adding_and_merging_do_not_change_their_arguments():
    rows = magnitudes(np.random.default_rng(0), (50, 400))
    copy = rows.copy()
    summed(rows).values()
    assert rows.tobytes() == copy.tobytes()
    one, other = summed(np.array([[1e100], [1.0]])), summed(np.array([[2.0**18], [1e-200]]))
    before = other.terms().tobytes()
    one.merge(other)
    one.merge(other)
    assert other.terms().tobytes() == before


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms())
def test_terms_are_exact_and_the_same_for_equal_sums(values, random):
    exact = summed(np.array(values)[:, None])
    terms = exact.terms()[:, 0].tolist()
    assert math.fsum([*terms, *(-value for value in values)]) == 0.0
    assert all(abs(b) <= math.ulp(a) / 2 for a, b in pairwise(terms)), terms
    random.shuffle(values)
    again = summed(exact.terms())
    again.merge(summed(np.array([[0.0]])))
    assert again.terms().tobytes() == summed(np.array(values)[:, None]).terms().tobytes()


def test_empty_sums_are_zero():
    for size in (0, 5):
        exact = ExactSum(size)
        exact.add(np.empty((0, size)))
        exact.add_at(np.empty(0, int), np.empty(0))
        exact.merge(ExactSum(size))
        assert exact.values().tolist() == [0.0] * size
        assert exact.terms().shape == (1, size)
