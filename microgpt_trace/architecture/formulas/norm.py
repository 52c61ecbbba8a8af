"""Norms as formulas. Axes: position and channel, or position, head and its channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arithmetic import Function
from ..kinds import Norm, Shape
from ..plan import Operation
from .formula import ElementAt, Formula, Over, PlaceAlong, ResultOf, StepOf, TermOf

Index = tuple[int | PlaceAlong, ...]


class _Places(NamedTuple):
    """The axes, and where an element stands, all that are normed with it, and its gain."""

    sizes: Shape
    own: Index
    along: Index
    gain: Index


def forward(row: Operation, shapes: dict[str, Shape]) -> Formula:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias, of x less its mean where that is subtracted"""
    kind, (source,) = row.kind, row.inputs
    assert isinstance(kind, Norm)
    at = _places(kind, shapes[source])
    steps, root, less = _root(kind, ElementAt(source, at.along), at.sizes[-1])
    x: tuple[ElementAt | ResultOf, ...] = (ElementAt(source, at.own),)
    if less is not None:
        steps.append(StepOf((TermOf(x), TermOf((ResultOf(less, "-"),))), "(x - mean)"))
        x = (ResultOf(len(steps) - 1),)
    gains = (ElementAt(kind.gain, at.gain),) if kind.gain else ()
    terms = [TermOf((*x, ResultOf(root, "1/"), *gains))]
    if kind.bias:
        terms.append(TermOf((ElementAt(kind.bias, at.gain),)))
    return Formula(at.sizes, (*steps, StepOf(tuple(terms))))


def backward(name: str, reader: Operation, shapes: dict[str, Shape]) -> Formula | None:
    """dx = (dy - y * mean(dy * y)) / rms of a norm that has neither gain nor mean; None of others."""
    kind, y = reader.kind, reader.name
    assert isinstance(kind, Norm)
    if kind.gain or kind.bias or kind.centred:
        return None
    at = _places(kind, shapes[name])
    n = at.sizes[-1]
    steps, root, _ = _root(kind, ElementAt(name, at.along), n)
    gradients, outputs = ElementAt(y, at.along, "backward"), ElementAt(y, at.along)
    mean = TermOf((gradients, outputs), (Over(n),), _mean(n))
    steps.append(StepOf((mean,), "mean of dy × y"))
    less, divided = ResultOf(len(steps) - 1, "-"), ResultOf(root, "1/")
    own = TermOf((ElementAt(y, at.own, "backward"), divided))
    return Formula(at.sizes, (*steps, StepOf((own, TermOf((ElementAt(y, at.own), less, divided))))))


def _mean(n: int) -> Function:
    return Function(f"x/{n}", lambda x: x / n)


def _places(kind: Norm, shape: Shape) -> _Places:
    length, width = shape
    if kind.head_dim is None:
        return _Places((length, width), (0, 1), (0, 2), (1,))
    dim = kind.head_dim
    own, along = PlaceAlong(((1, dim), (2, 1))), PlaceAlong(((1, dim), (3, 1)))
    return _Places((length, width // dim, dim), (0, own), (0, along), (2,))


def _root(kind: Norm, x: ElementAt, n: int) -> tuple[list[StepOf], int, int | None]:
    """The steps to what a row is divided by, which of them that is, and which one the mean."""
    steps, less, over = list[StepOf](), None, (Over(n),)
    if kind.centred:
        steps.append(StepOf((TermOf((x,), over, _mean(n)),), "mean"))
        less = 0
    steps.append(
        StepOf((TermOf((x,), over, Function(f"x*x/{n}", lambda x: x * x / n), less),), "mean square")
    )
    eps = float(f"{kind.eps:.6g}")
    root = TermOf(
        (ResultOf(len(steps) - 1),), (), Function(f"sqrt(x + {eps:.6g})", lambda x: np.sqrt(x + eps))
    )
    steps.append(StepOf((root,), "rms"))
    return steps, len(steps) - 1, less
