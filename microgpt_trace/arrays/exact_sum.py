"""ExactSum: sums of many float64 numbers without any rounding, one for each channel. Knows no model.

Sums of floating-point numbers usually depend on the order. These sums do not, so parts of a corpus can be
summed anywhere, in any order, and merged. A number is cut at fixed powers of two into pieces of WIDTH bits,
and the pieces of each place are summed. All pieces of a place are multiples of one power of two, and their
sum stays below 2^53 times that power, so float64 has it exactly. Rump, Ogita and Oishi, "Accurate
floating-point summation part I" (2008), cut numbers by adding and subtracting a constant; Demmel and Nguyen,
"Parallel reproducible summation" (2015), choose places that do not depend on the numbers.
"""

from __future__ import annotations

import math

import numpy as np

from ..text.brief import one_line
from .stats import Array

WIDTH = 42  # bits of a piece
OFFSET = 34  # place 0 has multiples of 2^-34 up to 2^8; with the place below it, it covers activations
MOST = 1 << 10  # numbers that are summed between two carries: 2^10 * 2^42 < 2^53
LARGEST = 2.0**900  # numbers must be smaller, so that cutting does not overflow
BLOCK = 1 << 14  # numbers that are cut at a time, in the cache


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
            part = slice(start, start + MOST)
            for place, pieces in _cut(values[part].astype(np.float64)):
                self._at(place)[...] += np.bincount(channels[part], pieces, self.size)
            self._count(len(values[part]))

    def merge(self, other: ExactSum) -> None:
        """Add the sums of another ExactSum."""
        other._carry()  # its pieces are then below 2^WIDTH, like those of one number
        for place, pieces in other._pieces.items():
            self._at(place)[...] += pieces
        self._count(1)

    def values(self) -> Array:
        """Return the sums, each rounded once to the nearest float64: [C]"""
        return self._rounded([])

    def terms(self) -> Array:
        """Return numbers whose exact sum these sums are: the rounded sums, their errors, and so on: [k, C]

        Equal sums have equal terms, whatever the order of the additions was.
        """
        terms = [self.values()]
        while (rest := self._rounded(terms)).any():
            terms.append(rest)
        return np.array(terms)

    def _rounded(self, subtracted: list[Array]) -> Array:
        """Return the sums less some numbers, by math.fsum, which rounds once."""
        pieces = [*self._pieces.values(), *(-numbers for numbers in subtracted)]
        if not pieces:
            return np.zeros(self.size)
        sums = map(math.fsum, zip(*(numbers.tolist() for numbers in pieces), strict=True))
        return np.fromiter(sums, np.float64, self.size) + 0.0  # turns -0.0 into 0.0

    def _count(self, added: int) -> None:
        """Carry before a sum of pieces can exceed 2^53."""
        self._added += added
        if self._added > MOST:
            self._carry()
            self._added = added

    def _carry(self) -> None:
        """Move the part of each place that exceeds its WIDTH bits to the next place."""
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


def _cut(values: Array) -> list[tuple[int, Array]]:
    """Cut numbers into pieces of a few places, whose sums are the numbers. Overwrites the numbers."""
    largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
    assert largest < LARGEST
    cuts: list[tuple[int, Array]] = []
    if largest == 0:
        return cuts
    place = -(-(math.frexp(largest)[1] + OFFSET) // WIDTH) - 1
    while not cuts or values.any():
        for _ in range(1 if cuts else 2):  # a single place is rarely enough
            pieces = values + _cutter(place)
            pieces -= _cutter(place)
            values -= pieces
            cuts.append((place, pieces))
            place -= 1
    return cuts


def _cutter(place: int) -> float:
    """Return a constant. Adding and subtracting it rounds a number to a multiple of the place's power of
    two."""
    return math.ldexp(1.5, 52 + WIDTH * place - OFFSET)
