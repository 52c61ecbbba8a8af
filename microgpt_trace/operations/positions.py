"""Alibi and PositionScale: biases of scores and factors of rows that depend only on positions.

Press et al., "Train Short, Test Long" (2021). Nakanishi, "Scalable-Softmax Is Superior for Attention" (2025).
"""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, Place, ResultOf, Setting, StepOf, TermOf
from ..formulas.steps import Function, Pass
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Alibi, PositionScale
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import masked

Row = Operation[Alibi] | Operation[PositionScale]


def forward(row: Row, run: PassState, x: Array) -> Array:
    """Add the biases of ALiBi, or multiply by the factors of the positions: [n*H, T, S] or [N, C]"""
    if isinstance(kind := row.kind, PositionScale):
        return x * factors(kind, run.positions, x.dtype)
    length, seen = x.shape[1:]  # the last query is the last key
    back = (np.arange(seen - length, seen)[:, None] - np.arange(seen)).astype(x.dtype)
    return x - np.tile(np.array(kind.slopes, x.dtype), run.n)[:, None, None] * back


def factors(kind: PositionScale, positions: Array, dtype: np.dtype) -> Array:
    """Return the factor of each row: [N] -> [N, 1]"""
    periods = (positions + kind.shift) // kind.period
    return (1 + kind.strength * np.log1p(periods)).astype(dtype)[:, None]


def backward(row: Row, run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """Pass dy on, or multiply it by the factors of the positions."""
    if isinstance(row.kind, PositionScale):
        dy = dy * factors(row.kind, run.positions, dy.dtype)
    return Gradients((dy,))


def reference(row: Row, ref: ReferenceInputs, x: Array) -> Array:
    """Add the biases of ALiBi, or multiply by the factors of the positions: [H, T, T] or [T, C]"""
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
    if isinstance(row.kind, PositionScale):
        return np.abs(value)
    return np.abs(value) + 2 * np.abs(row.kind.slopes)[:, None, None] * (x.shape[-1] - 1)


def formula(row: Row, setting: Setting) -> Formula:
    """Describe an element: score + slope * (key - query), or x times the factor of the position."""
    return _formula(row, setting, row.inputs[0], "forward")


def gradient_formula(name: str, reader: Row, setting: Setting) -> Formula:
    """Describe the gradient of the input: dy, or dy times the factor of the position."""
    return _formula(reader, setting, reader.name, "backward")


def _formula(row: Row, setting: Setting, of: str, phase: Pass) -> Formula:
    kind, sizes = row.kind, setting.shapes[row.name]
    x = ElementAt(of, tuple(range(len(sizes))), phase)
    if isinstance(kind, PositionScale):
        text = f"1 + {kind.strength!r}*log(1 + floor((x + {kind.shift})/{kind.period}))"
        grown = Function(text, lambda x: 1 + kind.strength * np.log1p((x + kind.shift) // kind.period))
        factor = StepOf((TermOf((Place(0),), function=grown),), "factor of the position", inside=True)
        return Formula(sizes, (factor, StepOf((TermOf((x, ResultOf(0))),))))
    if phase == "backward":
        return Formula(sizes, (StepOf((TermOf((x,)),)),))
    distance = (TermOf((Place(2),)), TermOf((Constant("-1", (-1.0,)), Place(1))))
    slope = Constant("slope", kind.slopes, 0)
    last = (TermOf((x,)), TermOf((slope, ResultOf(0))))
    return Formula(sizes, (StepOf(distance, "key - query"), StepOf(last)))


def notes(at: TracedElement[Alibi | PositionScale]) -> tuple[str, ...]:
    """Return a note if the mask hides a score."""
    reasons = masked(at) if at.row.causal else ()
    return tuple(f"{reason}; the score is computed, but not used" for reason in reasons)
