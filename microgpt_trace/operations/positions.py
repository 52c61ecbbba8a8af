"""Alibi and PositionScale, whose numbers depend only on positions.

Press et al., "Train Short, Test Long" (2021). Nakanishi, "Scalable-Softmax Is Superior for Attention" (2025).
"""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import (
    Constant,
    ElementAt,
    Formula,
    Place,
    ResultOf,
    Setting,
    StepOf,
    TermOf,
    one_step,
)
from ..formulas.steps import Function, Pass
from ..plans.kinds import Alibi, PositionScale
from ..plans.plan import Operation
from .elementwise import notes as notes
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread

Row = Operation[Alibi] | Operation[PositionScale]


def forward(row: Row, run: PassState, x: Array) -> Array:
    """Add the biases of ALiBi, [n*H, T, S], or multiply by the factors of the positions, [N, C]."""
    if isinstance(kind := row.kind, PositionScale):
        return x * factors(kind, run.positions).astype(x.dtype)[:, None]
    length, seen = x.shape[1:]  # the last query is the last key
    back = np.arange(seen - length, seen)[:, None] - np.arange(seen)
    return x - np.tile(np.array(kind.slopes, x.dtype), run.n)[:, None, None] * back.astype(x.dtype)


def factors(kind: PositionScale, positions: Array) -> Array:
    """Return the factor of each position: [N]"""
    return np.asarray(1 + kind.strength * np.log1p((positions + kind.shift) // kind.period))


def backward(row: Row, run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """Pass dy on, or multiply it by the factors of the positions."""
    scales = isinstance(row.kind, PositionScale)
    return Gradients((forward(row, run, dy) if scales else dy,))


def reference(row: Row, ref: ReferenceInputs, x: Array) -> Array:
    """Add the biases of ALiBi, [H, T, T], or multiply by the factors of the positions, [T, C]."""
    kind, at = row.kind, np.arange(x.shape[-2])
    if isinstance(kind, PositionScale):
        return (x.T * (kind.strength * np.log(1 + np.floor((at + kind.shift) / kind.period)) + 1)).T
    return x + np.multiply.outer(kind.slopes, at - at[:, None])


def spread(row: Row, ref: ReferenceInputs) -> Spread:
    """Return the spread of each element's rounding. An engine may round slopes and factors."""
    return Spread(factor=True)


def size(row: Row, ref: ReferenceInputs, value: Array, x: Array) -> Array:
    """Return |value|. For the slope and the bias of ALiBi, add twice the slope times the length of the text,
    because engines may add slope * key, whose softmax is the same."""
    bias = 0.0 if isinstance(row.kind, PositionScale) else np.abs(row.kind.slopes)[:, None, None]
    return np.abs(value) + 2 * bias * (x.shape[-1] - 1)


def formula(row: Row, setting: Setting) -> Formula:
    """Describe an element: score + slope * (key - query), or x times the factor of the position."""
    kind, x = row.kind, _element(row.inputs[0], row, setting)
    if isinstance(kind, PositionScale):
        return _scaled(kind, x, setting.shapes[row.name])
    distance = (TermOf((Place(2),)), TermOf((Constant("-1", (-1.0,)), Place(1))))
    last = (TermOf((x,)), TermOf((Constant("slope", kind.slopes, 0), ResultOf(0))))
    return Formula(setting.shapes[row.name], (StepOf(distance, "key - query"), StepOf(last)))


def gradient_formula(name: str, reader: Row, setting: Setting) -> Formula:
    """Describe the gradient of the input: dy, or dy times the factor of the position."""
    dy, sizes = _element(reader.name, reader, setting, "backward"), setting.shapes[name]
    if isinstance(reader.kind, PositionScale):
        return _scaled(reader.kind, dy, sizes)
    return one_step(sizes, TermOf((dy,)))


def _element(name: str, row: Row, setting: Setting, phase: Pass = "forward") -> ElementAt:
    return ElementAt(name, tuple(range(len(setting.shapes[row.name]))), phase)


def _scaled(kind: PositionScale, x: ElementAt, sizes: tuple[int, ...]) -> Formula:
    text = f"(1 + {kind.strength!r}*log(1 + floor((x + {kind.shift})/{kind.period})))"
    factor = TermOf((Place(0),), function=Function(text, lambda at: factors(kind, at)))
    return Formula(sizes, (StepOf((factor,), "factor", inside=True), StepOf((TermOf((x, ResultOf(0))),))))
