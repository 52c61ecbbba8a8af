"""Formula: the computation of each element of an array, as plain data. Setting: the plan of a run and the
events that hooks replaced. This module depends on no kind of operation and reads no values.

A formula may split an axis of the array: for q, the axes are position, head, and channel of the head. Places
along the axes and along the ranges of sums select the inputs of an element. Axes and ranges share one
numbering: after axes 0 and 1, the first range has number 2. An element is computed in steps. A step is a sum
of terms. A term is a product of factors or a function of this product. The steps of a formula apply to all
elements and texts. The steps of steps.py contain the numbers of one element.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from ..models.language_model import Scalar
from ..plans.kinds import Length, Shape
from ..plans.plan import Plan
from ..text.frozen import frozen
from .steps import IDENTITY, Function, Pass

Table = str | tuple[int, ...]  # "tokens", "targets", an event of whole numbers, or a table of numbers
Of = Literal["all", "vocabulary", "keys", "queries", "tokens", "itself", "known"]
Prefix = Literal["", "-", "1/", "-1/"]


class FactorOf:
    """A factor of a product. `prefix` is "-" for -x, "1/" for 1/x, and "-1/" for -1/x."""

    prefix: Prefix = ""


@frozen
class PlaceAlong:
    """A place along an axis of an array, computed from places along axes of the formula: `offset` + the sum
    of stride * place over `axes` + stride * entry, if there is a `table`. An event is a table of its flat
    elements."""

    axes: tuple[tuple[int, int], ...]  # pairs of an axis and a stride
    offset: int = 0
    table: Table = ()
    by: tuple[int | PlaceAlong, int] = (0, 1)  # what selects the entry of the table, and the stride

    @property
    def along(self) -> set[int]:
        """The axes that the place depends on."""
        by = self.by[0]
        table = by.along if isinstance(by, PlaceAlong) else {by}
        return {axis for axis, _ in self.axes} | (table if self.table else set())


@frozen
class ElementAt(FactorOf):
    """An element of an event, a gradient or a parameter. If `less` is the number of a step, the step's result
    is subtracted. For each axis of the array, `index` contains an axis of the formula or a `PlaceAlong`."""

    name: str
    index: tuple[int | PlaceAlong, ...]
    phase: Pass = "forward"
    less: int | None = None


@frozen
class Constant(FactorOf):
    """A constant, or a table of constants. In a table, the place along `axis` selects the constant. `words`
    describe the constant before `prefix` is applied. `values` are the numbers after `prefix` is applied."""

    words: str
    values: tuple[float, ...]
    axis: int | None = None
    prefix: Prefix = ""


@frozen
class Sign:
    """A sign, -1 or 1, that multiplies the preceding factor. The place along `axis` selects the sign."""

    words: str
    values: tuple[float, ...]
    axis: int


@frozen
class Place(FactorOf):
    """A factor equal to the place along an axis, such as the position in the angle of RoPE."""

    axis: int


@frozen
class ShareOfKnown(FactorOf):
    """1 or -1 divided by the number of positions whose target is known."""

    prefix: Prefix = "1/"


@frozen
class ResultOf(FactorOf):
    """The result of an earlier step."""

    step: int
    prefix: Prefix = ""


Part = FactorOf | Sign


@frozen
class Over:
    """The range of a sum. The field `of` selects the places in the range: "all" means 0 to `size` - 1.

    "vocabulary": all tokens. "known": the positions whose target is known. The other values refer to the
    place along `axis`. "keys": the keys that the query sees. "queries": the queries that see the key. A
    window limits the keys and the queries. "tokens": the positions with the token. "itself": only the place.
    """

    size: int
    of: Of = "all"
    axis: int = 0
    window: int | None = None


@frozen
class TermOf:
    """A function of x, a product of factors. The result of step `less`, if given, is subtracted from x.

    If `where` lists the axis of positions, the term exists only if the target of the position is known. If
    `where` also lists the axis of tokens, the term exists only if the token is the target. `within` (axis,
    first, end) limits the term to some places along an axis. `same` (place, axis) limits a sum to the terms
    for which a `PlaceAlong` equals the place along an axis. If x is at most `least`, x loses digits in
    float32. The term's value is then the loss from the run.
    """

    factors: tuple[Part, ...]
    over: tuple[Over, ...] = ()
    function: Function = IDENTITY
    less: int | None = None
    where: tuple[int, ...] = ()
    within: tuple[int, int, int] | None = None
    least: float | None = None
    same: tuple[PlaceAlong, int] | None = None


@frozen
class StepOf:
    """A sum of terms. The last step of a formula computes the element and has no label.

    With `guard`, the result is the largest term if exp would overflow, else 0. If `along` contains ranges,
    the step has a result for each place along these ranges. A term that reads these results begins with the
    ranges of `along`. A step with `inside` is written inside the steps that read the result.
    """

    terms: tuple[TermOf, ...]
    label: str = ""
    guard: bool = False
    along: tuple[Over, ...] = ()
    inside: bool = False


@frozen
class Formula:
    """The computation of each element of an array. `sizes` are the sizes of the axes. `hidden` lists the axis
    of the query, the axis of the key, and the window. If the query does not see the key, the element is 0.
    If every element is 0, `zero` is the reason, and the step has no terms."""

    sizes: tuple[int, ...]
    steps: tuple[StepOf, ...]
    hidden: tuple[int, int, int | None] | None = None
    zero: str = ""


def as_data(part: Any) -> Any:
    """Return a formula or a part of a formula as JSON data with short keys. Empty values are left out."""
    match part:
        case PlaceAlong(axes, offset, table, by):
            return [offset, *map(list, axes), *([[as_data(by[0]), by[1], table]] if table else [])]
        case ElementAt(name, index, phase, less):
            backward = 1 if phase == "backward" else None
            return {"of": name, "at": list(map(as_data, index)), **_filled(d=backward, less=less)}
        case Constant(words, values, None, prefix):
            return {"say": prefix + words, "is": values[0]}
        case Constant(words, values, axis) | Sign(words, values, axis):
            return {"say": words, "is": values, "along": axis}
        case Place(axis):
            return {"place": axis}
        case ShareOfKnown(prefix):
            return {"share": -1 if prefix == "-1/" else 1}
        case ResultOf(step, prefix):
            return {"step": step, **_filled(prefix=prefix)}
        case Over(size, of, axis, window):
            return [size_as_data(size)] if of == "all" else [size_as_data(size), of, axis, window]
        case TermOf(factors, over, function, less, where, within, _, same):
            beside = function.beside and tree_of(function.beside.text)
            tree = tree_of(function.text) if function.text else None
            keys = _filled(over=list(map(as_data, over)), f=function.text, tree=tree, beside=beside)
            keys |= _filled(less=less, where=where, within=within, same=same and [as_data(same[0]), same[1]])
            return {"x": list(map(as_data, factors)), **keys}
        case StepOf(terms, label, guard, along):
            keys = _filled(label=label, along=list(map(as_data, along)), guard=int(guard) or None)
            return {"t": list(map(as_data, terms)), **keys}
        case Formula(sizes, steps, hidden, zero):
            shape = list(map(size_as_data, sizes))
            return {"sizes": shape, "steps": list(map(as_data, steps)), **_filled(hidden=hidden, zero=zero)}
    return part


@cache
def tree_of(text: str) -> Any:
    """Return a function of x as a tree of lists. A list begins with the name of an operator or function.

    >>> tree_of("2*exp(-x)")
    ['Mult', 2, ['exp', ['USub', 'x']]]
    """

    def tree(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return math.pi if name == "pi" else name
            case ast.UnaryOp(operator, operand):
                return [type(operator).__name__, tree(operand)]
            case ast.BinOp(left, operator, right) | ast.Compare(left, [operator], [right]):
                return [type(operator).__name__, tree(left), tree(right)]
            case ast.Call(ast.Name(name), operands):
                return [name, *map(tree, operands)]
        raise ValueError(f"expected a function of x, found {text}")

    return tree(ast.parse(text, mode="eval").body)


def _filled(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value not in (None, "", (), [])}


def size_as_data(size: int) -> int | str:
    """Return a size, or "T" if the size is the number of positions."""
    return "T" if isinstance(size, Length) else size


def one_step(sizes: Sequence[int], *terms: TermOf) -> Formula:
    """Return a formula of a single step."""
    return Formula(tuple(sizes), (StepOf(terms),))


@frozen(slots=False, eq=False)
class Setting:
    """A plan, the events and gradients that hooks replaced, such as ("backward", "logits"), the number of
    positions in the text, and the number whose gradients the run has (None stands for the loss)."""

    plan: Plan
    replaced: Collection[tuple[str, str]] = ()
    length: int = 0
    scalar: Scalar | None = None

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
