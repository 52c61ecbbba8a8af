"""Rotation: RoPE, which turns pairs of channels of q and k by angles that grow with the position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import (
    Constant,
    ElementAt,
    Formula,
    Place,
    PlaceAlong,
    ResultOf,
    Setting,
    Sign,
    StepOf,
    TermOf,
)
from ..formulas.steps import Function, Pass
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Rotation
from ..plans.plan import Operation
from ..plans.rope import Rope
from ..plans.rope import turn as turn_heads
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Rotation], run: PassState, x: Array) -> Array:
    """Turn each head by the angles of its position: [N, H*D] -> [N, H*D]"""
    kind = row.kind
    return turn_heads(x, run.turns(kind), kind.head_dim)


def backward(row: Operation[Rotation], run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """Turn the gradient by the opposite angles: [N, H*D] -> [N, H*D]"""
    kind = row.kind
    cos, sin = run.turns(kind)
    return Gradients((turn_heads(dy, (cos, -sin), kind.head_dim),))


def reference(row: Operation[Rotation], ref: ReferenceInputs, x: Array) -> Array:
    """Turn each head by the angles of its position: [T, H*D] -> [T, H*D]"""
    kind = row.kind
    speeds, factor = frequencies(kind.rope, kind.head_dim)
    angles = np.arange(len(x))[:, None] * speeds
    heads = x.reshape(len(x), -1, kind.head_dim)
    return turn(heads, np.cos(angles) * factor, np.sin(angles) * factor).reshape(x.shape)


def turn(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair of a head by (x_j + i x_(j+n/2)) * (cos + i sin): x [T, H, n], cos and sin [T, n/2] ->
    [T, H, n]"""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


@lru_cache(maxsize=64)
def frequencies(rope: Rope, head_dim: int) -> tuple[Array, float]:
    """Return the frequency of each pair in radians per position, [D/2], and a factor for cos and sin.
    Wavelengths (positions per full turn) are computed first, as in the definitions of RoPE scaling."""
    waves = 2 * math.pi * rope.theta ** (np.arange(head_dim // 2) * 2 / head_dim)
    if rope.factors:
        waves = waves * np.array(rope.factors)
    factor = 1.0
    if rope.kind == "linear":
        waves = waves * rope.factor
    elif rope.kind == "llama3":
        short, long = (rope.original_context / f for f in (rope.high_freq_factor, rope.low_freq_factor))
        part = np.interp(1 / waves, [1 / long, 1 / short], [0, 1])  # the weight of the unchanged frequency
        waves = 1 / ((1 - part) / (waves * rope.factor) + part / waves)
    elif rope.kind == "yarn":
        fast, slow = (_pair_of(rope, head_dim, turns) for turns in (rope.beta_fast, rope.beta_slow))
        if rope.truncate:
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, head_dim - 1)
        part = np.interp(
            np.arange(head_dim // 2), [fast, max(slow, fast + 1e-3)], [0, 1]
        )  # the weight of the divided frequency
        waves = 1 / (part / (waves * rope.factor) + (1 - part) / waves)
        factor = rope.attention_factor or (0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0)
    return 2 * math.pi / waves, factor


def _pair_of(rope: Rope, head_dim: int, turns: float) -> float:
    """Return the number of the pair with `turns` turns in the original context, possibly a fraction."""
    return head_dim / 2 * math.log(rope.original_context / (2 * math.pi * turns), rope.theta)


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of the angle's rounding error, which grows with the position."""
    return Spread(angles=True)


def size(row: Operation[Rotation], ref: ReferenceInputs, value: Array, x: Array) -> Array:
    """For both channels of a pair, return the L2 norm of the pair."""
    kind = row.kind
    halves = value.reshape(len(value), -1, 2, kind.head_dim // 2)
    length = np.linalg.norm(halves, axis=2, keepdims=True)
    return np.broadcast_to(length, halves.shape).reshape(value.shape)


def formula(row: Operation[Rotation], setting: Setting) -> Formula:
    """Describe an element: x times cos, plus or minus the other channel of the pair times sin."""
    kind, (source,) = row.kind, row.inputs
    sign = Sign("-1 in the first half of a head", (-1.0, 1.0), 2)
    return _rotation(kind, setting.shapes[source], source, sign)


def gradient_formula(name: str, reader: Operation[Rotation], setting: Setting) -> Formula:
    """Describe an element of dx: the output's gradient, turned by the opposite angle."""
    sign = Sign("-1 in the second half of a head", (1.0, -1.0), 2)
    return _rotation(reader.kind, setting.shapes[name], reader.name, sign, "backward")


def _rotation(
    kind: Rotation, shape: tuple[int, ...], source: str, sign: Sign, phase: Pass = "forward"
) -> Formula:
    """Return a formula with the axes [position, head, half of the head, pair]."""
    speeds, factor = frequencies(kind.rope, kind.head_dim)
    dim, half, (length, width) = kind.head_dim, kind.head_dim // 2, shape
    text, words = ("", "") if factor == 1 else (f"{factor!r}*", f"{factor:.6g} × ")
    cos = Function(f"{text}cos(x)", lambda x: factor * np.cos(x), f"{words}cos(x)")
    sin = Function(f"{text}sin(x)", lambda x: factor * np.sin(x), f"{words}sin(x)")
    frequency = Constant("radians per position", tuple(map(float, speeds)), 3)
    this = ElementAt(source, (0, PlaceAlong(((1, dim), (2, half), (3, 1)))), phase)
    other = ElementAt(source, (0, PlaceAlong(((1, dim), (2, -half), (3, 1)), half)), phase)
    steps = (
        StepOf((TermOf((Place(0), frequency)),), "angle", inside=True),
        StepOf((TermOf((ResultOf(0),), function=cos),), "cos", inside=True),
        StepOf((TermOf((ResultOf(0),), function=sin),), "sin", inside=True),
        StepOf((TermOf((this, ResultOf(1))), TermOf((other, ResultOf(2), sign)))),
    )
    return Formula((length, width // dim, 2, half), steps)


def notes(at: TracedElement[Rotation]) -> tuple[str, ...]:
    """Return a note that names the pair of channels and its frequency."""
    dim, (speeds, _) = at.row.kind.head_dim, frequencies(at.row.kind.rope, at.row.kind.head_dim)
    head, channel = divmod(at.index[1], dim)
    pair = channel % (dim // 2)
    low = head * dim + pair
    return (f"channels {low} and {low + dim // 2} turn together, by {speeds[pair]:.6g} radians per position",)
