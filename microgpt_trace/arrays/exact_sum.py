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
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..text.brief import one_line
from .stats import Array

WIDTH = 42  # bits of a piece
OFFSET = 34  # place 0 has multiples of 2^-34 up to 2^8: with the one below what activations come to
MOST = 1 << 10  # numbers that are added up between two carries: 2^10 * 2^42 < 2^53
MOST_AT = 1 << 14  # the same of those that are added to channels here and there
MANY = 64  # rows that are not kept until there are enough
LARGEST = 2.0**900  # of a number; cutting it must not overflow
PENDING = 1 << 13  # numbers that wait until it is worth the calls to cut them
BLOCK = 1 << 14  # numbers cut at a time, in the cache


class ExactSum:
    """The exact sums of numbers, for each of `size` channels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: dict[int, Array] = {}  # by place
        self._added = 0  # since the last carry
        self._pending: list[Array] = []
        self._waiting = 0

    def __repr__(self) -> str:
        return one_line(self, size=self.size)

    def __getstate__(self) -> dict[str, Any]:
        """Pieces alone, which are smaller than many numbers that wait to be cut."""
        self._settle()
        return self.__dict__

    def add(self, values: Array) -> None:
        """Add rows of float64 numbers, [n, C], below LARGEST in magnitude."""
        for block in self._blocks(values):
            few = _few_rows(block) if len(block) >= MANY else block
            self._pending.append(few)
            self._waiting += few.size
        if self._waiting >= PENDING:
            self._settle()

    def add_at(self, channels: Array, values: Array) -> None:
        """Add numbers [n] to the channels [n], which may repeat."""
        for start in range(0, len(values), MOST_AT):
            own = slice(start, start + MOST_AT)
            pieces = _pieces(values[own].astype(np.float64), MOST_AT)
            self.add(np.array([np.bincount(channels[own], piece, self.size) for piece in pieces]))

    def merge(self, other: ExactSum) -> None:
        """Add what another one has summed."""
        other._settle()
        other._carry()  # to pieces that are below 2^WIDTH again, as those of one number
        self._settle()
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
        self._settle()
        pieces = [*self._pieces.values(), *(-own for own in less)]
        if not pieces:
            return np.zeros(self.size)
        sums = map(math.fsum, zip(*(own.tolist() for own in pieces), strict=True))
        return np.fromiter(sums, np.float64, self.size) + 0.0  # no -0.0

    def _settle(self) -> None:
        """Cut what is pending."""
        pending, self._pending, self._waiting = self._pending, [], 0
        if not pending:
            return
        values = pending[0] if len(pending) == 1 else np.concatenate(pending)
        for block in self._blocks(values):
            sums = _few_rows(block)
            for place, pieces in _cut(sums):
                self._at(place)[...] += pieces.sum(axis=0)
            self._count(len(sums))

    def _blocks(self, values: Array) -> Iterator[Array]:
        """So many rows as are cut at a time."""
        rows = max(1, min(MOST, BLOCK // max(1, self.size)))
        return (values[start : start + rows] for start in range(0, len(values), rows))

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


def _few_rows(values: Array) -> Array:
    """A few rows with the exact sums of at most MOST rows: [n, C] -> [k, C]"""
    ones = np.ones(len(values))
    return np.array([ones @ piece for piece in _pieces(values, MOST)])  # in whatever order


def _pieces(values: Array, most: int) -> Iterator[Array]:
    """Numbers as pieces that add up to them, of each of which float64 adds up `most` without rounding.

    What all numbers have in common of leading bits is cut off, so often that the rest has no bits that a sum
    of so many could lose: of 1,024 once, where the least of them is not below 2^-33 of the largest.
    """
    largest, least = max(float(values.max()), -float(values.min())), _least_above_0(values)
    top, last = math.frexp(largest)[1], max(math.frexp(least)[1] - 53, -1074)  # bits that there are
    held = 53 - (most - 1).bit_length()
    while largest and top - last > held:
        cutter = math.ldexp(1.5, 52 + top - held + 1)
        piece = values + cutter
        piece -= cutter
        values = values - piece
        yield piece
        top -= held
    yield values


def _least_above_0(values: Array) -> float:
    """The least magnitude that is not 0; inf where all are 0."""
    sizes = np.abs(values)
    return float(sizes.min(initial=np.inf, where=sizes > 0))


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
