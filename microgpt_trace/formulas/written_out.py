"""Write out the steps that compute one element of a run, with the largest terms of each step. This module
depends on no kind of operation.

Every result has a magnitude. The rounding error of a result is at most proportional to the magnitude. The
magnitude of a product grows with the errors of its factors. The magnitude of f(x) grows with the error of x
times the slope of f. The magnitude of a sum is the sum of the magnitudes of its terms. A result computed only
from constants is exact. In an HTML page, formulas.js computes these steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..text.frozen import frozen
from .formula import Constant, ElementAt, FactorOf, Part, Place, ResultOf, ShareOfKnown, Sign, StepOf, TermOf
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

GUARDED = 300.0  # if |x| exceeds this number, the largest x is subtracted before exp
NUDGE = 1e-7  # the step of a numerical slope, as a fraction of the magnitude


class Result(NamedTuple):
    """The result of a step: one value, or a value for each place along the step's ranges."""

    name: str  # the name of the result in later steps
    value: float | Array
    magnitude: float | Array  # the rounding error is at most proportional to this magnitude
    exact: bool = False  # True if the result is computed only from constants


@frozen(slots=False, eq=False)
class FactorReader:
    """Reads the factors of one term, or of all terms of a range, given the results of earlier steps."""

    at: ElementPlaces
    results: Sequence[Result]
    places: At

    @property
    def count(self) -> int:
        return 1 if isinstance(last := (*self.places, 0)[len(self.places) - 1], int) else len(last)

    def factors(self, parts: Sequence[Part]) -> list[Operand]:
        """Return the factors. A `Sign` multiplies the preceding factor."""
        operands = list[Operand]()
        for part in parts:
            if not isinstance(part, Sign):
                operands.append(self._factor(part))
            elif part.values[self.at.axes[part.axis]] < 0:
                operands.append(operands.pop().opposite)
        return operands

    def result(self, step: int) -> Result:
        """Return the result of an earlier step. If the step has a result for each place, return the results
        at `places`."""
        result = self.results[step]
        if not isinstance(result.value, np.ndarray):
            return result
        first = len(self.at.axes)
        places = self.places[first : first + result.value.ndim]
        value, magnitude = result.value[places], result.magnitude[places]  # type: ignore[index]
        return result._replace(value=value, magnitude=magnitude)

    def _factor(self, part: FactorOf) -> Operand:
        if isinstance(part, ElementAt):
            return self._element(part)
        result = self._taken(part) if isinstance(part, ResultOf) else self._number(part)
        values, magnitudes = (np.broadcast_to(x, self.count) for x in (result.value, result.magnitude))
        return Operand(values, magnitudes, lambda i: result.name, exact=result.exact)

    def _element(self, part: ElementAt) -> Operand:
        spots = self.at.spots(part, self.places)
        values = np.broadcast_to(np.asarray(self.at.values(part, self.places), np.float64), self.count)

        def place(i: int) -> tuple[int, ...]:
            return tuple(spot if isinstance(spot, int) else int(spot[i]) for spot in spots)

        element = Operand(values, np.abs(values), lambda i: element_name(part.name, place(i)), part.phase)
        if part.less is None:
            return element
        less, mark = self.result(part.less), "d " * (part.phase == "backward")
        rest, name = values - less.value, lambda i: f"({mark}{element.name(i)} - {less.name})"
        return Operand(rest, np.abs(rest) + less.magnitude, name)

    def _taken(self, part: ResultOf) -> Result:
        """Return the result of an earlier step: unchanged, negated or inverted."""
        name, value, magnitude, exact = self.result(part.step)
        if part.prefix == "1/":
            inverse = np.divide(1.0, value)
            return Result(f"1/{name}", inverse, magnitude * inverse * inverse, exact)
        if part.prefix == "-":
            return Result(f"-({name})", -value, magnitude, exact)
        return Result(name, value, magnitude, exact)

    def _number(self, part: FactorOf) -> Result:
        """Return the value of a factor that is not an element of the run."""
        if isinstance(part, Place):
            value = float(self.at.axes[part.axis])
            words = f"{value:.0f}"
        elif isinstance(part, ShareOfKnown):
            words = f"{part.prefix}{self.at.target_count}"
            value = (-1 if part.prefix == "-1/" else 1) / self.at.target_count
        else:
            assert isinstance(part, Constant)
            value = part.values[0 if part.axis is None else self.at.axes[part.axis]]
            words = f"{part.prefix}{part.words}" if part.axis is None else f"{value:.6g}"
        return Result(words, value, abs(value), exact=True)


class _Terms(NamedTuple):
    """The values of one term, or of all terms of a range."""

    operands: list[Operand]  # the factors
    function: Function  # applied to the product of the factors
    magnitudes: Array  # [n] the rounding errors are at most proportional to these magnitudes
    exact: bool

    @property
    def values(self) -> Array:
        return np.asarray(self.function.of(np.prod([operand.values for operand in self.operands], axis=0)))

    @property
    def only(self) -> Term:
        return one_term([operand.factor(0) for operand in self.operands], self.function)


def nothing(label: str) -> Step:
    """Return a step without terms, whose result is 0."""
    return sum_of(label, ())


