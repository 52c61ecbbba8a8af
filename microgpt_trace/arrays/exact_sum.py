"""ExactSum: sums of many float64 numbers for each channel, without any rounding.

Because of rounding, a sum of floating-point numbers depends on the order of the numbers. An ExactSum does not
depend on the order of its numbers, so parts of a corpus can be summed in any order, and merged. A number is
cut at fixed powers of two into pieces of WIDTH bits. The pieces of each place are summed separately. All
pieces of a place are multiples of the same power of two, and the pieces' sum stays below 2^53 times this
power, so float64 represents this sum exactly. Rump, Ogita and Oishi, "Accurate floating-point summation part
I" (2008), cut numbers by adding and subtracting a constant. Demmel and Nguyen, "Parallel reproducible
summation" (2015), choose places that do not depend on the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import count

import numpy as np

from ..text.brief import one_line
from .stats import Array

WIDTH = 40  # number of bits of a piece
OFFSET = 33  # place 0 has multiples of 2^-33 up to 2^7. Places 0 and -1 cover activations.
MOST = 1 << 12  # carry after this many numbers, because 2^12 * 2^40 < 2^53
LARGEST = 2.0**900  # larger numbers would overflow when cut
BLOCK = 1 << 15  # numbers to cut at a time: so many fit the cache
_ONES = np.ones(MOST)  # a product with ones is 3 to 8 times as fast as sum(axis=0)


class ExactSum:
    """The exact sums of numbers, for each of `size` channels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, Array] = {}  # the sum of each place
        self._added = 0  # numbers added since the last carry

    def __repr__(self) -> str:
        return one_line(self, size=self.size)

    def add(self, values: Array) -> None:
        """Add rows of float64 numbers, [n, C], whose magnitudes are below LARGEST."""
        rows = max(1, min(MOST, BLOCK // max(1, self.size)))
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            for place, pieces in _cut(block):
                self._at(place)[...] += _ONES[: len(block)].dot(pieces)
            self._count(len(block))

    def add_at(self, channels: Array, values: Array) -> None:
        """Add each number of `values` [n] to the sum of the channel at the same index of `channels` [n].
        `channels` may repeat a channel."""
        for start in range(0, len(values), MOST):
            part = slice(start, start + MOST)
            for place, pieces in _cut(values[part]):
                self._at(place)[...] += np.bincount(channels[part], pieces, self.size)
            self._count(len(values[part]))

    def merge(self, other: ExactSum) -> None:
        """Add the sums of another ExactSum."""
        other._carry()  # makes the pieces of `other` as small as the pieces of 1 number
        for place, pieces in other._pieces.items():
            self._at(place)[...] += pieces
        self._count(1)

    def values(self) -> Array:
        """Return the sums, rounded to the nearest float64: [C]"""
        return self._rounded([])

    def terms(self) -> Array:
        """Return numbers that add up exactly to the sums: [k, C] The first row has the rounded sums, the
        second row the rounded errors of the first row, and so on. Equal sums have equal terms in any order of
        additions."""
        terms = [self.values()]
        while (rest := self._rounded(terms)).any():
            terms.append(rest)
        return np.array(terms)

    def _rounded(self, subtracted: list[Array]) -> Array:
        """Return the sums minus the numbers `subtracted`. math.fsum rounds each result only once."""
        pieces = [*self._pieces.values(), *(-numbers for numbers in subtracted)]
        if not pieces:
            return np.zeros(self.size)
        sums = map(math.fsum, zip(*(numbers.tolist() for numbers in pieces), strict=True))
        return np.fromiter(sums, np.float64, self.size) + 0.0  # turns -0.0 into 0.0

    def _count(self, added: int) -> None:
        """Call `_carry` before a sum of pieces can exceed 2^53."""
        self._added += added
        if self._added > MOST:
            self._carry()
            self._added = added

    def _carry(self) -> None:
        """If the sum of a place exceeds WIDTH bits, move the excess to the next place."""
        place = min(self._pieces, default=0)
        while place in self._pieces:
            pieces = self._pieces[place]
            high = pieces + _cutter(place + 1)
            high -= _cutter(place + 1)
            if high.any():
                pieces -= high
                self._at(place + 1)[...] += high
            place = min((other for other in self._pieces if other > place), default=place + 1)

    def _at(self, place: int) -> Array:
        if place not in self._pieces:
            self._pieces[place] = np.zeros(self.size)
        return self._pieces[place]


def _cut(values: Array) -> Iterator[tuple[int, Array]]:
    """Cut float64 numbers into pieces that add up to these numbers. Yield each place with its pieces, in an
    array that the next step overwrites."""
    largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
    assert largest < LARGEST
    if largest == 0:
        return
    place = -(-(math.frexp(largest)[1] + OFFSET) // WIDTH) - 1
    pieces, rest = np.empty_like(values), values
    for cuts in count(1):
        np.add(rest, _cutter(place), out=pieces)
        np.subtract(pieces, _cutter(place), out=pieces)
        yield place, pieces
        if cuts > 1 and (pieces == rest).all():  # 1 place is rarely enough for all pieces
            return
        rest = np.subtract(rest, pieces, out=None if cuts == 1 else rest)
        place -= 1


@cache
def _cutter(place: int) -> float:
    """Return a constant. Adding and subtracting the constant rounds to multiples of the place's power of
    two."""
    return math.ldexp(1.5, 52 + WIDTH * place - OFFSET)
