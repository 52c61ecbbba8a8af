"""Formula: how the elements of one array are worked out, as plain data. Knows no kind and no values.

The index of an element is taken apart into axes (a channel of q into a head and a channel of it). What it is
worked out from stands at places along these axes and along the ranges that a sum runs over, which are counted
behind them. A value comes in steps, each a sum of terms; a term is a product of factors, or a function of it.
These are the steps of steps.py, said once for all elements and for texts of any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ...text.brief import frozen
from ..arithmetic import IDENTITY, Function
from ..kinds import Length
from ..steps import Pass

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

    def as_data(self) -> list[Any]:
        found: list[Any] = [self.offset, *map(list, self.axes)]
        return [*found, [*self.by, self.table]] if self.table else found


@frozen
class ElementAt:
    """An element of an event, a gradient or a parameter, an axis or a spot for each of its own axes; or this
    less the result of a step."""

    name: str
    index: tuple[int | PlaceAlong, ...]
    phase: Pass = "forward"
    less: int | None = None

    def as_data(self) -> dict[str, Any]:
        index = [own if isinstance(own, int) else own.as_data() for own in self.index]
        found: dict[str, Any] = {"of": self.name, "at": index}
        if self.phase == "backward":
            found["d"] = 1
        return found if self.less is None else found | {"less": self.less}


@frozen
class Constant:
    """A number in words, or one of several by the place along an axis."""

    words: str
    values: tuple[float, ...]
    axis: int | None = None

    def as_data(self) -> dict[str, Any]:
        if self.axis is None:
            return {"say": self.words, "is": self.values[0]}
        return {"say": self.words, "is": self.values, "along": self.axis}


@frozen
class Sign:
    """-1 or 1 by the place along an axis: the sign of the factor before it."""

    words: str
    values: tuple[float, ...]
    axis: int

    def as_data(self) -> dict[str, Any]:
        return {"say": self.words, "is": self.values, "along": self.axis}


@frozen
class Place:
    """The place along an axis as a number: a position that turns channels."""

    axis: int

    def as_data(self) -> dict[str, Any]:
        return {"place": self.axis}


@frozen
class ShareOfKnown:
    """1 over the number of positions whose target is known, or the same below 0."""

    sign: Literal[1, -1] = 1

    def as_data(self) -> dict[str, Any]:
        return {"share": self.sign}


@frozen
class ResultOf:
    """An earlier step: as it is, with the other sign, or 1 over it."""

    step: int
    taken: Literal["", "-", "1/"] = ""

    def as_data(self) -> dict[str, Any]:
        return {"step": self.step} | ({"taken": self.taken} if self.taken else {})


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

    def as_data(self) -> list[Any]:
        size = size_as_data(self.size)
        return [size] if self.of == "all" else [size, self.of, self.axis, self.window]


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

    def as_data(self) -> dict[str, Any]:
        found: dict[str, Any] = {"x": [factor.as_data() for factor in self.factors]}
        if self.over:
            found["over"] = [own.as_data() for own in self.over]
        if self.function.text:
            found["f"] = self.function.text
        if self.function.beside is not None:
            found["beside"] = self.function.beside.text
        if self.less is not None:
            found["less"] = self.less
        if self.where:
            found["where"] = self.where
        return found


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

    def as_data(self) -> dict[str, Any]:
        found: dict[str, Any] = {"t": [term.as_data() for term in self.terms]}
        if self.label:
            found["label"] = self.label
        if self.along:
            found["along"] = [own.as_data() for own in self.along]
        return found | ({"guard": 1} if self.guard else {})


@frozen
class Formula:
    """How each element of an array is worked out. `sizes` are those of the axes; `hidden` names those of a
    query and a key, and the window outside of which the element is 0."""

    sizes: tuple[int, ...]
    steps: tuple[StepOf, ...]
    hidden: tuple[int, int, int | None] | None = None

    def as_data(self) -> dict[str, Any]:
        steps = [step.as_data() for step in self.steps]
        found: dict[str, Any] = {"sizes": list(map(size_as_data, self.sizes)), "steps": steps}
        return found if self.hidden is None else found | {"hidden": self.hidden}


def size_as_data(size: int) -> int | str:
    """A size, or "T" for the number of positions."""
    return "T" if isinstance(size, Length) else size


def one_step(sizes: Sequence[int], *terms: TermOf) -> Formula:
    """A formula of a single step."""
    return Formula(tuple(sizes), (StepOf(terms),))
