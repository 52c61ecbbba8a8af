"""Evaluates formulas for all elements of an array at once, in float64: what tests hold against a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from microgpt_trace.architecture.formulas.formula import (
    Constant,
    ElementAt,
    Formula,
    Part,
    Place,
    ResultOf,
    ShareOfKnown,
    Sign,
    StepOf,
    TermOf,
)
from microgpt_trace.architecture.formulas.places import ReadTokens
from microgpt_trace.architecture.formulas.steps import Pass
from microgpt_trace.architecture.formulas.written_out import GUARDED
from microgpt_trace.arrays.stats import Array


@dataclass(frozen=True, eq=False)
class FormulaInputs(ReadTokens):
    """What was read, and the arrays by name and pass."""

    array: Callable[[str, Pass], Array]


@np.errstate(all="ignore")
def evaluated(formula: Formula, given: FormulaInputs) -> Array:
    """Every element by its axes."""
    sizes = tuple(map(given.size, formula.sizes))
    found: list[Array] = []
    for step in formula.steps:
        along = tuple(given.size(own.size) for own in step.along)
        found.append(np.broadcast_to(_step(step, sizes, found, given), (*sizes, *along)))
    value = found[-1]
    if formula.hidden is not None:
        query, key, window = formula.hidden
        at = _places(sizes)
        value = np.where(given.sees(at[query] - at[key], window), value, 0.0)
    return value


def _step(step: StepOf, sizes: tuple[int, ...], before: Sequence[Array], given: FormulaInputs) -> Array:
    """The sums over the ranges of its terms, but for those along which it has a result each."""
    values = list[Array]()
    for term in step.terms:
        x, counted = _argument(term, sizes, before, given)
        axes = tuple(range(len(sizes) + len(step.along), x.ndim))
        if step.guard:
            return _guard(x, counted, axes)
        values.append(np.where(counted, term.function.of(x), 0.0).sum(axis=axes))
    return reduce(np.add, values)


def _guard(x: Array, counted: Array, axes: tuple[int, ...]) -> Array:
    """The largest where exp would overflow or vanish, else 0."""
    largest = np.where(counted, x, -np.inf).max(axis=axes)
    smallest = np.where(counted, x, np.inf).min(axis=axes)
    return np.where((np.abs(largest) < GUARDED) & (smallest >= -GUARDED), 0.0, largest)


def _argument(
    term: TermOf, sizes: tuple[int, ...], before: Sequence[Array], given: FormulaInputs
) -> tuple[Array, Array]:
    """What the function is taken of, by axes and ranges; and which of it counts."""
    whole = (*sizes, *(given.size(own.size) for own in term.over))
    at = _places(whole)
    x = reduce(np.multiply, (_factor(own, at, before, given) for own in term.factors))
    if term.less is not None:
        x = x - _behind(before[term.less], at)
    counted = given.has(term, at)
    for own, places in zip(term.over, at[len(sizes) :], strict=True):
        counted = counted & given.counted(own, at, places)
    return np.broadcast_to(x, whole), np.broadcast_to(counted, whole)


def _factor(part: Part, at: Sequence[Array], before: Sequence[Array], given: FormulaInputs) -> Array:
    if isinstance(part, ElementAt):
        value: Array = given.array(part.name, part.phase).astype(np.float64)[given.index(part, at)]
        return value if part.less is None else value - _behind(before[part.less], at)
    if isinstance(part, ResultOf):
        value = _behind(before[part.step], at)
        return 1 / value if part.taken == "1/" else -value if part.taken else value
    if isinstance(part, Place):
        return at[part.axis].astype(np.float64)
    if isinstance(part, ShareOfKnown):
        return np.asarray(part.sign / given.known)
    assert isinstance(part, Constant | Sign)
    return np.asarray(part.values[0]) if part.axis is None else np.array(part.values)[at[part.axis]]


def _places(whole: tuple[int, ...]) -> list[Array]:
    """The places along each axis, to be broadcast along the others."""
    axes = range(len(whole))
    return [np.arange(whole[axis]).reshape([-1 if n == axis else 1 for n in axes]) for axis in axes]


def _behind(value: Array, at: Sequence[Array]) -> Array:
    """A value to be broadcast along the axes behind its own."""
    return value.reshape((*value.shape, *[1] * (len(at) - value.ndim)))
