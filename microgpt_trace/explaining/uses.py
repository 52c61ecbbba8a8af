"""Uses of an element: in each array that reads the element, the largest contribution of the element.

A formula states the places of an element's inputs. Solved for a given input, the formula states the places of
the elements that read the input. Choices of experts, probabilities, sums of parts and masked scores need code
of their own. The script uses.js of an HTML page computes the same places.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, reduce

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, TermOf
from ..formulas.places import ElementPlaces, sees
from ..formulas.steps import Factor, Pass, Step, Term, Use, element_name
from ..formulas.traced_element import TracedElement, rows_with
from ..formulas.written_out import written_out
from ..operations.heads import KEY, QUERY
from ..operations.linear import formula_of_parts
from ..operations.plan_formulas import Formulas
from ..operations.prediction import other_of
from ..operations.softmax import window_of
from ..plans.kinds import Choice, Probabilities
from ..plans.plan import Operation
from ..text.frozen import frozen

Places = dict[int, Array]  # number of an axis or range -> [n]


def uses_of(at: TracedElement) -> list[Use]:
    """Return the uses of an element of a forward event or a parameter, in order of computation."""
    plan, formulas = at.numbers.plan, Formulas.of(at.numbers)
    if at.name not in plan:
        rows = rows_with(plan, at.name)
    elif isinstance(at.row.kind, Probabilities):
        rows = (other_of(plan, at.row),)
    else:
        rows = tuple(plan[name] for name in plan.readers[at.name])
    if at.name in plan and isinstance(at.row.kind, Choice):
        return [_use_of_choice(at, row) for row in rows]
    uses = []
    for row in rows:
        formula = formula_of_parts(row, formulas) if at.name in row.parts else formulas.forward(row.name)
        uses += _ReadingArray(at, "forward", row.name, formula, row.expr).uses()
    return uses


def _use_of_choice(at: TracedElement, row: Operation) -> Use:
    """Return the first element that an expert computes. The number of the expert is no factor of a term."""
    (position, place), width = at.index, at.numbers.shapes[row.name][1] // at.numbers.shapes[at.name][1]
    index = position, place * width
    value = at.numbers.value_if_kept(row.name, index)
    words = f"selects the expert: {row.expr}"
    return Use(element_name(row.name, index), "forward", value, None, width, words)


def gradient_uses(at: TracedElement) -> list[Use]:
    """Return the uses of an element's gradient in the gradients of its row's inputs and parameters."""
    plan, formulas = at.numbers.plan, Formulas.of(at.numbers)
    if at.name not in plan:
        return []
    row = at.row
    if (at.name in plan.sums_of or isinstance(row.kind, Probabilities)) and not formulas.is_touched(at.name):
        return []  # other gradients read the gradient of the sum or loss instead
    uses = []
    for name in dict.fromkeys((*row.parts, *row.inputs, *row.kind.names)):
        if (formula := formulas.part_from(row, name)) is not None:
            uses += _ReadingArray(at, "backward", name, formula, f"back through {row.expr}").uses()
    return uses


@frozen(slots=False, eq=False)
class _ReadingArray:
    """An array or gradient whose formula may read the explained element. `words` describe the operation."""

    at: TracedElement
    phase: Pass
    name: str
    formula: Formula
    words: str

    def uses(self) -> list[Use]:
        """Return the use to which the explained element adds most, or [] if the array does not read it."""
        readings = [(step, term, at, self._results(at)) for step, term, at in self._readings()]
        results = np.concatenate([numbers for *_, numbers in readings] or [np.zeros(0, int)])
        count = len(np.unique(results))
        if not count:
            return []
        adds, words, shapes = None, self.words, self.at.numbers.shapes
        alike = shapes[self.name] == shapes[self.at.name]
        index = self.at.index if alike else self._index(results[-1])
        if count == 1 or len({step for step, *_ in readings}) == 1:
            best = 0
            if count > 1:
                weights = np.concatenate([self._weights(t, at) for _, t, at, found in readings if len(found)])
                best = int(np.argmax(np.where(np.isnan(weights), -1.0, np.abs(weights))))
            index = self._index(results[best])
            adds, words = self._added(index)
        value = self.at.numbers.value_if_kept(self.name, index, self.phase)
        return [Use(element_name(self.name, index), self.phase, value, adds, count, words)]

    @cached_property
    def _any(self) -> ElementPlaces:
        """The places of the array, for methods that do not depend on an element of the array."""
        return ElementPlaces(self.at.numbers, self.name, (), self.formula)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(map(self._any.size, self.formula.sizes))

    def _results(self, at: Places) -> Array:
        """Return the flat indices of the array's elements with these places."""
        axes = [at[axis] for axis in range(len(self._sizes))]
        return np.ravel_multi_index(axes, self._sizes) if axes else np.zeros(len(at[0]), int)

    def _index(self, result: int) -> tuple[int, ...]:
        return tuple(map(int, np.unravel_index(result, self.at.numbers.shapes[self.name])))

    def _read_in(self, term: TermOf) -> list[ElementAt]:
        """Return the factors of a term that are elements of the explained element's array."""
        elements = [factor for factor in term.factors if isinstance(factor, ElementAt)]
        return [factor for factor in elements if (factor.name, factor.phase) == (self.at.name, self.phase)]

    def _readings(self) -> Iterator[tuple[int, TermOf, Places]]:
        """Yield the terms that read the explained element, with the number of the step and the places."""
        for n, step in enumerate(self.formula.steps):
            for term in step.terms:
                for part in self._read_in(term):
                    yield n, term, self._places(term, part)

    def _places(self, term: TermOf, part: ElementAt) -> Places:
        """Return the places of a term at which its factor `part` is the explained element."""
        places, axes = self._any, len(self._sizes)
        sizes = dict(enumerate((*self._sizes, *(places.size(over.size) for over in term.over))))
        at: Places = {}
        for spot, index in zip(part.index, self.at.index, strict=True):
            at = _crossed(at, sizes, {spot} if isinstance(spot, int) else spot.along)
            at = _where(at, np.equal(places.spot(spot, at), index))
        at = _crossed(at, sizes, sizes)
        for n, over in enumerate(term.over, axes):
            at = _where(at, places.counted(over, at, at[n]))
        plan = self.at.numbers.plan
        if self.name in plan and plan[self.name].causal:
            at = _where(at, sees(at[QUERY], at[KEY], window_of(plan, plan[self.name])))
        return _where(at, places.has(term, at))

    def _weights(self, term: TermOf, at: Places) -> Array:
        """Return what the explained element adds to each result, without constant factors of the term."""
        parts = [part for part in term.factors if not isinstance(part, Constant)]
        if not all(isinstance(part, ElementAt) and part.less is None for part in parts):
            return np.array([self._added(self._index(result))[0] or 0.0 for result in self._results(at)])
        places = [int(along[0]) if np.ptp(along) == 0 else along for _, along in sorted(at.items())]
        values = [self._any.values(part, places) for part in parts]  # type: ignore[arg-type]
        return np.broadcast_to(reduce(np.multiply, values), len(at[0]))

    def _added(self, index: tuple[int, ...]) -> tuple[float | None, str]:
        """Return the term that the explained element adds to a result (or None if there is no single term),
        and a description. Other terms are not computed, because the run may not have kept their factors."""
        *before, last = self.formula.steps
        read = tuple(filter(self._read_in, last.terms)) or last.terms
        formula = replace(self.formula, steps=(*before, replace(last, terms=read)))
        places = ElementPlaces(self.at.numbers, self.name, index, formula)
        element, (steps, _) = str(self.at.element), written_out(places, "", sys.maxsize)
        terms = [(step, term) for step in steps for term in step.terms if self._is_in(term)]
        if len(terms) != 1:
            return None, self.words
        ((step, term),) = terms
        scales = [] if step is steps[-1] else _scales(step, steps[-1])
        if scales is None or (term.function and step.count == 1):
            return None, self.words
        factors = [*(factor for factor in term.factors if factor.name != element), *scales]
        times = "times " + " × ".join(factor.name for factor in factors) if factors else "passed on unchanged"
        adds = term.value * math.prod(factor.value for factor in scales)
        return adds, f"{term.function} {times}".strip()

    def _is_in(self, term: Term) -> bool:
        element = str(self.at.element), self.phase
        return any((factor.name, factor.kind) == element for factor in term.factors)


def _scales(step: Step, last: Step) -> list[Factor] | None:
    """Return the factors by which the last step multiplies the result of `step`, or None if the last step
    does not multiply this result."""
    factors = last.terms[0].factors
    others = [factor for factor in factors if factor.name != step.label]
    return others if last.count == 1 and len(others) < len(factors) and not last.terms[0].function else None


def _crossed(at: Places, sizes: Mapping[int, int], axes: Iterable[int]) -> Places:
    """Combine the places in `at` with every place along the axes that `at` lacks."""
    for axis in axes:
        if axis not in at:
            count = len(next(iter(at.values()), [0]))
            at = {other: np.repeat(along, sizes[axis]) for other, along in at.items()}
            at[axis] = np.tile(np.arange(sizes[axis]), count)
    return at


def _where(at: Places, chosen: Array) -> Places:
    return {axis: along[np.broadcast_to(chosen, along.shape)] for axis, along in at.items()}
