"""Places: the indices and the values of an element's inputs. This module depends on no kind of operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..plans.kinds import Length, first_key
from ..text.frozen import frozen
from ..text.printable import shown_token
from .formula import ElementAt, Formula, Over, PlaceAlong, Table, TermOf
from .traced_element import KnownTarget, RunValues

At = Sequence[int | Array]  # places along the axes, then places along the ranges
SomeAt = At | Mapping[int, Array]  # or places, by the number of the axis or range
MASKED = ("keys", "queries")


@frozen(slots=False, eq=False)
class ElementPlaces:
    """An element of a traced array, with its formula."""

    numbers: RunValues
    name: str
    index: tuple[int, ...]
    formula: Formula
    _ranges_by_term: dict[int, list[Array]] = field(default_factory=dict)  # id(term) -> places

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The element's places along the axes of the formula."""
        sizes = tuple(map(self.size, self.formula.sizes))
        flat = int(np.ravel_multi_index(self.index, self.numbers.shapes[self.name])) if self.index else 0
        return tuple(map(int, np.unravel_index(flat, sizes))) if sizes else ()

    @property
    def hidden(self) -> bool:
        """True if the element's query does not see the element's key."""
        if self.formula.hidden is None:
            return False
        query, key, window = self.formula.hidden
        return not sees(self.axes[query], self.axes[key], window)

    def counts(self, term: TermOf) -> bool:
        """Return True if the term exists for this element."""
        return term.same is not None or bool(self.has(term, self.axes))

    def ranges(self, term: TermOf) -> list[Array]:
        """Return the places along each range of a term."""
        if id(term) not in self._ranges_by_term:
            self._ranges_by_term[id(term)] = self._ranges(term)
        return self._ranges_by_term[id(term)]

    def _ranges(self, term: TermOf) -> list[Array]:
        """Return the visible places along each range, or all places if a masked product is not 0, for example
        because a hook replaced a masked value by NaN. A softmax never includes masked places."""
        if term.least is not None:
            intact = [own for own in self.numbers.known_targets if not own.p <= term.least]  # NaN included
            return [np.array([target.position for target in intact], np.intp)]
        seen = [self._seen(over) for over in term.over]
        which = next((n for n, over in enumerate(term.over) if over.of in MASKED), None)
        if which is None or self.formula.hidden is not None:
            return seen
        every = [*seen]
        every[which] = np.arange(self.size(term.over[which].size))
        at = self.at(every)
        values = [self.values(part, at) for part in term.factors if isinstance(part, ElementAt)]
        outside = ~np.isin(at[len(self.axes) + which], seen[which])
        products = reduce(np.multiply, values, np.ones(len(outside)))
        return every if np.any(products[outside] != 0) else seen

    def vanished(self, term: TermOf) -> list[KnownTarget]:
        """Return the targets whose probability is so small that float32 loses digits."""
        least = term.least
        return [] if least is None else [target for target in self.numbers.known_targets if target.p <= least]

    def _seen(self, over: Over) -> Array:
        every = np.arange(self.size(over.size))
        return every if self._depends(over) else every[self.counted(over, self.axes, every)]

    def at(self, ranges: list[Array], term: TermOf | None = None) -> At:
        """Return the places of all terms, as a flat array for each range. The last range varies fastest. If
        `term` is given, leave out places that its condition `same` excludes, and keys that the query in
        another range does not see."""
        grid = np.meshgrid(*ranges, indexing="ij") if len(ranges) > 1 else ranges
        flat = [places.reshape(-1) for places in grid]
        for n, over in enumerate(term.over if term else ()):
            if self._depends(over):
                seen = self.counted(over, (*self.axes, *flat), flat[n])
                flat = [places[seen] for places in flat]
        if term is not None and term.same is not None:
            same = self.has(term, (*self.axes, *flat))
            flat = [places[same] for places in flat]
        return (*self.axes, *flat)

    def _depends(self, over: Over) -> bool:
        """Return True if the places along a range depend on the place along another range."""
        return over.of in MASKED and over.axis >= len(self.axes)

    def values(self, part: ElementAt, at: At) -> Any:
        """Return the elements of an array at the places `at`: one element, or one for each term."""
        spots = self.spots(part, at)
        if any(isinstance(spot, PlaceAlong) and spot.table == "targets" for spot in part.index):
            probabilities = {target.position: target.p for target in self.numbers.known_targets}
            return np.array([probabilities[position] for position in np.atleast_1d(spots[0])])
        return self.numbers.at(part.name, spots, part.phase)

    def labels(self, term: TermOf, at: At) -> Callable[[int], str]:
        """Return a function that maps the number of a term to the term's token. If the sum does not run over
        positions or tokens, the token is ""."""
        for axis, over in enumerate(term.over, len(self.axes)):
            label, places = self._label_of(over), at[axis]
            if label is not None and not isinstance(places, int):
                return lambda i: label(int(places[i]))
        return lambda i: ""

    def _label_of(self, over: Over) -> Callable[[int], str] | None:
        """Return a function that maps a place along a range to a token. In the range "known", a position maps
        to the next token. In other ranges of positions, a position maps to the token at this position."""
        numbers, inputs = self.numbers, self.numbers.inputs
        if over.of in MASKED or (over.of == "all" and isinstance(over.size, Length)):
            return lambda position: shown_token(inputs.labels[position])
        if over.of == "known":
            return lambda position: shown_token(numbers.label(inputs.targets[position] or 0))
        return (lambda token: shown_token(numbers.label(token))) if over.of == "vocabulary" else None

    @cached_property
    def target_count(self) -> int:
        """The number of positions whose target is known."""
        return sum(target is not None for target in self.numbers.inputs.targets)

    @cached_property
    def _tables(self) -> dict[str, Array]:
        """The token and the target of each position. -1 means that the target is not known."""
        inputs = self.numbers.inputs
        targets = [-1 if target is None else target for target in inputs.targets]
        return {"tokens": np.array(inputs.tokens, np.intp), "targets": np.array(targets, np.intp)}

    def size(self, size: int) -> int:
        return len(self.numbers.inputs.tokens) if isinstance(size, Length) else size

    def spots(self, part: ElementAt, at: At) -> tuple[int | Array, ...]:
        """Return the index of a factor's element in its array."""
        return tuple(self.spot(spot, at) for spot in part.index)

    def spot(self, spot: int | PlaceAlong, at: SomeAt) -> int | Array:
        """Return the place of a factor's element along one axis of its array."""
        if isinstance(spot, int):
            return at[spot]
        place: int | Array = spot.offset
        for axis, stride in spot.axes:
            place = place + at[axis] * stride
        if not spot.table:
            return place
        by, stride = spot.by
        entry = self.entries(spot.table)[self.spot(by, at)]
        entry = entry if isinstance(entry, np.ndarray) else int(entry)
        return place + entry * stride

    def entries(self, table: Table) -> Array:
        """Return the whole numbers of a table."""
        if not isinstance(table, str):
            return np.array(table)
        if table not in self._tables:
            self._tables[table] = np.rint(self.numbers.array(table)).astype(np.intp).ravel()
        return self._tables[table]

    def counted(self, over: Over, at: SomeAt, places: Array) -> Array:
        """Return a mask of the places along a range that belong to the sum."""
        if over.of == "known":
            return np.asarray(self._tables["targets"][places] >= 0)
        if over.of == "tokens":
            return np.asarray(self._tables["tokens"][places] == at[over.axis])
        if over.of == "itself":
            return np.asarray(places == at[over.axis])
        if over.of not in MASKED:
            return np.ones(places.shape, bool)
        query, key = (at[over.axis], places) if over.of == "keys" else (places, at[over.axis])
        return sees(query, key, over.window)

    def has(self, term: TermOf, at: SomeAt) -> Array:
        """Return a mask of the places that meet the term's conditions `where`, `within` and `same`."""
        if term.same is not None:
            place, axis = term.same
            return np.equal(self.spot(place, at), at[axis])
        if term.within is not None:
            axis, first, end = term.within
            return np.asarray((at[axis] >= first) & (at[axis] < end))
        if not term.where:
            return np.asarray(True)
        position, *token = (at[axis] for axis in term.where)
        target = self._tables["targets"][position]
        return np.asarray(target == token[0] if token else target >= 0)


def sees(query: int | Array, key: int | Array, window: int | None) -> Array:
    """Return True, or a mask, where a query sees a key."""
    return np.asarray((key <= query) & (key >= first_key(query, window)))
