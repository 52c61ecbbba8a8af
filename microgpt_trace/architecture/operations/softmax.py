"""Softmax: what part of its attention each query gives to each key that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...arrays.heads import shares
from ...arrays.linear import IGNORE, share
from ...arrays.stats import Array
from ..kinds import Softmax
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread, terms
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultySoftmax(Softmax):
    """Sees so many positions `ahead` (-1: not even itself), has another `base` than e, sums over another
    `axis` than that of the keys."""

    ahead: int = 0
    base: float = math.e
    axis: int = -1


def forward(row: Operation, run: Shared, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [n*H, T, S] -> [n*H, T, S]"""
    kind = row.kind
    assert isinstance(kind, Softmax)
    length, keys = scores.shape[1:]
    return softmax_forward(scores, seen_keys(length, keys, kind.window), run.attention_workers)


def softmax_forward(scores: Array, seen: Array, workers: int) -> Array:
    """softmax over the keys that are seen, 0 elsewhere: [H, T, S], [T, S] -> [H, T, S]"""
    weights, lowest = np.empty_like(scores), scores.dtype.type(-np.inf)

    @IGNORE
    def fill(own: slice) -> None:
        z = np.where(seen, scores[own], lowest)
        z -= z.max(axis=-1, keepdims=True)
        np.exp(z, out=z)
        np.divide(z, z.sum(axis=-1, keepdims=True), out=weights[own])

    share(fill, shares(len(scores), workers), workers)
    return weights


def seen_keys(length: int, seen: int, window: int | None) -> Array:
    """Which positions a query may look at: [T, S] of booleans, the last T rows of a causal mask."""
    back = np.arange(seen - length, seen)[:, None] - np.arange(seen)  # how far back the key lies
    return (back >= 0) if window is None else (back >= 0) & (back < window)


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
