"""Norm: RMSNorm or LayerNorm of every row, or of each head of it.

Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Norm
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread, terms
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultyNorm(Norm):
    """What no model has: eps outside the root, another `power` of the mean square than 0.5, another
    `exponent` of |x| than 2, a sum in place of the mean, a head's gain along the whole row."""

    eps_outside: bool = False  # x / (sqrt(mean(x^2)) + eps)
    power: float = 0.5  # 0: the gain alone
    exponent: float = 2.0
    summed: bool = False
    per_head: bool = True


def forward(row: Operation, run: Shared, x: Array) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias of each row, or head of it: [N, C] -> [N, C]"""
    kind = row.kind
    assert isinstance(kind, Norm)
    heads = x if kind.head_dim is None else x.reshape(len(x), -1, kind.head_dim)
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    y = rmsnorm(heads, None if kind.gain is None else run.vector(kind.gain), kind.eps)
    return (y if kind.bias is None else y + run.vector(kind.bias)).reshape(x.shape)


def rmsnorm(x: Array, gain: Array | None, eps: float) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain, row by row: [..., C] -> [..., C]"""
    y = x / root_mean_square(x, eps)
    return y if gain is None else y * gain


def root_mean_square(x: Array, eps: float) -> Array:
    """sqrt(mean(x^2) + eps): [..., C] -> [..., 1]"""
    rms: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    return rms


def reference(row: Operation, given: Given, x: Array) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias, row by row: [..., C] -> [..., C]"""
    kind = row.kind
    assert isinstance(kind, Norm)
    gain = np.ones(1) if kind.gain is None else given.parameter(row, kind.gain)
    bias = None if kind.bias is None else given.parameter(row, kind.bias)
    if kind.head_dim is None:
        return normalise(kind, x, gain, bias)
    if isinstance(kind, FaultyNorm) and not kind.per_head:
        return normalise(kind, x, np.tile(gain, x.shape[1] // len(gain)), bias)
    return normalise(kind, x.reshape(len(x), -1, kind.head_dim), gain, bias).reshape(x.shape)


def normalise(kind: Norm, x: Array, gain: Array, bias: Array | None = None) -> Array:
    """The same with a given gain."""
    if kind.centred:
        x = x - x.mean(axis=-1, keepdims=True)
    if isinstance(kind, FaultyNorm) and _is_another(kind):
        y = _faulty(kind, x) * gain
    else:
        mean = np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1]
        y = x * gain * (mean + kind.eps) ** -0.5
    return y if bias is None else y + bias


def _is_another(kind: FaultyNorm) -> bool:
    return kind.eps_outside or (kind.power, kind.exponent, kind.summed) != (0.5, 2.0, False)


def _faulty(kind: FaultyNorm, x: Array) -> Array:
    if kind.eps_outside:
        return x / (np.sqrt(np.square(x).mean(axis=-1, keepdims=True)) + kind.eps)
    size = (np.abs(x) ** kind.exponent).mean(axis=-1, keepdims=True)
    size = size * x.shape[-1] if kind.summed else size
    power = kind.power if kind.exponent == 2 else 1 / kind.exponent
    return x / (size + kind.eps) ** power


def spread(kind: Norm, sizes: Sizes) -> Spread:
    """A sum of squares, whose root halves their error."""
    return Spread(sizes.width // 4)


def size(row: Operation, given: Given, value: Array, x: Array) -> Array:
    """A mean of C squares."""
    return np.abs(value) * terms(x.shape[-1])


def frozen(kind: Norm, along: Array, x: Array, gain: Array | None) -> Array:
    """The direction in which what a norm read moves a product with its output, its scale taken as it was for
    each row: [n, K, C] along which the output counts, [n, C] that it read -> [n, K, C]"""
    x = x.astype(np.float64)
    x = x - x.mean(axis=1, keepdims=True) if kind.centred else x
    scale = np.sqrt(np.square(x).mean(axis=1) + kind.eps)[:, None, None]
    along = (along if gain is None else along * gain) / scale
    return along - along.mean(axis=2, keepdims=True) if kind.centred else along
