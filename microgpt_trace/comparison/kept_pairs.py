"""Keeps the values of both sides of the events that tell most, in a room of its own, while two runs are
compared. Knows no page.

Until the runs part the latest events stay, which the first that parts may have read; from then on that one,
what it read, and those farthest from their bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.stats import Array
from ..running.event_stream import Piece
from .differences import EventDifference

Judge = Callable[[str], EventDifference]  # the difference of an event as far as it was compared


@dataclass(frozen=True, eq=False, repr=False)
class KeptPair:
    """What two sides have of an event at some positions, and of some heads where it has any: [n, W] or
    [H, n, S]; of a number alone []"""

    a: Array
    b: Array
    positions: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return self.a.size + self.b.size

    def narrowed(self, difference: EventDifference) -> KeptPair:
        """The position, or the head, at which the sides part or lie farthest apart."""
        if self.heads is not None and difference.head in self.heads:
            at = self.heads.index(difference.head)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], self.positions, (difference.head,))
        if self.heads is None and difference.position in self.positions:
            at = self.positions.index(difference.position)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], (difference.position,))
        return self

    def joined(self, other: KeptPair) -> KeptPair:
        """This and another part of the same event; the other one where it has other heads."""
        if other.heads != self.heads:
            return other
        a, b = (np.concatenate(both, axis=-2) for both in ((self.a, other.a), (self.b, other.b)))
        return KeptPair(a, b, (*self.positions, *other.positions), self.heads)


class PairKeeper:
    """Takes what two sides have of each event, as it is compared, and keeps so many numbers at most.
    `inputs_of` tells what an event reads."""

    def __init__(self, room: int, inputs_of: Callable[[str], Sequence[str]]) -> None:
        self.pairs: dict[str, KeptPair] = {}
        self._room, self.inputs_of = room, inputs_of
        self._excess: dict[str, float] = {}
        self._first: str | None = None
        self._order: dict[str, int] = {}

    def __call__(self, pieces: Sequence[Piece | None], judge: Judge) -> None:
        """Take what was compared of an event."""
        a, b = pieces[:2] if len(pieces) > 1 else (None, None)
        if a is None or b is None:
            return  # of one side there are statistics alone, or nothing was asked for
        common = [position for position in a.positions if position in b.positions]
        if a.value.ndim and not common:
            return
        difference = judge(a.name)
        self._order.setdefault(a.name, len(self._order))
        self._excess[a.name] = difference.excess if not math.isnan(difference.excess) else math.inf
        if self._first is None and not difference.holds:
            self._first = a.name
        self._keep(a.name, _pair(a, b, common), difference)

    def _keep(self, name: str, pair: KeptPair, difference: EventDifference) -> None:
        known = self.pairs.get(name)
        whole = pair if known is None else known.joined(pair)
        if whole.size > self._room // 2:
            apart = pair.narrowed(difference)
            whole = apart if known is None or apart.size < pair.size else known
        if whole.size <= self._room // 2:
            self.pairs[name] = whole
        while sum(pair.size for pair in self.pairs.values()) > self._room:
            del self.pairs[min(self.pairs, key=self._worth)]

    def _worth(self, name: str) -> tuple[bool, float]:
        if self._first is None:
            return False, self._order[name]
        return name in (self._first, *self.inputs_of(self._first)), self._excess[name]


def _pair(a: Piece, b: Piece, common: Sequence[int]) -> KeptPair:
    first, second = (np.array(piece.at(common) if piece.value.ndim else piece.value) for piece in (a, b))
    heads = tuple(range(len(first))) if first.ndim == 3 else None
    return KeptPair(first, second, tuple(common), heads)
