"""Scores: how well each query goes with each key, before the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays.heads import in_heads, shares
from ...arrays.linear import IGNORE, share
from ...arrays.stats import Array
from ..kinds import Scores
from ..plan import Operation
from .given import Given
from .linear import capped
from .rounding import Sizes, Spread
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultyScores(Scores):
    """With a `cap`: c * tanh(scores / c)."""

    cap: float | None = None


def forward(row: Operation, run: Shared, q: Array, k: Array) -> Array:
    """scores = q @ k.T * scale of n sequences: [n*T, H*D], [n*T, G*D] -> [n*H, T, S]"""
    kind = row.kind
    assert isinstance(kind, Scores)
    queries, keys = (in_heads(x, run.n, kind.head_dim) for x in (q, k))
    group = run.groups(kind.group, len(keys) // run.n)
    if run.cache is not None:
        keys = run.cache.extend(row.name, keys)
    return scores_forward(queries, keys, group, kind.scale, run.attention_workers)


def scores_forward(queries: Array, keys: Array, group: Array, scale: float, workers: int) -> Array:
    """scores = q @ k.T * scale, head h with the keys group[h]: [H, T, D], [G, S, D] -> [H, T, S]"""
    scores = np.empty((*queries.shape[:2], keys.shape[1]), queries.dtype)

    @IGNORE
    def fill(own: slice) -> None:
        np.matmul(queries[own], keys[group[own]].swapaxes(1, 2), out=scores[own])
        scores[own] *= scale

    share(fill, shares(len(queries), workers), workers)
    return scores


def reference(row: Operation, given: Given, q: Array, k: Array) -> Array:
    """scores = q @ k.T * scale: [T, H*D], [T, G*D] -> [H, T, T]"""
    kind = row.kind
    assert isinstance(kind, Scores)
    queries, keys = (x.reshape(len(x), -1, kind.head_dim).swapaxes(0, 1) for x in (q, k))
    scores = queries @ keys[list(kind.group)].swapaxes(1, 2) * kind.scale
    return capped(scores, kind.cap) if isinstance(kind, FaultyScores) else scores


def spread(kind: Scores, sizes: Sizes) -> Spread:
    """A sum over the width of a head."""
    return Spread(kind.head_dim, halves=True)


def size(row: Operation, given: Given, value: Array, q: Array, k: Array) -> Array:
    """|q| |k|, of which the terms may cancel."""
    kind = row.kind
    assert isinstance(kind, Scores)
    of_q, of_k = (np.linalg.norm(x.reshape(len(x), -1, kind.head_dim), axis=-1).T for x in (q, k))  # [H, T]
    return of_q[:, :, None] * of_k[list(kind.group)][:, None] * abs(kind.scale) + np.abs(value)
