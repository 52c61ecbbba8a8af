"""What elements are worked out from: where that stands in arrays, and for one element of a run the numbers.
Knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...text.printable import shown_token
from ..plans.kinds import Length
from .formula import ElementAt, Formula, Over, PlaceAlong, TermOf
from .traced_element import KnownTarget, RunValues

At = Sequence[int | Array]  # places along axes, behind them along ranges: arrays are broadcast together
SomeAt = At | Mapping[int, Array]  # some of them, by number
MASKED = ("keys", "queries")


@dataclass(frozen=True, eq=False)
class ElementPlaces:
    """An element of an array of a run, by its formula."""

    numbers: RunValues
    name: str
    index: tuple[int, ...]
    formula: Formula
    _known_ranges: dict[int, list[Array]] = field(default_factory=dict)  # of terms, by their identity

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The places along the formula's axes."""
        sizes = tuple(map(self.size, self.formula.sizes))
        flat = int(np.ravel_multi_index(self.index, self.numbers.shapes[self.name])) if self.index else 0
        return tuple(map(int, np.unravel_index(flat, sizes))) if sizes else ()

    @property
    def hidden(self) -> bool:
        """Whether the element is of a query that does not see its key."""
        if self.formula.hidden is None:
            return False
        query, key, window = self.formula.hidden
        return not self.sees(self.axes[query] - self.axes[key], window)

    def counts(self, term: TermOf) -> bool:
        """Whether there is such a term."""
        return bool(self.has(term, self.axes))

    def ranges(self, term: TermOf) -> list[Array]:
        """The places along each range of a term."""
        if id(term) not in self._known_ranges:
            self._known_ranges[id(term)] = self._ranges(term)
        return self._known_ranges[id(term)]

    def _ranges(self, term: TermOf) -> list[Array]:
        """Where a hook put something into what a mask leaves empty (or zero times NaN is NaN), that counts
        too, unless the mask is this formula's own."""
        if term.least is not None:
            return [np.array([own.position for own in self._known(term.least)], np.intp)]
        seen = [self._seen(own) for own in term.over]
        which = next((n for n, own in enumerate(term.over) if own.of in MASKED), None)
        if which is None or self.formula.hidden is not None:
            return seen
        whole = [*seen]
        whole[which] = np.arange(self.size(term.over[which].size))
        at = self.at(whole)
        values = [self.values(part, at) for part in term.factors if isinstance(part, ElementAt)]
        outside = ~np.isin(at[len(self.axes) + which], seen[which])
        products = reduce(np.multiply, values, np.ones(len(outside)))
        return whole if np.any(products[outside] != 0) else seen

    def vanished(self, term: TermOf) -> list[KnownTarget]:
        """The targets whose probability has lost its digits."""
        least = term.least
        return [] if least is None else [own for own in self.numbers.known_targets if own.p <= least]

    def _known(self, least: float) -> list[KnownTarget]:
        return [own for own in self.numbers.known_targets if not own.p <= least]  # or NaN

    def _seen(self, own: Over) -> Array:
        every = np.arange(self.size(own.size))
        return every[self.counted(own, self.axes, every)]

    def at(self, ranges: list[Array]) -> At:
        """The places of all terms, along ranges in flat arrays of one length, the last running fastest."""
        grid = np.meshgrid(*ranges, indexing="ij") if len(ranges) > 1 else ranges
        return (*self.axes, *(own.reshape(-1) for own in grid))

    def values(self, part: ElementAt, at: At) -> Any:
        """What stands there, of all terms at once or of each."""
        spots = self.spots(part, at)
        if any(isinstance(own, PlaceAlong) and own.table == "targets" for own in part.index):
            chances = {own.position: own.p for own in self.numbers.known_targets}
            return np.array([chances[position] for position in np.atleast_1d(spots[0])])
        return self.numbers.at(part.name, spots, part.phase)

    def labels(self, term: TermOf, at: At) -> Callable[[int], str]:
        """The token that each term of a sum over positions or tokens stands for."""
        for axis, own in enumerate(term.over, len(self.axes)):
            of, places = self._label_of(own), at[axis]
            if of is not None and not isinstance(places, int):
                return lambda i: of(int(places[i]))
        return lambda i: ""

    def _label_of(self, own: Over) -> Callable[[int], str] | None:
        """The token that a place along a range stands for: which is read there, or follows, or is it."""
        numbers, inputs = self.numbers, self.numbers.inputs
        if own.of in MASKED or (own.of == "all" and isinstance(own.size, Length)):
            return lambda position: shown_token(inputs.labels[position])
        if own.of == "known":
            return lambda position: shown_token(numbers.label(inputs.targets[position] or 0))
        return (lambda token: shown_token(numbers.label(token))) if own.of == "vocabulary" else None

    @cached_property
    def known(self) -> int:
        """The number of positions whose target is known."""
        return sum(target is not None for target in self.numbers.inputs.targets)

    @cached_property
    def _tables(self) -> dict[str, Array]:
        """By position; -1 where a target is not known."""
        inputs = self.numbers.inputs
        targets = [-1 if target is None else target for target in inputs.targets]
        return {"tokens": np.array(inputs.tokens, np.intp), "targets": np.array(targets, np.intp)}

    def size(self, size: int) -> int:
        return len(self.numbers.inputs.tokens) if isinstance(size, Length) else size

    def spots(self, part: ElementAt, at: At) -> tuple[int | Array, ...]:
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
        return np.asarray((back >= 0) & (back < (window or len(self.numbers.inputs.tokens))))

    def has(self, term: TermOf, at: SomeAt) -> Array:
        """Where there is such a term: everywhere, at known targets, or at the tokens that are targets."""
        if not term.where:
            return np.asarray(True)
        position, *token = (at[axis] for axis in term.where)
        target = self._tables["targets"][position]
        return np.asarray(target == token[0] if token else target >= 0)
