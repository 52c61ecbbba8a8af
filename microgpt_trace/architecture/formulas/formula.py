"""Formula: how the elements of one array are worked out, as plain data; and Setting, what the formulas of
rows depend on besides these. Knows no kind and no values.

The index of an element is taken apart into axes (a channel of q into a head and a channel of it). What it is
worked out from stands at places along these axes and along the ranges that a sum runs over, which are counted
behind them. A value comes in steps, each a sum of terms; a term is a product of factors, or a function of it.
These are the steps of steps.py, said once for all elements and for texts of any length.
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


@frozen
class PlaceAlong:
    """A place along an axis of an array: an offset, and so many steps for each along other axes; or what a
    table has at the place along one, times a stride."""

    axes: tuple[tuple[int, int], ...]  # axis and stride
    offset: int = 0
    table: Table = ()
    by: tuple[int, int] = (0, 1)  # axis and stride of the table

    @property
    def along(self) -> set[int]:
        """The axes that it depends on."""
        return {axis for axis, _ in self.axes} | ({self.by[0]} if self.table else set())


@frozen
class ElementAt:
    """An element of an event, a gradient or a parameter, an axis or a spot for each of its own axes; or this
    less the result of a step."""

    name: str
    index: tuple[int | PlaceAlong, ...]
    phase: Pass = "forward"
    less: int | None = None


@frozen
class Constant:
    """A number in words, or one of several by the place along an axis."""

    words: str
    values: tuple[float, ...]
    axis: int | None = None


@frozen
class Sign:
    """-1 or 1 by the place along an axis: the sign of the factor before it."""

    words: str
    values: tuple[float, ...]
    axis: int


@frozen
class Place:
    """The place along an axis as a number: a position that turns channels."""

    axis: int


@frozen
class ShareOfKnown:
    """1 over the number of positions whose target is known, or the same below 0."""

    sign: Literal[1, -1] = 1


@frozen
class ResultOf:
    """An earlier step: as it is, with the other sign, or 1 over it."""

    step: int
    taken: Literal["", "-", "1/"] = ""


Part = ElementAt | Constant | Sign | Place | ShareOfKnown | ResultOf


@frozen
class Over:
    """What a sum runs over: all of a size (of a "vocabulary" the tokens that may follow), or of these what
    its place along `axis` lets an element: the keys that it sees as a query, in a window of positions, the
    queries that see it as a key, the positions that have it as their token, itself alone; or the positions
    whose target is known."""

    size: int
    of: Of = "all"
    axis: int = 0
    window: int | None = None


@frozen
class TermOf:
    """A product x of factors, less the result of a step, of which a function in x is taken.

    `where` names the axis of a position, whose target must be known for there to be such a term, or those of
    position and token, which must be its target. Where the x of a target is not above `least` it has lost its
    digits, and the loss that the run had there stands for the term.
    """

    factors: tuple[Part, ...]
    over: tuple[Over, ...] = ()
    function: Function = IDENTITY
    less: int | None = None
    where: tuple[int, ...] = ()
    least: float | None = None


@frozen
class StepOf:
    """The sum of the terms. A "guard" is the largest of them where exp would overflow, else 0. The last step
    of a formula has no label: it is the element.

    `along` ranges there is a result for each place of them, which terms of later steps read whose own first
    ranges these are. A step that is `inside` is written out where its result is read.
    """

    terms: tuple[TermOf, ...]
    label: str = ""
    guard: bool = False
    along: tuple[Over, ...] = ()
    inside: bool = False


@frozen
class Formula:
    """How each element of an array is worked out. `sizes` are those of the axes; `hidden` names those of a
    query and a key, and the window outside of which the element is 0."""

    sizes: tuple[int, ...]
    steps: tuple[StepOf, ...]
    hidden: tuple[int, int, int | None] | None = None


def as_data(own: Any) -> Any:
    """A formula, or a part of one, as lists and objects of short keys; None and what is empty is left out."""
    match own:
        case PlaceAlong(axes, offset, table, by):
            return [offset, *map(list, axes), *([[*by, table]] if table else [])]
        case ElementAt(name, index, phase, less):
            backward = 1 if phase == "backward" else None
            return {"of": name, "at": list(map(as_data, index)), **_known(d=backward, less=less)}
        case Constant(words, values, None):
            return {"say": words, "is": values[0]}
        case Constant(words, values, axis) | Sign(words, values, axis):
            return {"say": words, "is": values, "along": axis}
        case Place(axis):
            return {"place": axis}
        case ShareOfKnown(sign):
            return {"share": sign}
        case ResultOf(step, taken):
            return {"step": step, **_known(taken=taken)}
        case Over(size, of, axis, window):
            return [size_as_data(size)] if of == "all" else [size_as_data(size), of, axis, window]
        case TermOf(factors, over, function, less, where):
            beside = function.beside and function.beside.text
            ranges = list(map(as_data, over))
            known = _known(over=ranges, f=function.text, beside=beside, less=less, where=where)
            return {"x": list(map(as_data, factors)), **known}
        case StepOf(terms, label, guard, along):
            known = _known(label=label, along=list(map(as_data, along)), guard=int(guard) or None)
            return {"t": list(map(as_data, terms)), **known}
        case Formula(sizes, steps, hidden):
            shape = list(map(size_as_data, sizes))
            return {"sizes": shape, "steps": list(map(as_data, steps)), **_known(hidden=hidden)}
    return own


def _known(**of: Any) -> dict[str, Any]:
    return {key: value for key, value in of.items() if value not in (None, "", (), [])}


def size_as_data(size: int) -> int | str:
    """A size, or "T" for the number of positions."""
    return "T" if isinstance(size, Length) else size


def one_step(sizes: Sequence[int], *terms: TermOf) -> Formula:
    """A formula of a single step."""
    return Formula(tuple(sizes), (StepOf(terms),))


@dataclass(frozen=True, eq=False)
class Setting:
    """A plan, and what hooks put other values in the place of, by pass and name."""

    plan: Plan
    replaced: Collection[tuple[str, str]] = ()

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of the events, for texts of any length."""
        return self.plan.open_shapes

    def is_cut(self, name: str) -> bool:
        """Whether a hook replaced an event, so that the loss no longer depends on what it had read."""
        return ("forward", name) in self.replaced

    def is_touched(self, name: str) -> bool:
        """Whether a hook replaced an event or its gradient."""
        return self.is_cut(name) or ("backward", name) in self.replaced
