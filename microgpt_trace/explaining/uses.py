"""Where an element goes: of each array that is worked out from it, the element in which it weighs most. Knows
no kind.

A formula says which elements one is worked out from. Solved for the place of what it reads, it says which
ones read an element. A page's script looks for the same (uses.js).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np

from ..architecture.formulas.formula import Constant, ElementAt, Formula, TermOf
from ..architecture.formulas.places import ElementPlaces
from ..architecture.formulas.steps import Factor, Pass, Step, Term, Use, element_name
from ..architecture.formulas.traced_element import TracedElement, rows_with
from ..architecture.formulas.written_out import written_out
from ..architecture.operations.heads import KEY, QUERY
from ..architecture.operations.linear import formula_of_parts
from ..architecture.operations.plan_formulas import Formulas
from ..architecture.operations.prediction import other_of
from ..architecture.operations.softmax import window_of
from ..architecture.plans.kinds import Probabilities
from ..arrays.stats import Array

Places = dict[int, Array]  # by axis or range, [n] each


def uses_of(at: TracedElement) -> list[Use]:
    """What reads an element of a forward event or of a parameter, in order of computation."""
    plan, formulas = at.numbers.plan, Formulas(at.numbers.plan, at.numbers.replaced)
    if at.name not in plan:
        rows = rows_with(plan, at.name)
    elif isinstance(at.row.kind, Probabilities):
        rows = (other_of(plan, at.row),)
    else:
        rows = tuple(plan[name] for name in plan.readers[at.name])
    found = []
    for row in rows:
        formula = formula_of_parts(row, formulas) if at.name in row.parts else formulas.forward(row.name)
        found.append(_ReadingArray(at, "forward", row.name, formula, row.expr).use())
    return [use for use in found if use is not None]


def gradient_uses(at: TracedElement) -> list[Use]:
    """The gradients that are worked out from an element's: of what its event had read, and of parameters."""
    plan, formulas = at.numbers.plan, Formulas(at.numbers.plan, at.numbers.replaced)
    if at.name not in plan:
        return []
    row = at.row
    if (at.name in plan.sums_of or isinstance(row.kind, Probabilities)) and not formulas.is_touched(at.name):
        return []  # the sum's gradient stands for those of its parts, the loss's for that of probabilities
    found = []
    for name in dict.fromkeys((*row.parts, *row.inputs, *row.kind.names)):
        if (formula := formulas.part_from(row, name)) is not None:
            found.append(_ReadingArray(at, "backward", name, formula, f"back through {row.expr}").use())
    return [use for use in found if use is not None]


