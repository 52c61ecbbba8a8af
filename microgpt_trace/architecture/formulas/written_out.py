"""A formula written out for one element of a run: its steps, with the largest terms. Knows no kind.

What rounding an element is relative to is followed from step to step, besides its own magnitude: a product
moves as far as each result that it reads moves it, a function as far as its slope takes what moves its x, a
sum as far as all of its terms. What is worked out from constants alone is exact. A page's script does the
same (formulas.js).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array
from ..arithmetic import Function, Operand, in_place_of_x, less, one_term, sum_of, total
from ..run_values import KnownTarget
from ..steps import Factor, Step, Term, element_name
from .element_places import At, ElementPlaces
from .evaluate import GUARDED
from .formula import Constant, ElementAt, Part, Place, ResultOf, ShareOfKnown, Sign, StepOf, TermOf

NUDGE = 1e-7  # of a magnitude, by which a slope is told


class Result(NamedTuple):
    """Of a step: what later ones call it, its value and what rounding is relative to, by place where there is
    one for each place along ranges; `exact` is what is worked out from constants alone."""

    name: str
    value: float | Array
    magnitude: float | Array
    exact: bool = False


class _Read(NamedTuple):
    operand: Operand
    magnitude: Array
    exact: bool = False


class _Terms(NamedTuple):
    """One term, or all of a range: the factors, the function of their product, and the magnitudes."""

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
    """A few terms that are all written out, or a sum over a range of which the largest are."""
    few = [_terms(at, term, results, at.axes) for term in own.terms if not term.over and at.counts(term)]
    alone, exact = [terms.only for terms in few], all(terms.exact for terms in few)
    magnitude = sum(float(terms.magnitudes[0]) for terms in few)
    step = sum_of(label, alone)
    for term in (term for term in own.terms if term.over):
        places = at.at(at.ranges(term))
        terms, vanished = _terms(at, term, results, places), list(map(_of_logits, at.vanished(term)))
        step = total(
            label, terms.operands, most, terms.function, [*alone, *vanished], at.labels(term, places)
        )
        magnitude += float(terms.magnitudes.sum()) + sum(abs(lost.value) for lost in vanished)
        exact = exact and terms.exact
    name = _in_words(own.terms[0].function, step.terms[0].factors) if own.inside else label
    return step, Result(name, step.value, abs(step.value) if exact else magnitude, exact)


def _of_logits(own: KnownTarget) -> Term:
    return Term((Factor(f"the loss at position {own.position}, from the logits", own.loss),), own.loss)


def _in_words(function: Function, factors: Sequence[Factor]) -> str:
    words, product = function.words or function.text, " × ".join(factor.name for factor in factors)
    return in_place_of_x(words, product) if words else product


def _guard(at: ElementPlaces, own: StepOf, results: Sequence[Result]) -> Result:
    """The largest, where exp would overflow or vanish, else 0."""
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
    summed = tuple(range(len(own.along), len(sizes)))
    return Result(
        own.label,
        terms.values.reshape(sizes).sum(axis=summed),
        terms.magnitudes.reshape(sizes).sum(axis=summed),
    )


def _terms(at: ElementPlaces, term: TermOf, results: Sequence[Result], places: At) -> _Terms:
    count = len(places[-1]) if term.over else 1  # type: ignore[arg-type]
    behind, factors = places[len(at.axes) :], list[_Read]()
    for part in term.factors:
        if isinstance(part, Sign):
            factors[-1] = _signed(factors[-1], part.values[places[part.axis]])
        else:
            factors.append(_factor(at, part, results, places, count))
    size, magnitude = np.ones(count), np.ones(count)
    for own in factors:
        sizes = np.abs(own.operand.values)
        size, magnitude = size * sizes, magnitude * sizes + size * (own.magnitude - sizes)
    operands, function = [own.operand for own in factors], term.function
    exact = term.less is None and all(own.exact for own in factors)
    x = np.prod([own.values for own in operands], axis=0)
    if term.less is not None:
        subtracted = _here(results[term.less], behind)
        beyond = magnitude - np.abs(x) + subtracted.magnitude
        function, magnitude = less(function, subtracted.value), np.abs(x - subtracted.value) + beyond
    return _Terms(operands, function, _taken(function, x, magnitude, exact), exact)


def _taken(function: Function, x: Array, magnitude: Array, exact: bool) -> Array:
    """What rounding a function of x is relative to: itself, or how far it goes with what x is relative to."""
    if not function.text:
        return magnitude
    value = np.abs(function.of(x))
    if exact:
        return value
    nudge = np.maximum(magnitude, 1e-300) * NUDGE
    slope = np.abs(function.of(x + nudge) - function.of(x - nudge)) / (2 * nudge)
    found = np.fmax(value, np.where(np.isfinite(slope), slope * magnitude, 0))
    return found if function.beside is None else np.fmax(found, np.abs(function.beside.of(x)))


def _factor(at: ElementPlaces, part: Part, results: Sequence[Result], places: At, count: int) -> _Read:
    if isinstance(part, ElementAt):
        return _element(at, part, results, places, count)
    if isinstance(part, ResultOf):
        own = _here(results[part.step], places[len(at.axes) :])
        if part.taken == "1/":
            value = np.divide(1.0, own.value)
            own = Result(f"1/{own.name}", value, own.magnitude * value * value, own.exact)
        elif part.taken == "-":
            own = Result(f"-({own.name})", -own.value, own.magnitude, own.exact)
        values, magnitudes = (np.broadcast_to(of, count) for of in (own.value, own.magnitude))
        return _Read(Operand(values, lambda i: own.name, "constant"), magnitudes, own.exact)
    name, value = _number(at, part, places)
    values = np.full(count, value)
    return _Read(Operand(values, lambda i: name, "constant"), np.abs(values), True)


def _element(at: ElementPlaces, part: ElementAt, results: Sequence[Result], places: At, count: int) -> _Read:
    spots = at.spots(part, places)
    values = np.broadcast_to(np.asarray(at.values(part, places), np.float64), count)

    def name(i: int) -> str:
        return element_name(part.name, tuple(s if isinstance(s, int) else int(s[i]) for s in spots))

    if part.less is None:
        return _Read(Operand(values, name, part.phase), np.abs(values))
    own = _here(results[part.less], places[len(at.axes) :])
    operand = Operand(values - own.value, lambda i: f"({name(i)} - {own.name})", "constant")
    return _Read(operand, np.abs(operand.values) + own.magnitude)


def _number(at: ElementPlaces, part: Part, places: At) -> tuple[str, float]:
    """What is no element of the run: its name and value."""
    if isinstance(part, Place):
        return str(places[part.axis]), float(places[part.axis])
    if isinstance(part, ShareOfKnown):
        known = sum(target is not None for target in at.numbers.inputs.targets)
        return f"{'-' if part.sign < 0 else ''}1/{known}", part.sign / known
    assert isinstance(part, Constant)
    if part.axis is None:
        return part.words, part.values[0]
    value = part.values[places[part.axis]]
    return f"{value:.6g}", value


def _here(own: Result, behind: At) -> Result:
    """A result at the places of terms, where it has one for each place along ranges."""
    if not isinstance(own.value, np.ndarray):
        return own
    places = behind[: own.value.ndim]
    return own._replace(value=own.value[places], magnitude=own.magnitude[places])  # type: ignore[index]


def _signed(factor: _Read, sign: float) -> _Read:
    values, name, kind = factor.operand
    if sign > 0:
        return factor
    return factor._replace(operand=Operand(-values, lambda i: f"-{name(i)}", kind))