@np.errstate(all="ignore")
def written_out(at: ElementPlaces, label: str, most: int) -> tuple[tuple[Step, ...], float]:
    """Return the steps that compute an element, and the magnitude of the element. Each step lists the `most`
    largest terms of its sum. `label` is the label of the last step."""
    steps, results = [nothing(label)], list[Result]()
    for source in () if at.hidden else at.formula.steps:
        if source.along or source.guard:
            results.append(_along(at, source, results) if source.along else _guard(at, source, results))
            continue
        step, result = _step(at, source, results, source.label or label, most)
        results.append(result)
        if not source.inside:
            steps.append(step)
    if not steps[-1].count:
        return (nothing(label),), 0.0
    return tuple(steps[1:]), float(results[-1].magnitude)


def _step(
    at: ElementPlaces, source: StepOf, results: Sequence[Result], label: str, most: int
) -> tuple[Step, Result]:
    """Write out one step: all terms without a range, and the largest terms of a sum over a range."""
    few = [_terms(at, term, results, at.axes) for term in source.terms if not term.over and at.counts(term)]
    alone, magnitude = [terms.only for terms in few], sum(float(terms.magnitudes[0]) for terms in few)
    exact = all(terms.exact for terms in few)
    sums = [term for term in source.terms if term.over]
    if sums:
        (term,) = sums
        places = at.at(at.ranges(term), term)
        terms, lost = _terms(at, term, results, places), list(map(_loss_term, at.vanished(term)))
        step = total(label, terms.operands, most, terms.function, [*alone, *lost], at.labels(term, places))
        magnitude += float(terms.magnitudes.sum()) + sum(abs(loss.value) for loss in lost)
        exact = exact and terms.exact
    else:
        step = sum_of(label, alone)
    name = _in_words(source.terms[0].function, alone[0].factors) if source.inside else label
    return step, Result(name, step.value, abs(step.value) if exact else magnitude, exact)


def _loss_term(target: KnownTarget) -> Term:
    name = f"the loss at position {target.position}, from the logits"
    return Term((Factor(name, target.loss),), target.loss)


def _in_words(function: Function, factors: Sequence[Factor]) -> str:
    words, product = function.words or function.text, " × ".join(factor.name for factor in factors)
    return in_place_of_x(words, product) if words else product


def _guard(at: ElementPlaces, source: StepOf, results: Sequence[Result]) -> Result:
    """Return the largest term if exp would overflow or underflow, else 0. The returned number is exact."""
    (term,) = source.terms
    x = _terms(at, term, results, at.at(at.ranges(term))).values
    largest = float(x.max())
    value = 0.0 if abs(largest) < GUARDED and not x.min() < -GUARDED else largest
    return Result(source.label, value, 0.0)


def _along(at: ElementPlaces, source: StepOf, results: Sequence[Result]) -> Result:
    """Return a result for each place along the ranges of a step. Sum over the other ranges of the term."""
    (term,) = source.terms
    ranges = at.ranges(term)
    terms, sizes = _terms(at, term, results, at.at(ranges)), [len(places) for places in ranges]
    axes = tuple(range(len(source.along), len(sizes)))
    value, magnitude = (x.reshape(sizes).sum(axis=axes) for x in (terms.values, terms.magnitudes))
    return Result(source.label, value, magnitude)


def _terms(at: ElementPlaces, term: TermOf, results: Sequence[Result], places: At) -> _Terms:
    """Read the factors of a term at `places`, and compute the magnitude of each result."""
    reader = FactorReader(at, results, places)
    operands, function = reader.factors(term.factors), term.function
    magnitudes, exact = _product_magnitude(operands), all(operand.exact for operand in operands)
    if term.less is None and not function.text:
        return _Terms(operands, function, magnitudes, exact)
    x = np.prod([operand.values for operand in operands], axis=0)
    if term.less is not None:
        subtracted, exact = reader.result(term.less), False
        beyond = magnitudes - np.abs(x) + subtracted.magnitude
        function, magnitudes = less(function, subtracted.value), np.abs(x - subtracted.value) + beyond
    return _Terms(operands, function, _function_magnitude(function, x, magnitudes), exact)


def _product_magnitude(factors: Sequence[Operand]) -> Array:
    """Return the magnitude of each product: the absolute value, increased by the errors of the factors."""
    size, magnitude = np.ones(1), np.ones(1)
    for factor in factors:
        sizes = np.abs(factor.values)
        size, magnitude = size * sizes, magnitude * sizes + size * (factor.magnitudes - sizes)
    return magnitude


def _function_magnitude(function: Function, x: Array, magnitude: Array) -> Array:
    """Return the magnitude of f(x): the maximum of |f(x)| and the slope times the magnitude of x."""
    nudge = np.maximum(magnitude, 1e-300) * NUDGE
    slope = np.abs(function.of(x + nudge) - function.of(x - nudge)) / (2 * nudge)
    result = np.fmax(np.abs(function.of(x)), np.where(np.isfinite(slope), slope * magnitude, 0))
    return result if function.beside is None else np.fmax(result, np.abs(function.beside.of(x)))
