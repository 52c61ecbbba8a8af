"""Rotation: RoPE, which turns pairs of channels of q and k by angles that grow with the position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..arrays.stats import Array
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
from ..plans.kinds import Rotation, Shape
from ..plans.plan import Operation
from ..plans.rope import Rope
from ..plans.rope import turn as turn_heads
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Rotation], run: PassState, x: Array) -> Array:
    """Turn the first channels of each head by the angles of its position: [N, H*D] -> [N, H*D]"""
    kind = row.kind
    return turn_heads(x, run.turns(kind), kind.head_dim, kind.pairs)


def backward(row: Operation[Rotation], run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """Turn the gradient by the opposite angles: [N, H*D] -> [N, H*D]"""
    kind = row.kind
    cos, sin = run.turns(kind)
    return Gradients((turn_heads(dy, (cos, -sin), kind.head_dim, kind.pairs),))


def reference(row: Operation[Rotation], ref: ReferenceInputs, x: Array) -> Array:
    """Turn the first channels of each head by the angles of its position: [T, H*D] -> [T, H*D]"""
    kind = row.kind
    speeds, factor = frequencies_of(kind, len(x))
    angles = np.arange(len(x))[:, None] * speeds
    heads = x.reshape(len(x), -1, kind.head_dim)
    return turn(heads, np.cos(angles) * factor, np.sin(angles) * factor, kind.pairs).reshape(x.shape)


def turn(x: Array, cos: Array, sin: Array, pairs: tuple[slice, slice]) -> Array:
    """Turn each pair of a head by (x_first + i x_second) * (cos + i sin), and pass on the other channels: x
    [T, H, D], cos and sin [T, n/2] -> [T, H, D]"""
    turned, result = (x[..., pairs[0]] + 1j * x[..., pairs[1]]) * (cos + 1j * sin)[:, None], x.copy()
    result[..., pairs[0]], result[..., pairs[1]] = turned.real, turned.imag
    return result


def frequencies_of(kind: Rotation, length: int) -> tuple[Array, float]:
    """Return the frequency of each pair in radians per position, [n/2], and a factor for cos and sin. In
    longrope, both depend on the `length` of the text."""
    return frequencies(kind.rope, kind.channels, kind.rope.divisors(length))


@lru_cache(maxsize=64)
def frequencies(rope: Rope, head_dim: int, divisors: tuple[float, ...]) -> tuple[Array, float]:
    """Return the frequencies and the factor of a head with `head_dim` rotated channels. Wavelengths
    (positions per full turn) are computed first, as in the definitions of RoPE scaling."""
    waves = 2 * math.pi * rope.theta ** (np.arange(head_dim // 2) * 2 / head_dim)
    if divisors:
        waves = waves * np.array(divisors)
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
        ramp = [fast, max(slow, fast + 1e-3)]
        part = np.interp(np.arange(head_dim // 2), ramp, [0, 1])  # the weight of the divided frequency
        waves = 1 / (part / (waves * rope.factor) + (1 - part) / waves)
        factor = rope.attention_factor or (0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0)
    elif rope.kind == "longrope":
        grown = 1 + math.log(max(rope.factor, 1.0)) / math.log(rope.original_context)
        factor = rope.attention_factor or grown**0.5
    return 2 * math.pi / waves, factor


def _pair_of(rope: Rope, head_dim: int, turns: float) -> float:
    """Return the number of the pair with `turns` turns in the original context, possibly a fraction."""
    return head_dim / 2 * math.log(rope.original_context / (2 * math.pi * turns), rope.theta)


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of the angle's rounding error, which grows with the position."""
    return Spread(angles=True)


def size(row: Operation[Rotation], ref: ReferenceInputs, value: Array, x: Array) -> Array:
    """For both channels of a pair, return the L2 norm of the pair. For other channels, return |value|."""
    heads = np.abs(value).reshape(len(value), -1, row.kind.head_dim)
    first, second = row.kind.pairs
    heads[..., first] = heads[..., second] = np.hypot(heads[..., first], heads[..., second])
    return heads.reshape(value.shape)


