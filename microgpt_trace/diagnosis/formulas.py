"""The formulas of both families in float64, written a second time: nothing is shared with llama.py and
ops.py, which they are held against. Shape letters as in llama.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..architecture.rope import Rope
from ..arrays.stats import Array


def rmsnorm(x: Array, gain: Array | float, eps: float) -> Array:
    """y = x * gain / sqrt(mean(x^2) + eps), row by row: [..., C] -> [..., C]"""
    mean = np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1]
    return x * gain * (mean + eps) ** -0.5


def silu(x: Array) -> Array:
    """x * sigmoid(x)"""
    return x * _sigmoid(x)


def turn(x: Array, cos: Array, sin: Array) -> Array:
    """Each pair (x_j, x_(j+n/2)) of a head as a complex number times e^(i*angle), cos and sin being
    [T, n/2]: [T, H, n] -> [T, H, n]"""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def frequencies(rope: Rope, head_dim: int) -> tuple[Array, float]:
    """Radians per position of each pair, [D/2], and what multiplies cos and sin: by the wavelength of each
    pair (positions for a whole turn), as the authors of the scalings give them."""
    waves = 2 * math.pi * rope.theta ** (np.arange(head_dim // 2) * 2 / head_dim)
    if rope.factors:
        waves = waves * np.array(rope.factors)
    factor = 1.0
    if rope.kind == "linear":
        waves = waves * rope.factor
    elif rope.kind == "llama3":
        short, long = (rope.original_context / f for f in (rope.high_freq_factor, rope.low_freq_factor))
        part = np.interp(1 / waves, [1 / long, 1 / short], [0, 1])  # of the frequency that is kept
        waves = 1 / ((1 - part) / (waves * rope.factor) + part / waves)
    elif rope.kind == "yarn":
        fast, slow = (_pair_of(rope, head_dim, turns) for turns in (rope.beta_fast, rope.beta_slow))
        if rope.truncate:
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, head_dim - 1)
        part = np.interp(np.arange(head_dim // 2), [fast, max(slow, fast + 1e-3)], [0, 1])  # slowed
        waves = 1 / (part / (waves * rope.factor) + (1 - part) / waves)
        factor = rope.attention_factor or (0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0)
    return 2 * math.pi / waves, factor


def _pair_of(rope: Rope, head_dim: int, turns: float) -> float:
    """The pair, a fraction of one perhaps, that turns so many times within the original context."""
    return head_dim / 2 * math.log(rope.original_context / (2 * math.pi * turns), rope.theta)


def scores(q: Array, k: Array, group: Array) -> Array:
    """scores = q @ k.T / sqrt(D), head h with the keys group[h]: [H, T, D], [G, S, D] -> [H, T, S]"""
    return q @ k[group].swapaxes(1, 2) / math.sqrt(q.shape[-1])


def softmax(x: Array, mask: Array, axis: int = -1) -> Array:
    """exp(x) over its sum along an axis, where the mask holds."""
    masked = np.where(mask, x, -np.inf)
    exp = np.exp(masked - masked.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def context(weights: Array, v: Array, group: Array) -> Array:
    """context = weights @ v, head h with the values group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    return weights @ v[group]


def visible(length: int, window: int | None) -> Array:
    """Which keys a query may look at, itself and those before it within the window: [T, T] of booleans"""
    below = np.tri(length, dtype=bool)
    return below if window is None else below & ~np.tri(length, k=-window, dtype=bool)


def _sigmoid(x: Array) -> Array:
    """e^x / (1 + e^x), of which neither is large"""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "SiLU": silu,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "GELU by tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "squared ReLU": lambda x: np.square(np.maximum(x, 0)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "no activation": lambda x: x,
}


def leaky(slope: float) -> Callable[[Array], Array]:
    """ReLU that multiplies what is below 0 by a slope."""
    return lambda x: np.where(x > 0, x, slope * x)


def swish(slope: float) -> Callable[[Array], Array]:
    """x * sigmoid(slope * x): SiLU with 1, a quick GELU with 1.702."""
    return lambda x: x * _sigmoid(slope * x)
