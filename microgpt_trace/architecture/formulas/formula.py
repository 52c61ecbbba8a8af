"""Formula: how each element of an array is computed, as plain data; Setting: the plan and the replaced events
that formulas depend on. Knows no kind and no values.

The index of an element is split into axes: a channel of q into a head and a channel of the head. The inputs
of an element are at places along these axes and along the ranges of sums; ranges are numbered after the
axes. An element is computed in steps. A step is a sum of terms, and a term is a product of factors or a
function of the product. These are the steps of steps.py, written once for all elements and for texts of any
length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...text.brief import frozen
from ..plans.kinds import Length, Shape
from ..plans.plan import Plan
from .steps import IDENTITY, Function, Pass

Table = str | tuple[int, ...]  # "tokens", "targets", or the numbers themselves
Of = Literal["all", "vocabulary", "keys", "queries", "tokens", "itself", "known"]
Taken = Literal["", "-", "1/", "-1/"]


class FactorOf:
    """A factor of a product. `taken`: as it is, negated, inverted or both."""

    taken: Taken = ""


@frozen
class PlaceAlong:
    """A place along an axis of an array: an offset, plus a stride times the place along each of other axes,
    plus a stride times the entry of a table."""

    axes: tuple[tuple[int, int], ...]  # axis and stride
    offset: int = 0
    table: Table = ()
    by: tuple[int, int] = (0, 1)  # the axis whose place chooses the entry, and the stride

    @property
    def along(self) -> set[int]:
        """The axes that the place depends on."""
        return {axis for axis, _ in self.axes} | ({self.by[0]} if self.table else set())


@frozen
class ElementAt(FactorOf):
    """An element of an event, a gradient or a parameter, minus the result of the step `less` if there is one.
    `index` has, for each axis of that array, an axis of the formula or a place."""

    name: str
    index: tuple[int | PlaceAlong, ...]
    phase: Pass = "forward"
    less: int | None = None


@frozen
class Constant(FactorOf):
    """A number, or one of several numbers chosen by the place along an axis. `words` describe it before it is
    `taken`; `values` are the numbers as taken."""

    words: str
    values: tuple[float, ...]
    axis: int | None = None
    taken: Taken = ""


@frozen
class Sign:
    """The sign of the factor before it: -1 or 1, chosen by the place along an axis."""

    words: str
    values: tuple[float, ...]
    axis: int


@frozen
class Place(FactorOf):
    """The place along an axis as a number, such as the position that turns channels."""

    axis: int


@frozen
class ShareOfKnown(FactorOf):
    """1 or -1 divided by the number of positions whose target is known."""

    taken: Taken = "1/"


@frozen
class ResultOf(FactorOf):
    """The result of an earlier step."""

    step: int
    taken: Taken = ""


Part = FactorOf | Sign


@frozen
class Over:
    """The range of a sum: all places of a size, or some of them. `of`:

    "vocabulary" are all tokens that may follow, "known" the positions whose target is known. The others
    depend on the place along `axis`: "keys" that it sees as a query, "queries" that see it as a key (both
    within a window of positions), positions whose "tokens" it is, or "itself" alone.
    """

    size: int
    of: Of = "all"
    axis: int = 0
    window: int | None = None


@frozen
class TermOf:
    """A function of x, which is a product of factors, minus the result of the step `less` if there is one.

    With `where` the term exists only where the target of the position on that axis is known, or where the
    token on a second axis is the target. Where the x of a target is not above `least`, its digits are lost,
    and the loss of the run is used as the term.
    """

    factors: tuple[Part, ...]
    over: tuple[Over, ...] = ()
    function: Function = IDENTITY
    less: int | None = None
    where: tuple[int, ...] = ()
    least: float | None = None


@frozen
class StepOf:
    """The sum of terms. The last step of a formula has no label: it is the element.

    A `guard` is the largest term if exp would overflow, else 0. A step with `along` has a result for each
    place along these ranges, read by terms of later steps that begin with the same ranges. A step that is
    `inside` is written where its result is read.
    """

    terms: tuple[TermOf, ...]
    label: str = ""
    guard: bool = False
    along: tuple[Over, ...] = ()
    inside: bool = False


@frozen
class Formula:
    """How each element of an array is computed. `sizes` are the sizes of the axes. `hidden` has the axes of
    query and key and the window: the element is 0 where the query does not see the key."""

    sizes: tuple[int, ...]
    steps: tuple[StepOf, ...]
    hidden: tuple[int, int, int | None] | None = None


def as_data(part: Any) -> Any:
    """Return a formula, or a part of one, as lists and objects with short keys, without empty values."""
    match part:
        case PlaceAlong(axes, offset, table, by):
            return [offset, *map(list, axes), *([[*by, table]] if table else [])]
        case ElementAt(name, index, phase, less):
            backward = 1 if phase == "backward" else None
            return {"of": name, "at": list(map(as_data, index)), **_filled(d=backward, less=less)}
        case Constant(words, values, None, taken):
            return {"say": taken + words, "is": values[0]}
        case Constant(words, values, axis) | Sign(words, values, axis):
            return {"say": words, "is": values, "along": axis}
        case Place(axis):
            return {"place": axis}
        case ShareOfKnown(taken):
            return {"share": -1 if taken == "-1/" else 1}
        case ResultOf(step, taken):
            return {"step": step, **_filled(taken=taken)}
        case Over(size, of, axis, window):
            return [size_as_data(size)] if of == "all" else [size_as_data(size), of, axis, window]
        case TermOf(factors, over, function, less, where):
            beside = function.beside and function.beside.text
            ranges = list(map(as_data, over))
            keys = _filled(over=ranges, f=function.text, beside=beside, less=less, where=where)
            return {"x": list(map(as_data, factors)), **keys}
        case StepOf(terms, label, guard, along):
            keys = _filled(label=label, along=list(map(as_data, along)), guard=int(guard) or None)
            return {"t": list(map(as_data, terms)), **keys}
        case Formula(sizes, steps, hidden):
            shape = list(map(size_as_data, sizes))
            return {"sizes": shape, "steps": list(map(as_data, steps)), **_filled(hidden=hidden)}
    return part


def _filled(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value not in (None, "", (), [])}


def size_as_data(size: int) -> int | str:
    """Return a size, or "T" for the number of positions."""
    return "T" if isinstance(size, Length) else size


def one_step(sizes: Sequence[int], *terms: TermOf) -> Formula:
    """Return a formula of a single step."""
    return Formula(tuple(sizes), (StepOf(terms),))


@dataclass(frozen=True, eq=False)
class Setting:
    """A plan, and the events and gradients that hooks replaced, as pairs of pass and name."""

    plan: Plan
    replaced: Collection[tuple[str, str]] = ()

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of events for texts of any length."""
        return self.plan.open_shapes

    def is_cut(self, name: str) -> bool:
        """Return True if a hook replaced an event, so that the loss no longer depends on the event's
        inputs."""
        return ("forward", name) in self.replaced

    def is_touched(self, name: str) -> bool:
        """Return True if a hook replaced an event or its gradient."""
        return self.is_cut(name) or ("backward", name) in self.replaced
