"""Evaluates formulas for all elements of an array at once, in float64. Knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ...arrays.stats import Array
from ..kinds import Length
from ..steps import Pass
from .formula import (
    Constant,
    ElementAt,
    Formula,
    Over,
    Part,
    Place,
    PlaceAlong,
    ResultOf,
    ShareOfKnown,
    Sign,
    StepOf,
    TermOf,
)

GUARDED = 300.0  # beyond which exp is taken of what is less the largest


@dataclass(frozen=True, eq=False)
class FormulaInputs:
    """What was read, and the arrays by name and pass."""

    tokens: Sequence[int]
    targets: Sequence[int | None]
    array: Callable[[str, Pass], Array]

    def size(self, size: int) -> int:
        return len(self.tokens) if isinstance(size, Length) else size

    @property
    def known(self) -> int:
        """The number of positions whose target is known."""
        return sum(target is not None for target in self.targets)


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
        back = _grid(query, sizes) - _grid(key, sizes)
        value = np.where((back >= 0) & (back < (window or len(given.tokens))), value, 0.0)
    return value


def _step(step: StepOf, sizes: tuple[int, ...], before: Sequence[Array], given: FormulaInputs) -> Array:
    if not step.guard:
        return reduce(np.add, (_term(term, len(step.along), sizes, before, given) for term in step.terms))
    (term,) = step.terms
    x, counted, over = _argument(term, sizes, before, given)
    axes = tuple(range(len(sizes), len(sizes) + len(over)))
    largest = np.where(counted, x, -np.inf).max(axis=axes)
    smallest = np.where(counted, x, np.inf).min(axis=axes)
    return np.where((np.abs(largest) < GUARDED) & (smallest >= -GUARDED), 0.0, largest)


def _term(
    term: TermOf, along: int, sizes: tuple[int, ...], before: Sequence[Array], given: FormulaInputs
) -> Array:
    """The sum over its ranges, but for those along which the step has a result each."""
    x, counted, over = _argument(term, sizes, before, given)
    value = np.where(counted, term.function.of(x), 0.0)
    return value.sum(axis=tuple(range(len(sizes) + along, len(sizes) + len(over))))


def _argument(
    term: TermOf, sizes: tuple[int, ...], before: Sequence[Array], given: FormulaInputs
) -> tuple[Array, Array, tuple[int, ...]]:
    """What the function is taken of, by axes and ranges; which of it counts; and the sizes of the ranges."""
    over = tuple(given.size(own.size) for own in term.over)
    whole = (*sizes, *over)
    x = reduce(np.multiply, (_factor(own, whole, before, given) for own in term.factors))
    if term.less is not None:
        x = x - _behind(before[term.less], len(whole))
    counted = np.ones(whole, bool)
    for n, own in enumerate(term.over):
        counted &= _counted(own, whole, len(sizes) + n, given)
    if term.where:
        position, *token = term.where
        targets = _table("targets", _grid(position, whole), given)
        counted &= targets == _grid(token[0], whole) if token else targets >= 0
    return np.broadcast_to(x, whole), counted, over


def _factor(part: Part, whole: tuple[int, ...], before: Sequence[Array], given: FormulaInputs) -> Array:
    if isinstance(part, ElementAt):
        array = given.array(part.name, part.phase).astype(np.float64)
        value: Array = array[tuple(_index(own, whole, given) for own in part.index)]
        return value if part.less is None else value - _behind(before[part.less], len(whole))
    if isinstance(part, ResultOf):
        value = _behind(before[part.step], len(whole))
        return 1 / value if part.taken == "1/" else -value if part.taken else value
    if isinstance(part, Place):
        return _grid(part.axis, whole).astype(np.float64)
    if isinstance(part, ShareOfKnown):
        return np.asarray(part.sign / given.known)
    assert isinstance(part, Constant | Sign)
    return np.asarray(part.values[0]) if part.axis is None else np.array(part.values)[_grid(part.axis, whole)]


def _index(own: int | PlaceAlong, whole: tuple[int, ...], given: FormulaInputs) -> Array:
    if isinstance(own, int):
        return _grid(own, whole)
    place = np.asarray(own.offset)
    for axis, stride in own.axes:
        place = place + _grid(axis, whole) * stride
    if own.table:
        axis, stride = own.by
        place = place + _table(own.table, _grid(axis, whole), given) * stride
    return place


def _table(table: str | tuple[int, ...], at: Array, given: FormulaInputs) -> Array:
    """What a table has at the places; -1 where a target is not known."""
    if table == "tokens":
        return np.array(given.tokens)[at]
    if table == "targets":
        return np.array([-1 if target is None else target for target in given.targets])[at]
    return np.array(table)[at]


def _counted(own: Over, whole: tuple[int, ...], axis: int, given: FormulaInputs) -> Array:
    """Which places of a range count."""
    at = _grid(axis, whole)
    if own.of == "known":
        return _table("targets", at, given) >= 0
    place = _grid(own.axis, whole)
    if own.of == "tokens":
        return _table("tokens", at, given) == place
    if own.of == "itself":
        return at == place
    back = {"keys": place - at, "queries": at - place}.get(own.of)
    return np.asarray(True) if back is None else (back >= 0) & (back < (own.window or len(given.tokens)))


def _grid(axis: int, whole: tuple[int, ...]) -> Array:
    """The places along an axis, to be broadcast along the others."""
    return np.arange(whole[axis]).reshape([-1 if n == axis else 1 for n in range(len(whole))])


def _behind(value: Array, axes: int) -> Array:
    """A value to be broadcast along axes behind its own."""
    return value.reshape((*value.shape, *[1] * (axes - value.ndim)))
