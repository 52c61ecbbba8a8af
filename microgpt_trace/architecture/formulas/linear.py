"""Lookups and products with a matrix as formulas. Axes: position and channel, of parameters row, column."""

from __future__ import annotations

from ..kinds import Linear, Lookup, Shape
from ..plan import Operation
from .formula import ElementAt, Formula, Over, PlaceAlong, TermOf, one_step

OVER = 2  # the range of a sum behind two axes
Shapes = dict[str, Shape]


def looked_up(row: Operation, shapes: Shapes) -> Formula:
    """The row of the token, or of the position."""
    kind = row.kind
    assert isinstance(kind, Lookup)
    place = 0 if kind.by == "positions" else PlaceAlong((), table="tokens")
    return one_step(shapes[row.name], TermOf((ElementAt(kind.table, (place, 1)),)))


def of_table(row: Operation, shapes: Shapes) -> Formula:
    """The gradients of a row of the table add up where it was looked up."""
    kind = row.kind
    assert isinstance(kind, Lookup)
    over = Over(shapes[row.name][0], "tokens" if kind.by == "tokens" else "itself")
    gradient = ElementAt(row.name, (OVER, 1), "backward")
    return one_step((kind.rows, kind.width), TermOf((gradient,), (over,)))


def forward(row: Operation, shapes: Shapes) -> Formula:
    """y = x @ W.T + b, or the share of some columns."""
    kind = row.kind
    assert isinstance(kind, Linear)
    (source,) = row.inputs
    length, width = shapes[source]
    first, end = kind.columns or (0, width)
    column = PlaceAlong(((OVER, 1),), first) if first else OVER
    x, weight = ElementAt(source, (0, column)), ElementAt(kind.weight, (1, column))
    terms = [TermOf((x, weight), (Over(end - first),))]
    if kind.bias and not kind.columns:
        terms.append(TermOf((ElementAt(kind.bias, (1,)),)))
    return one_step((length, kind.width), *terms)


def of_parts(row: Operation, shapes: Shapes) -> Formula:
    """The sum of the parts and the bias, where something stands in the place of a part."""
    kind = row.kind
    assert isinstance(kind, Linear)
    terms = [TermOf((ElementAt(part, (0, 1)),)) for part in row.parts]
    if kind.bias:
        terms.append(TermOf((ElementAt(kind.bias, (1,)),)))
    return one_step(shapes[row.name], *terms)


def backward(name: str, reader: Operation, shapes: Shapes) -> Formula:
    """dx = dy @ W; a part has the gradient of the sum."""
    kind, shape = reader.kind, shapes[name]
    assert isinstance(kind, Linear)
    if name in reader.parts:
        return one_step(shape, TermOf((ElementAt(reader.name, (0, 1), "backward"),)))
    gradient = ElementAt(reader.name, (0, OVER), "backward")
    return one_step(shape, TermOf((gradient, ElementAt(kind.weight, (OVER, 1))), (Over(kind.width),)))


def of_parameter(name: str, row: Operation, shapes: Shapes) -> Formula:
    """dW = dy.T @ x, db = sum(dy)"""
    kind = row.kind
    assert isinstance(kind, Linear)
    (source,) = row.inputs
    length, width = shapes[source]
    if name == kind.bias:
        gradient = ElementAt(row.name, (1, 0), "backward")
        return one_step((kind.width,), TermOf((gradient,), (Over(length),)))
    gradient = ElementAt(row.name, (OVER, 0), "backward")
    return one_step((kind.width, width), TermOf((gradient, ElementAt(source, (OVER, 1))), (Over(length),)))
