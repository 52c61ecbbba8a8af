"""Context: the values of the keys, each by its weight."""

from __future__ import annotations

import numpy as np

from ...arrays.heads import in_heads, out_of_heads, shares
from ...arrays.linear import IGNORE, share
from ...arrays.stats import Array
from ..kinds import Context
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread
from .shared import Shared


def forward(row: Operation, run: Shared, weights: Array, v: Array) -> Array:
    """context = weights @ v of n sequences, heads side by side: [n*H, T, S], [n*T, G*D] -> [n*T, H*D]"""
    kind = row.kind
    assert isinstance(kind, Context)
    values = in_heads(v, run.n, kind.head_dim)
    group = run.groups(kind.group, len(values) // run.n)
    if run.cache is not None:
        values = run.cache.extend(row.name, values)
    return out_of_heads(context_forward(weights, values, group, run.attention_workers), run.n)


def context_forward(weights: Array, values: Array, group: Array, workers: int) -> Array:
    """context = weights @ v, head h with the values group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    context = np.empty((*weights.shape[:2], values.shape[2]), weights.dtype)

    @IGNORE
    def fill(own: slice) -> None:
        np.matmul(weights[own], values[group[own]], out=context[own])

    share(fill, shares(len(weights), workers), workers)
    return context


def reference(row: Operation, given: Given, weights: Array, v: Array) -> Array:
    """context = weights @ v, head by head, side by side: [H, T, T], [T, G*D] -> [T, H*D]"""
    kind = row.kind
    assert isinstance(kind, Context)
    values = v.reshape(len(v), -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]
    return (weights @ values).swapaxes(0, 1).reshape(len(v), -1)


def spread(kind: Context, sizes: Sizes) -> Spread:
    """A sum over the keys."""
    return Spread(sizes.length, halves=True)


def size(row: Operation, given: Given, value: Array, weights: Array, v: Array) -> Array:
    """The sum of the magnitudes."""
    kind = row.kind
    assert isinstance(kind, Context)
    length = len(v)
    of_v = np.abs(v).reshape(length, -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]  # [H, T, D]
    return (np.abs(weights) @ of_v * (1 + length / 16)).swapaxes(0, 1).reshape(length, -1)