def formula(row: Operation[Rotation], setting: Setting) -> Formula:
    """Describe an element: x times cos, plus or minus the other channel of the pair times sin."""
    kind, (source,) = row.kind, row.inputs
    return _rotation(kind, setting, source, source, (-1.0, 1.0))


def gradient_formula(name: str, reader: Operation[Rotation], setting: Setting) -> Formula:
    """Describe an element of dx: the output's gradient, turned by the opposite angle."""
    return _rotation(reader.kind, setting, name, reader.name, (1.0, -1.0), "backward")


def _rotation(
    kind: Rotation, setting: Setting, x: str, source: str, signs: tuple[float, ...], phase: Pass = "forward"
) -> Formula:
    """Return a formula with the axes [position, head, half of the head, pair]. If only a part of the head
    turns, or pairs are neighbours, the axes are [position, head, channel]. `signs` are the signs of sin in
    the first and second channels of the pairs."""
    (speeds, factor), (length, width) = frequencies_of(kind, setting.length), setting.shapes[x]
    dim, half = kind.head_dim, kind.channels // 2
    text, words = ("", "") if factor == 1 else (f"{factor!r}*", f"{factor:.6g} × ")
    cos = Function(f"{text}cos(x)", lambda x: factor * np.cos(x), f"{words}cos(x)")
    sin = Function(f"{text}sin(x)", lambda x: factor * np.sin(x), f"{words}sin(x)")
    numbers, which = tuple(map(float, speeds)), ("first", "second")[signs[0] > 0]
    where = f"-1 in the {which} {'channel of a pair' if kind.adjacent else 'half of a head'}"
    sizes: Shape = (length, width // dim, 2, half)
    along, within, passing = 3, None, tuple[TermOf, ...]()
    this = ElementAt(source, (0, PlaceAlong(((1, dim), (2, half), (3, 1)))), phase)
    other = ElementAt(source, (0, PlaceAlong(((1, dim), (2, -half), (3, 1)), half)), phase)
    if kind.adjacent or 2 * half < dim:
        sizes, along, within = (length, width // dim, dim), 2, (2, 0, 2 * half)
        of_channels, sign_of, partners = np.zeros(dim), np.zeros(dim), np.zeros(dim, int)
        for own, others, factor_of_sin in zip(kind.pairs, kind.pairs[::-1], signs, strict=True):
            of_channels[own], sign_of[own], partners[own] = speeds, factor_of_sin, np.arange(dim)[others]
        numbers, signs = tuple(of_channels.tolist()), tuple(sign_of.tolist())
        this = ElementAt(source, (0, PlaceAlong(((1, dim), (2, 1)))), phase)
        other = ElementAt(source, (0, PlaceAlong(((1, dim),), 0, tuple(partners.tolist()), (2, 1))), phase)
        passing = (TermOf((this,), within=(2, 2 * half, dim)),) if 2 * half < dim else ()
    frequency = Constant("radians per position", numbers, along)
    sign = Sign(where, signs, 2)
    turned = (TermOf((this, ResultOf(1)), within=within), TermOf((other, ResultOf(2), sign), within=within))
    steps = (
        StepOf((TermOf((Place(0), frequency)),), "angle", inside=True),
        StepOf((TermOf((ResultOf(0),), function=cos),), "cos", inside=True),
        StepOf((TermOf((ResultOf(0),), function=sin),), "sin", inside=True),
        StepOf((*turned, *passing)),
    )
    return Formula(sizes, steps)


def notes(at: TracedElement[Rotation]) -> tuple[str, ...]:
    """Return a note that names the pair of channels and its frequency."""
    kind, (speeds, _) = at.row.kind, frequencies_of(at.row.kind, len(at.numbers.inputs.tokens))
    (head, channel), half = divmod(at.index[1], kind.head_dim), kind.channels // 2
    if channel >= kind.channels:
        return (f"only the first {kind.channels} channels of a head turn; this channel passes unchanged",)
    pair = channel // 2 if kind.adjacent else channel % half
    low, high = (head * kind.head_dim + range(kind.head_dim)[own][pair] for own in kind.pairs)
    return (f"channels {low} and {high} turn together, by {speeds[pair]:.6g} radians per position",)
