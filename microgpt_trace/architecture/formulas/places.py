"""Where numbers stand that one element is worked out from, or all at once. Knows no values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...arrays.stats import Array
from ..plans.kinds import Length
from .formula import ElementAt, Over, PlaceAlong, TermOf

At = Sequence[int | Array]  # places along axes, behind them along ranges: arrays are broadcast together
SomeAt = At | Mapping[int, Array]  # some of them, by number
MASKED = ("keys", "queries")


@dataclass(frozen=True, eq=False)
class ReadTokens:
    """The tokens that were read, and what follows each as far as that is known: what places depend on."""

    tokens: Sequence[int]
    targets: Sequence[int | None]

    @cached_property
    def known(self) -> int:
        """The number of positions whose target is known."""
        return sum(target is not None for target in self.targets)

    @cached_property
    def _tables(self) -> dict[str, Array]:
        """By position; -1 where a target is not known."""
        targets = [-1 if target is None else target for target in self.targets]
        return {"tokens": np.array(self.tokens, np.intp), "targets": np.array(targets, np.intp)}

    def size(self, size: int) -> int:
        return len(self.tokens) if isinstance(size, Length) else size

    def index(self, part: ElementAt, at: At) -> tuple[int | Array, ...]:
        """Of an element, in its own array."""
        return tuple(self.spot(own, at) for own in part.index)

    def spot(self, own: int | PlaceAlong, at: SomeAt) -> int | Array:
        """A place along one axis of its array."""
        if isinstance(own, int):
            return at[own]
        place: int | Array = own.offset
        for axis, stride in own.axes:
            place = place + at[axis] * stride
        if not own.table:
            return place
        axis, stride = own.by
        table = self._tables[own.table] if isinstance(own.table, str) else np.array(own.table)
        found = table[at[axis]]
        return place + (found if isinstance(found, np.ndarray) else int(found)) * stride

    def counted(self, own: Over, at: SomeAt, places: Array) -> Array:
        """Which places along a range count."""
        if own.of == "known":
            return np.asarray(self._tables["targets"][places] >= 0)
        if own.of == "tokens":
            return np.asarray(self._tables["tokens"][places] == at[own.axis])
        if own.of == "itself":
            return np.asarray(places == at[own.axis])
        if own.of not in MASKED:
            return np.ones(places.shape, bool)
        back = at[own.axis] - places
        return self.sees(back if own.of == "keys" else -back, own.window)

    def sees(self, back: int | Array, window: int | None) -> Array:
        """Whether a query sees a key that lies so far back."""
        return np.asarray((back >= 0) & (back < (window or len(self.tokens))))

    def has(self, term: TermOf, at: SomeAt) -> Array:
        """Where there is such a term: everywhere, at known targets, or at the tokens that are targets."""
        if not term.where:
            return np.asarray(True)
        position, *token = (at[axis] for axis in term.where)
        target = self._tables["targets"][position]
        return np.asarray(target == token[0] if token else target >= 0)
