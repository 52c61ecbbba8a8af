"""Context: the values of the keys, each by its weight."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ..kinds import Context
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread


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
