"""RoPE as a formula. Axes: position, head, which half of it, and the pair."""

from __future__ import annotations

import numpy as np

from ..arithmetic import Function
from ..kinds import Rotation, Shape
from ..operations.rotation import turning_of
from ..plan import Operation
from .formula import Constant, ElementAt, Formula, Place, PlaceAlong, ResultOf, StepOf, TermOf


def forward(row: Operation, shapes: dict[str, Shape]) -> Formula:
    """Each channel times the cosine of its pair's angle, and the other one of the pair times the sine."""
    kind, (source,) = row.kind, row.inputs
    assert isinstance(kind, Rotation)
    turning, dim, (length, width) = turning_of(kind), kind.head_dim, shapes[source]
    half = dim // 2
    frequency = Constant("radians a position", tuple(map(float, turning.frequencies)), 3)
    factor = turning.factor
    scale = "" if factor == 1 else f"{factor!r}*"
    steps = (
        StepOf((TermOf((Place(0), frequency)),), "angle"),
        StepOf(
            (TermOf((ResultOf(0),), function=Function(f"{scale}cos(x)", lambda x: factor * np.cos(x))),),
            "cos",
        ),
        StepOf(
            (TermOf((ResultOf(0),), function=Function(f"{scale}sin(x)", lambda x: factor * np.sin(x))),),
            "sin",
        ),
    )
    own = ElementAt(source, (0, PlaceAlong(((1, dim), (2, half), (3, 1)))))
    other = ElementAt(source, (0, PlaceAlong(((1, dim), (2, -half), (3, 1)), half)))
    sign = Constant("-1 in the first half of a head", (-1.0, 1.0), 2)
    last = StepOf((TermOf((own, ResultOf(1))), TermOf((other, ResultOf(2), sign))))
    return Formula((length, width // dim, 2, half), (*steps, last))
