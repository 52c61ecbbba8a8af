"""Softmax: what part of its attention each query gives to each key that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Softmax
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread, terms


@dataclass(frozen=True, eq=False, repr=False)
class FaultySoftmax(Softmax):
    """Sees so many positions `ahead` (-1: not even itself), has another `base` than e, sums over another
    `axis` than that of the keys."""

    ahead: int = 0
    base: float = math.e
    axis: int = -1


def reference(row: Operation, given: Given, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [H, T, T] -> [H, T, T]"""
    kind = row.kind
    assert isinstance(kind, Softmax)
    base, axis = (kind.base, kind.axis) if isinstance(kind, FaultySoftmax) else (math.e, -1)
    masked = np.where(visible(kind, scores.shape[-1]), scores * math.log(base), -np.inf)
    exp = np.exp(masked - masked.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def visible(kind: Softmax, length: int) -> Array:
    """Which keys each query sees, itself and those before it within the window: [T, T] of booleans"""
    if isinstance(kind, FaultySoftmax) and kind.ahead:
        back = np.arange(length)[:, None] - np.arange(length)
        return (back >= -kind.ahead) & (back < (kind.window or length))
    below = np.tri(length, dtype=bool)
    return below if kind.window is None else below & ~np.tri(length, k=-kind.window, dtype=bool)


def spread(kind: Softmax, sizes: Sizes) -> Spread:
    """A sum over the keys."""
    return Spread(sizes.length, peaked=True)


def size(row: Operation, given: Given, value: Array, scores: Array) -> Array:
    """exp(z) is off by itself times what z is off by, its sum by roundings of its own."""
    return of_softmax(value)


def of_softmax(value: Array) -> Array:
    """The same of any softmax along its last axis."""
    return value * (terms(value.shape[-1]) - np.log(np.where(value > 0, value, 1)))
