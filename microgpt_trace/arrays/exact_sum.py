"""ExactSum: sums of many float64 numbers without any rounding, one for each channel. Knows no model.

Sums of floating-point numbers change with their order; these do not, so that parts of a corpus may be summed
anywhere, in any order, and put together. A number is cut at fixed powers of two into pieces of WIDTH bits,
and pieces of one place are added up: all of them are multiples of one power of two and their sums stay below
2^53 of it, so that float64 holds them exactly. Cutting by adding and subtracting a constant is that of
Rump, Ogita and Oishi, "Accurate floating-point summation part I" (2008), with places that depend on no
number, as in Demmel and Nguyen, "Parallel reproducible summation" (2015).

`added_up` sums float32 numbers that are alike enough for float64 to hold their sums without rounding.
"""

from __future__ import annotations

import math

import numpy as np

from ..text.brief import one_line
from .stats import Array

WIDTH = 42  # bits of a piece
OFFSET = 34  # place 0 has multiples of 2^-34 up to 2^8: with the one below what activations come to
MOST = 1 << 10  # numbers that are added up between two carries: 2^10 * 2^42 < 2^53
LARGEST = 2.0**900  # of a number; cutting it must not overflow
BLOCK = 1 << 14  # numbers cut at a time, in the cache


class ExactSum:
    """The exact sums of numbers, for each of `size` channels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, Array] = {}  # by place
        self._added = 0  # since the last carry

    def __repr__(self) -> str:
        return one_line(self, size=self.size)

    def add(self, values: Array) -> None:
        """Add rows of float64 numbers, [n, C], below LARGEST in magnitude."""
        rows = max(1, min(MOST, BLOCK // max(1, self.size)))
        for start in range(0, len(values), rows):
            block = values[start : start + rows].astype(np.float64)
            for place, pieces in _cut(block):
                self._at(place)[...] += pieces.sum(axis=0)
            self._count(len(block))

    def add_at(self, channels: Array, values: Array) -> None:
        """Add numbers [n] to the channels [n], which may repeat."""
        for start in range(0, len(values), MOST):
            own = slice(start, start + MOST)
            for place, pieces in _cut(values[own].astype(np.float64)):
                self._at(place)[...] += np.bincount(channels[own], pieces, self.size)
            self._count(len(values[own]))

    def merge(self, other: ExactSum) -> None:
        """Add what another one has summed."""
        other._carry()  # to pieces that are below 2^WIDTH again, as those of one number
        for place, pieces in other._pieces.items():
            self._at(place)[...] += pieces
        self._count(1)

    def values(self) -> Array:
        """The sums, each rounded once, to the nearest float64: [C]"""
        return self._rounded([])

    def terms(self) -> Array:
        """Numbers whose exact sums these are: the sums as rounded, what these lack, and so on: [k, C]

        The same for the same sums, however they came about.
        """
        found = [self.values()]
        while (rest := self._rounded(found)).any():
            found.append(rest)
        return np.array(found)

    def _rounded(self, less: list[Array]) -> Array:
        """The sums less some numbers, by math.fsum, which rounds once."""
        pieces = [*self._pieces.values(), *(-own for own in less)]
        if not pieces:
            return np.zeros(self.size)
        sums = map(math.fsum, zip(*(own.tolist() for own in pieces), strict=True))
        return np.fromiter(sums, np.float64, self.size) + 0.0  # no -0.0

    def _count(self, added: int) -> None:
        """Carry before a sum of pieces could leave 2^53."""
        self._added += added
        if self._added > MOST:
            self._carry()
            self._added = added

    def _carry(self) -> None:
        """Put what a place has beyond its WIDTH bits into the next one."""
        place = min(self._pieces, default=0)
        while place in self._pieces:
            pieces = self._pieces[place]
            high = pieces + _cutter(place + 1)
            high -= _cutter(place + 1)
            if high.any():
                pieces -= high
                self._at(place + 1)[...] += high
            place = min((known for known in self._pieces if known > place), default=place + 1)

    def _at(self, place: int) -> Array:
        if place not in self._pieces:
            self._pieces[place] = np.zeros(self.size)
        return self._pieces[place]


def _cut(values: Array) -> list[tuple[int, Array]]:
    """Numbers as pieces of a few places, which add up to them. Overwrites the numbers."""
    largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
    assert largest < LARGEST
    found: list[tuple[int, Array]] = []
    if largest == 0:
        return found
    place = -(-(math.frexp(largest)[1] + OFFSET) // WIDTH) - 1
    while not found or values.any():
        for _ in range(1 if found else 2):  # one place alone is rare
            pieces = values + _cutter(place)
            pieces -= _cutter(place)
            values -= pieces
            found.append((place, pieces))
            place -= 1
    return found


def _cutter(place: int) -> float:
    """What rounds a number to a multiple of the place's power of two when it is added and subtracted."""
    return math.ldexp(1.5, 52 + WIDTH * place - OFFSET)