@dataclass(frozen=True, eq=False)
class _ReadingArray:
    """An array, or its gradient, whose formula may read an element; `words` for what is done with the element
    where that is more than to add it."""

    at: TracedElement
    phase: Pass
    name: str
    formula: Formula
    words: str

    def use(self) -> Use | None:
        """The result in which the element weighs most; None where it is read in none."""
        readings = [(step, term, at, self._results(at)) for step, term, at in self._readings()]
        results = np.concatenate([own for *_, own in readings] or [np.zeros(0, int)])
        count = len(np.unique(results))
        if not count:
            return None
        index, adds, words = self.at.index, None, self.words
        if count == 1 or len({step for step, *_ in readings}) == 1:
            best = 0
            if count > 1:
                best = _strongest(np.concatenate([self._weights(term, at) for _, term, at, _ in readings]))
            index = self._index(results[best])
            adds, words = self._added(index)
        value = self.at.numbers.known(self.name, index, self.phase)
        return Use(element_name(self.name, index), self.phase, value, adds, count, words)

    @cached_property
    def _any(self) -> ElementPlaces:
        """For what does not depend on which result it is."""
        return ElementPlaces(self.at.numbers, self.name, (), self.formula)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(map(self._any.size, self.formula.sizes))

    def _results(self, at: Places) -> Array:
        """The results at these places, by their numbers in a flat array."""
        axes = [at[axis] for axis in range(len(self._sizes))]
        return np.ravel_multi_index(axes, self._sizes) if axes else np.zeros(len(at[0]), int)

    def _index(self, result: int) -> tuple[int, ...]:
        return tuple(map(int, np.unravel_index(result, self.at.numbers.shapes[self.name])))

    def _read_in(self, term: TermOf) -> list[ElementAt]:
        """The factors of a term that are elements of the same array."""
        of, elements = (self.at.name, self.phase), (own for own in term.factors if isinstance(own, ElementAt))
        return [own for own in elements if (own.name, own.phase) == of]

    def _readings(self) -> Iterator[tuple[int, TermOf, Places]]:
        """The terms that read the element: the step of each, and the places along its axes and ranges."""
        for n, step in enumerate(self.formula.steps):
            for term in step.terms:
                for part in self._read_in(term):
                    yield n, term, self._places(term, part)

    def _places(self, term: TermOf, part: ElementAt) -> Places:
        """Where a factor of a term is the element."""
        places, axes = self._any, len(self._sizes)
        sizes = dict(enumerate((*self._sizes, *(places.size(own.size) for own in term.over))))
        at: Places = {}
        for spot, wanted in zip(part.index, self.at.index, strict=True):
            at = _crossed(at, sizes, {spot} if isinstance(spot, int) else spot.along)
            at = _where(at, np.equal(places.spot(spot, at), wanted))
        at = _crossed(at, sizes, sizes)
        for n, over in enumerate(term.over, axes):
            at = _where(at, places.counted(over, at, at[n]))
        plan = self.at.numbers.plan
        if self.name in plan and plan[self.name].kind.causal:
            at = _where(at, places.sees(at[QUERY] - at[KEY], window_of(plan, plan[self.name])))
        return _where(at, places.has(term, at))

    def _weights(self, term: TermOf, at: Places) -> Array:
        """How much the element weighs in each result, but for what the term has alike in all of them."""
        parts = [part for part in term.factors if not isinstance(part, Constant)]
        if not all(isinstance(part, ElementAt) and part.less is None for part in parts):
            return np.array([self._added(self._index(result))[0] or 0.0 for result in self._results(at)])
        places = [int(own[0]) if np.ptp(own) == 0 else own for _, own in sorted(at.items())]
        values = [self._any.values(part, places) for part in parts]  # type: ignore[arg-type]
        return np.broadcast_to(reduce(np.multiply, values), len(at[0]))

    def _added(self, index: tuple[int, ...]) -> tuple[float | None, str]:
        """What the element adds to a result, and times what; None where it does more than that. Terms beside
        its own are left out: a run may not have what they read."""
        *before, last = self.formula.steps
        read = tuple(filter(self._read_in, last.terms)) or last.terms
        formula = replace(self.formula, steps=(*before, replace(last, terms=read)))
        places = ElementPlaces(self.at.numbers, self.name, index, formula)
        own, (steps, _) = str(self.at.element), written_out(places, "", sys.maxsize)
        found = [(step, term) for step in steps for term in step.terms if self._is_in(term)]
        if len(found) != 1:
            return None, self.words
        ((step, term),) = found
        scales = [] if step is steps[-1] else _scales(step, steps[-1])
        if scales is None or (term.function and step.count == 1):
            return None, self.words
        factors = [*(factor for factor in term.factors if factor.name != own), *scales]
        times = "times " + " × ".join(factor.name for factor in factors) if factors else "passed on as it is"
        adds = term.value * math.prod(factor.value for factor in scales)
        return adds, f"{term.function} {times}".strip()

    def _is_in(self, term: Term) -> bool:
        own = str(self.at.element), self.phase
        return any((factor.name, factor.kind) == own for factor in term.factors)


def _scales(step: Step, last: Step) -> list[Factor] | None:
    """What the last step multiplies the result of a step by; None where it does something else with it."""
    factors = last.terms[0].factors
    others = [factor for factor in factors if factor.name != step.label]
    return others if last.count == 1 and len(others) < len(factors) and not last.terms[0].function else None


def _crossed(at: Places, sizes: Mapping[int, int], axes: Iterable[int]) -> Places:
    """These places with each place along further axes."""
    for axis in axes:
        if axis not in at:
            count = len(next(iter(at.values()), [0]))
            at = {known: np.repeat(own, sizes[axis]) for known, own in at.items()}
            at[axis] = np.tile(np.arange(sizes[axis]), count)
    return at


def _where(at: Places, chosen: Array) -> Places:
    return {axis: own[np.broadcast_to(chosen, own.shape)] for axis, own in at.items()}


def _strongest(weights: Array) -> int:
    """Where the largest magnitude is, NaN aside."""
    return int(np.argmax(np.where(np.isnan(weights), -1.0, np.abs(weights))))
