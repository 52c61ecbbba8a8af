"""Exact sums: the bits of math.fsum, in any order and parts, and from what was written of them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt_trace.arrays.exact_sum import BLOCK, MOST, WIDTH, ExactSum

numbers = st.one_of(
    st.floats(-1e150, 1e150),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 2.0**18, 2.0**18 - 2.0**-24, 1e150, -1e150]),
)


def summed(rows):
    found = ExactSum(rows.shape[1])
    found.add(rows)
    return found


def assert_bits(found, rows):
    """The sums of the columns, -0.0 as 0.0, and with the terms that follow nothing is lacking."""
    columns, terms = np.asarray(rows, float).T.tolist(), found.terms().T.tolist()
    sums = found.values().tolist()
    for channel, (got, column, own) in enumerate(zip(sums, columns, terms, strict=True)):
        wanted, lacks = math.fsum(column) + 0.0, math.fsum([*column, *(-term for term in own)])
        assert got.hex() == wanted.hex(), f"channel {channel}: {got!r}, fsum {wanted!r}"
        assert lacks == 0, f"channel {channel}: {lacks!r}"


def magnitudes(rng, shape, low=-1000, high=498):
    """Numbers of any binary order, of both signs."""
    return np.ldexp(rng.uniform(-1, 1, shape), rng.integers(low, high, shape))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_the_bits_are_those_of_fsum(rows):
    assert_bits(summed(np.array(rows)), rows)


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms())
def test_what_cancels_leaves_what_is_left(values, random):
    rows = [*values, *(-value for value in values), 1e-300]
    random.shuffle(rows)
    assert summed(np.array(rows)[:, None]).values().tolist() == [1e-300]


@pytest.mark.parametrize("spread", [(-1074, -1000), (-30, 30), (-1000, 498), (495, 498)])
def test_any_magnitudes_and_widths(spread):
    wide = (2, BLOCK + 1) if spread == (-30, 30) else (40, 3)
    for shape in ((40, 1), (40, 81), wide):
        rows = magnitudes(np.random.default_rng(shape[1]), shape, *spread)
        assert_bits(summed(rows), rows)


FULL = [2.0**18 - 2.0**-24, 2.0**18 - 2.0**-34, 2.0**19 - 2.0**-24, -(2.0**18 - 2.0**-25), 1e150, 2.0**-1074]


@pytest.mark.parametrize("first", [1, MOST - 1, MOST])
def test_many_of_the_most_that_a_place_holds(first):
    """Sums of full pieces come as near to 2^53 as they may: blocks of MOST after some without a carry."""
    for value in FULL:
        found, counts = ExactSum(1), (first, 2 * MOST - 1, 8 * MOST, 1, 8 * MOST)
        rows = [np.full((1, 1), 2.0**-500), *(np.full((count, 1), value) for count in counts)]
        for some in rows:
            found.add(some)
            found.values()
        assert_bits(found, np.concatenate(rows))


def test_a_carry_goes_through_many_places():
    """Pieces of a sum that ripple upwards: 2^42 - 1 of every place, and one more of the last."""
    full = [math.ldexp(2**WIDTH - 1, WIDTH * place - 24) for place in range(-3, 4)]
    rows = np.array([*full * 3000, math.ldexp(1, -3 * WIDTH - 24)])[:, None]
    assert_bits(summed(rows), rows)


@given(st.lists(st.tuples(st.integers(0, 3), numbers), max_size=30))
def test_adding_at_channels(pairs):
    found = ExactSum(4)
    channels, values = np.array([c for c, _ in pairs], int), np.array([v for _, v in pairs])
    found.add_at(channels, values)
    columns = [[v for c, v in pairs if c == channel] for channel in range(4)]
    wanted = [math.fsum(column) + 0.0 for column in columns]
    assert found.values().tolist() == wanted, f"{found.values().tolist()}, fsum {wanted}"


def test_adding_many_at_one_channel():
    values = np.random.default_rng(4).normal(size=5 * MOST + 3) * 2.0**17
    found = ExactSum(2)
    found.add_at(np.zeros(len(values), int), values)
    assert found.values().tolist() == [math.fsum(values), 0.0]


@pytest.mark.parametrize("seed", range(2))
def test_parts_merged_in_any_order_and_tree(seed):
    rng = np.random.default_rng(seed)
    rows = magnitudes(rng, (400, 3), *((-1074, 498) if seed % 2 else (-20, 20)))
    cuts = np.sort(rng.integers(0, 400, 9))
    parts = [summed(own) for own in np.split(rows[rng.permutation(400)], cuts)]
    while len(parts) > 1:
        into, other = (parts.pop(rng.integers(len(parts))) for _ in range(2))
        into.merge(other)
        parts.append(into)
    assert_bits(parts[0], rows)
    assert parts[0].terms().tobytes() == summed(rows).terms().tobytes()


def test_very_many_merges():
    """More than MOST of them, of parts that have carried nothing yet."""
    for value in (2.0**18 - 2.0**-24, 2.0**17 - 2.0**-24):
        whole, part = ExactSum(1), np.array([[value]])
        for _ in range(6 * MOST):
            whole.merge(summed(part))
        assert_bits(whole, np.full((6 * MOST, 1), value))


def test_what_is_given_is_not_changed():
    rows = magnitudes(np.random.default_rng(0), (50, 400))
    kept = rows.copy()
    summed(rows).values()
    assert rows.tobytes() == kept.tobytes()
    one, other = summed(np.array([[1e100], [1.0]])), summed(np.array([[2.0**18], [1e-200]]))
    before = other.terms().tobytes()
    one.merge(other)
    one.merge(other)
    assert other.terms().tobytes() == before


@given(st.lists(numbers, min_size=1, max_size=12), st.randoms())
def test_terms_say_all_and_say_it_one_way(values, random):
    found = summed(np.array(values)[:, None])
    terms = found.terms()[:, 0].tolist()
    assert math.fsum([*terms, *(-value for value in values)]) == 0.0
    assert all(abs(b) <= math.ulp(a) / 2 for a, b in pairwise(terms)), terms
    random.shuffle(values)
    again = summed(found.terms())
    again.merge(summed(np.array([[0.0]])))
    assert again.terms().tobytes() == summed(np.array(values)[:, None]).terms().tobytes()


def test_sums_of_nothing():
    for size in (0, 5):
        found = ExactSum(size)
        found.add(np.empty((0, size)))
        found.add_at(np.empty(0, int), np.empty(0))
        found.merge(ExactSum(size))
        assert found.values().tolist() == [0.0] * size
        assert found.terms().shape == (1, size)
