"""Scores, softmax and context as formulas. Axes: head, query and key, or position, head and its channel."""

from __future__ import annotations

import math

import numpy as np

from ..arithmetic import Function
from ..kinds import Context, Scores, Shape, Softmax
from ..plan import Operation
from ..steps import Pass
from .formula import Constant, ElementAt, Formula, Over, PlaceAlong, ResultOf, StepOf, TermOf, one_step

QUERY, KEY, OVER = 1, 2, 3  # the axes of [H, T, T], and the range of a sum behind three axes
Shapes = dict[str, Shape]
EXP = Function("exp(x)", np.exp)


def forward(row: Operation, shapes: Shapes, window: int | None) -> Formula:
    """scores = q @ k.T * scale; weights = exp(x) over its sum along the keys seen; context = weights @ v"""
    kind = row.kind
    if isinstance(kind, Softmax):
        return _softmax(row, shapes, window)
    first, second = row.inputs
    length = shapes[second][0]
    if isinstance(kind, Context):
        terms = _by_key(kind, (first, "forward"), second, length, window)
        return one_step((length, len(kind.group), kind.head_dim), terms)
    assert isinstance(kind, Scores)
    query = ElementAt(first, (QUERY, _of_head(kind, 0, OVER)))
    key = ElementAt(second, (KEY, _of_group(kind, 0, OVER)))
    return _scaled((len(kind.group), length, length), kind, TermOf((query, key), (Over(kind.head_dim),)))


def backward(name: str, reader: Operation, shapes: Shapes, window: int | None) -> Formula:
    """dq = dscores @ k * scale, dk = dscores.T @ q * scale; ds = w * (dw - sum(w * dw)); dweights =
    dcontext @ v.T, dv = weights.T @ dcontext"""
    kind = reader.kind
    if isinstance(kind, Softmax):
        return _softmax_backward(reader, shapes, window)
    assert isinstance(kind, Scores | Context)
    first, second = reader.inputs
    length, count = shapes[second][0], len(kind.group)
    gradient = reader.name, _BACK
    if isinstance(kind, Scores):
        if name == second:
            return _over_queries(kind, gradient, (first, "forward"), length, window)
        terms = _by_key(kind, gradient, second, length, window)
        return _scaled((length, count, kind.head_dim), kind, terms)
    if name == second:
        return _over_queries(kind, (first, "forward"), gradient, length, window)
    own = ElementAt(reader.name, (QUERY, _of_head(kind, 0, OVER)), "backward")
    value = ElementAt(second, (KEY, _of_group(kind, 0, OVER)))
    return one_step((count, length, length), TermOf((own, value), (Over(kind.head_dim),)))


_BACK: Pass = "backward"


def _of_head(kind: Scores | Context, head: int, channel: int) -> PlaceAlong:
    """The column of a head's channel, by the axes of both."""
    return PlaceAlong(((head, kind.head_dim), (channel, 1)))


def _of_group(kind: Scores | Context, head: int, channel: int) -> PlaceAlong:
    """The column of the same channel of the keys or values that the head has."""
    return PlaceAlong(((channel, 1),), table=kind.group, by=(head, kind.head_dim))


def _scaled(sizes: Shape, kind: Scores, products: TermOf) -> Formula:
    is_root = kind.scale == 1 / math.sqrt(kind.head_dim)
    words = f"1/sqrt({kind.head_dim})" if is_root else f"{kind.scale:.6g}"
    scaled = TermOf((ResultOf(0), Constant(words, (kind.scale,))))
    return Formula(sizes, (StepOf((products,), "sum of products"), StepOf((scaled,))))


def _softmax(row: Operation, shapes: Shapes, window: int | None) -> Formula:
    (scores,), shape = row.inputs, shapes[row.name]
    keys = (Over(shape[2], "keys", QUERY, window),)
    along, own = ElementAt(scores, (0, QUERY, OVER)), ElementAt(scores, (0, QUERY, KEY))
    return Formula(shape, of_softmax(along, own, keys), (QUERY, KEY, window))


def of_softmax(along: ElementAt, own: ElementAt, over: tuple[Over, ...]) -> tuple[StepOf, ...]:
    """exp(own) over the sum of exp, of what is less the largest where that would overflow."""
    return (
        StepOf((TermOf((along,), over),), "largest", guard=True),
        StepOf((TermOf((along,), over, EXP, less=0),), "sum of exponentials"),
        StepOf((TermOf((own,), (), EXP, less=0),), "own exponential"),
        StepOf((TermOf((ResultOf(2), ResultOf(1, "1/"))),)),
    )


def _softmax_backward(row: Operation, shapes: Shapes, window: int | None) -> Formula:
    """w * (dw - sum of w * dw)"""
    name, shape = row.name, shapes[row.name]
    along, own = (0, QUERY, OVER), (0, QUERY, KEY)
    keys = (Over(shape[2], "keys", QUERY, window),)
    mean = TermOf((ElementAt(name, along), ElementAt(name, along, "backward")), keys)
    weight, gradient = ElementAt(name, own), ElementAt(name, own, "backward")
    last = (TermOf((weight, gradient)), TermOf((weight, ResultOf(0, "-"))))
    return Formula(shape, (StepOf((mean,), "sum of w × dw"), StepOf(last)), (QUERY, KEY, window))


def _by_key(
    kind: Scores | Context, square: tuple[str, Pass], wide: str, length: int, window: int | None
) -> TermOf:
    """Of a query's head and channel: the sum over the keys of an event [H, T, T] times keys or values."""
    share = ElementAt(square[0], (1, 0, OVER), square[1])
    value = ElementAt(wide, (OVER, _of_group(kind, 1, 2)))
    return TermOf((share, value), (Over(length, "keys", 0, window),))


def _over_queries(
    kind: Scores | Context, square: tuple[str, Pass], wide: tuple[str, Pass], length: int, window: int | None
) -> Formula:
    """What a key or a value gets: the sum over the heads that share it and the queries that see it of an
    event [H, T, T] times one [T, heads*D], of which one is the reader's gradient."""
    count, dim = max(kind.group) + 1, kind.head_dim
    sharing = len(kind.group) // count  # the heads of one are neighbours
    head, query = OVER, OVER + 1
    of_square = ElementAt(square[0], (PlaceAlong(((1, sharing), (head, 1))), query, 0), square[1])
    column = PlaceAlong(((1, sharing * dim), (head, dim), (2, 1)))
    of_wide = ElementAt(wide[0], (query, column), wide[1])
    term = TermOf((of_square, of_wide), (Over(sharing), Over(length, "queries", 0, window)))
    sizes = (length, count, dim)
    return _scaled(sizes, kind, term) if isinstance(kind, Scores) else one_step(sizes, term)
