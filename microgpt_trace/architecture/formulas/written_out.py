"""A formula written out for one element of a run: its steps, with the largest terms. Knows no kind.

What rounding an element is relative to is followed from step to step, besides its own magnitude: a product
moves as far as each result that it reads moves it, a function as far as its slope takes what moves its x, a
sum as far as all of its terms. What is worked out from constants alone is exact. A page's script does the
same (formulas.js).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array
from .formula import Constant, ElementAt, Part, Place, ResultOf, ShareOfKnown, Sign, StepOf, TermOf
from .places import At, ElementPlaces
from .steps import (
    Factor,
    Function,
    Operand,
    Step,
    Term,
    element_name,
    in_place_of_x,
    less,
    one_term,
    sum_of,
    total,
)
from .traced_element import KnownTarget

GUARDED = 300.0  # beyond which exp is taken of what is less the largest
NUDGE = 1e-7  # of a magnitude, by which a slope is told


class Result(NamedTuple):
    """Of a step: what later ones call it, its value and what rounding is relative to, by place where there is
    one for each place along ranges. What is worked out from constants alone is `exact`."""

    name: str
    value: float | Array
    magnitude: float | Array
    exact: bool = False


@dataclass(frozen=True, eq=False)
class FactorReader:
    """Reads factors at the places of one term, or of all of a range, after the steps with these results."""

    at: ElementPlaces
    results: Sequence[Result]
    places: At

    @property
    def count(self) -> int:
        return 1 if isinstance(last := (*self.places, 0)[len(self.places) - 1], int) else len(last)

    def factors(self, parts: Sequence[Part]) -> list[Operand]:
        """Each factor; a sign goes with the factor before it."""
        found = list[Operand]()
        for part in parts:
            if not isinstance(part, Sign):
                found.append(self._factor(part))
            elif part.values[self.at.axes[part.axis]] < 0:
                found.append(found.pop().opposite)
        return found

    def result(self, step: int) -> Result:
        """Of an earlier step, at these places where it has one for each place along ranges."""
        own = self.results[step]
        if not isinstance(own.value, np.ndarray):
            return own
        first = len(self.at.axes)
        places = self.places[first : first + own.value.ndim]
        return own._replace(value=own.value[places], magnitude=own.magnitude[places])  # type: ignore[index]

    def _factor(self, part: Part) -> Operand:
        if isinstance(part, ElementAt):
            return self._element(part)
        own = self._taken(part) if isinstance(part, ResultOf) else self._number(part)
        values, magnitudes = (np.broadcast_to(of, self.count) for of in (own.value, own.magnitude))
        return Operand(values, magnitudes, lambda i: own.name, exact=own.exact)

    def _element(self, part: ElementAt) -> Operand:
        spots = self.at.spots(part, self.places)
        values = np.broadcast_to(np.asarray(self.at.values(part, self.places), np.float64), self.count)

        def place(i: int) -> tuple[int, ...]:
            return tuple(spot if isinstance(spot, int) else int(spot[i]) for spot in spots)

        own = Operand(values, np.abs(values), lambda i: element_name(part.name, place(i)), part.phase)
        if part.less is None:
            return own
        less = self.result(part.less)
        left = values - less.value
        return Operand(left, np.abs(left) + less.magnitude, lambda i: f"({own.name(i)} - {less.name})")

    def _taken(self, part: ResultOf) -> Result:
        """An earlier step, 1 over it, or the same below 0."""
        own = self.result(part.step)
        if part.taken == "1/":
            inverse = np.divide(1.0, own.value)
            return Result(f"1/{own.name}", inverse, own.magnitude * inverse * inverse, own.exact)
        if part.taken == "-":
            return Result(f"-({own.name})", -own.value, own.magnitude, own.exact)
        return own

    def _number(self, part: Constant | Sign | Place | ShareOfKnown) -> Result:
        """What is no element of the run."""
        if isinstance(part, Place):
            value = float(self.at.axes[part.axis])
            words = f"{value:.0f}"
        elif isinstance(part, ShareOfKnown):
            known = self.at.known
            words, value = f"{'-' if part.sign < 0 else ''}1/{known}", part.sign / known
        elif part.axis is None:
            words, value = part.words, part.values[0]
        else:
            value = part.values[self.at.axes[part.axis]]
            words = f"{value:.6g}"
        return Result(words, value, abs(value), exact=True)


class _Terms(NamedTuple):
    """One term, or all of a range: the factors, the function of their product, and what rounding each term is
    relative to."""

    operands: list[Operand]
    function: Function
    magnitudes: Array
    exact: bool

    @property
    def values(self) -> Array:
        return np.asarray(self.function.of(np.prod([own.values for own in self.operands], axis=0)))

    @property
    def only(self) -> Term:
        return one_term([own.factor(0) for own in self.operands], self.function)


def nothing(label: str) -> Step:
    """A result that is 0 because nothing is added up."""
    return sum_of(label, ())


@np.errstate(all="ignore")
def written_out(at: ElementPlaces, label: str, most: int) -> tuple[tuple[Step, ...], float]:
    """The steps to an element, the last of which is called `label`, with `most` terms of each sum; and what
    rounding is relative to."""
    steps, results = [nothing(label)], list[Result]()
    for own in () if at.hidden else at.formula.steps:
        if own.along or own.guard:
            results.append(_along(at, own, results) if own.along else _guard(at, own, results))
            continue
        step, result = _step(at, own, results, own.label or label, most)
        results.append(result)
        if not own.inside:
            steps.append(step)
    if not steps[-1].count:
        return (nothing(label),), 0.0
    return tuple(steps[1:]), float(results[-1].magnitude)


def _step(
    at: ElementPlaces, own: StepOf, results: Sequence[Result], label: str, most: int
) -> tuple[Step, Result]:
    """A few terms that are all written out, or a sum over a range, of which the largest are, and a few."""
    few = [_terms(at, term, results, at.axes) for term in own.terms if not term.over and at.counts(term)]
    alone, magnitude = [terms.only for terms in few], sum(float(terms.magnitudes[0]) for terms in few)
    exact = all(terms.exact for terms in few)
    summed = [term for term in own.terms if term.over]
    if summed:
        (term,) = summed
        places = at.at(at.ranges(term))
        terms, lost = _terms(at, term, results, places), list(map(_of_logits, at.vanished(term)))
        step = total(label, terms.operands, most, terms.function, [*alone, *lost], at.labels(term, places))
        magnitude += float(terms.magnitudes.sum()) + sum(abs(own.value) for own in lost)
        exact = exact and terms.exact
    else:
        step = sum_of(label, alone)
    name = _in_words(own.terms[0].function, alone[0].factors) if own.inside else label
    return step, Result(name, step.value, abs(step.value) if exact else magnitude, exact)


def _of_logits(own: KnownTarget) -> Term:
    return Term((Factor(f"the loss at position {own.position}, from the logits", own.loss),), own.loss)


def _in_words(function: Function, factors: Sequence[Factor]) -> str:
    words, product = function.words or function.text, " × ".join(factor.name for factor in factors)
    return in_place_of_x(words, product) if words else product


def _guard(at: ElementPlaces, own: StepOf, results: Sequence[Result]) -> Result:
    """The largest, where exp would overflow or vanish, else 0: one of the numbers that are read."""
    (term,) = own.terms
    x = _terms(at, term, results, at.at(at.ranges(term))).values
    largest = float(x.max())
    value = 0.0 if abs(largest) < GUARDED and not x.min() < -GUARDED else largest
    return Result(own.label, value, 0.0)


def _along(at: ElementPlaces, own: StepOf, results: Sequence[Result]) -> Result:
    """A result for each place along ranges, with which the term's own begin."""
    (term,) = own.terms
    ranges = at.ranges(term)
    terms, sizes = _terms(at, term, results, at.at(ranges)), [len(places) for places in ranges]
    axes = tuple(range(len(own.along), len(sizes)))
    value, magnitude = (of.reshape(sizes).sum(axis=axes) for of in (terms.values, terms.magnitudes))
    return Result(own.label, value, magnitude)


