"""Linear: y = x @ W.T + b, or the share of some columns of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Linear
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread, terms
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLinear(Linear):
    """With a `cap`: c * tanh(y / c)."""

    cap: float | None = None


def forward(row: Operation, run: Shared, x: Array) -> Array:
    """y = x @ W.T + b: [N, in] -> [N, out]"""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is None:
        return run.product(x, kind.weight, kind.bias)
    return columns_forward(x, run.matrix(kind.weight), slice(*kind.columns))


def columns_forward(x: Array, weight: Array, own: slice) -> Array:
    """The share of some columns: [N, in], [out, in] -> [N, out]"""
    return x[:, own] @ weight[:, own].T


def reference(row: Operation, given: Given, x: Array) -> Array:
    """y = x @ W.T + b in float64: [T, in] -> [T, out]"""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is not None:
        own = slice(*kind.columns)
        return x[:, own] @ given.parameter(row, kind.weight)[:, own].T.astype(np.float64)
    y = given.product(row, x, kind.weight)
    y = y if kind.bias is None else y + given.parameter(row, kind.bias)
    return capped(y, kind.cap) if isinstance(kind, FaultyLinear) else y


def capped(x: Array, cap: float | None) -> Array:
    """c * tanh(x / c)"""
    return x if cap is None else cap * np.tanh(x / cap)


def spread(kind: Linear, sizes: Sizes) -> Spread:
    """A sum over the width of the input."""
    return Spread(sizes.input if kind.columns is None else kind.columns[1] - kind.columns[0])


def size(row: Operation, given: Given, value: Array, x: Array) -> Array:
    """|x| |w|, of which the terms may cancel."""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is None:
        norms = given.norms[kind.weight]
        return np.linalg.norm(x, axis=-1, keepdims=True) * norms * terms(x.shape[-1]) + np.abs(value)
    own = slice(*kind.columns)
    norms = np.linalg.norm(given.parameter(row, kind.weight)[:, own].astype(np.float64), axis=1)
    return np.linalg.norm(x[:, own], axis=1, keepdims=True) * norms