def _terms(at: ElementPlaces, term: TermOf, results: Sequence[Result], places: At) -> _Terms:
    reader = FactorReader(at, results, places)
    operands, function = reader.factors(term.factors), term.function
    magnitudes, exact = _of_product(operands), all(own.exact for own in operands)
    if term.less is None and not function.text:
        return _Terms(operands, function, magnitudes, exact)
    x = np.prod([own.values for own in operands], axis=0)
    if term.less is not None:
        subtracted, exact = reader.result(term.less), False
        beyond = magnitudes - np.abs(x) + subtracted.magnitude
        function, magnitudes = less(function, subtracted.value), np.abs(x - subtracted.value) + beyond
    return _Terms(operands, function, _of_function(function, x, magnitudes), exact)


def _of_product(factors: Sequence[Operand]) -> Array:
    """What rounding a product is relative to: itself, and how far each factor that is off takes it."""
    size, magnitude = np.ones(1), np.ones(1)
    for own in factors:
        sizes = np.abs(own.values)
        size, magnitude = size * sizes, magnitude * sizes + size * (own.magnitudes - sizes)
    return magnitude


def _of_function(function: Function, x: Array, magnitude: Array) -> Array:
    """What rounding a function of x is relative to: itself, or how far it goes with what x is relative to."""
    nudge = np.maximum(magnitude, 1e-300) * NUDGE
    slope = np.abs(function.of(x + nudge) - function.of(x - nudge)) / (2 * nudge)
    found = np.fmax(np.abs(function.of(x)), np.where(np.isfinite(slope), slope * magnitude, 0))
    return found if function.beside is None else np.fmax(found, np.abs(function.beside.of(x)))
