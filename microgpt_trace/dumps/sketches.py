"""Sketches: what is kept of an array to recognise it by. Knows no names of events and no files.

Letters: N elements of a sketch, R rows of it, E arrays of one shape that another is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array

ROWS, ELEMENTS = 64, 2048  # of a sketch, at most
CLIP = np.float32(4)  # medians: a channel of huge values must not decide alone (SmolLM2's stream has such)
SAME = 1e-2  # relative L2 below which values agree: bfloat16 keeps 4e-3
ALIKE = 0.5  # cosine from which two arrays look like the same computation


class Sketch(NamedTuple):
    """Elements [N] of some rows of an array, and the norms [R] of those rows; float32. `hidden` [N] are
    those that do not count, which are 0."""

    values: Array
    norms: Array
    hidden: Array


def sketch(array: Array, causal: bool) -> Sketch:
    """The same rows and columns of every array [.., T, W] of a shape; with `causal`, [.., T, S], only
    keys that are not later than their query count."""
    array = np.atleast_2d(array)
    lead, width = array.shape[:-1], array.shape[-1]
    rows, columns = _sample(math.prod(lead), width)
    chosen = array[np.unravel_index(rows, lead)].astype(np.float32)  # [R, W]
    hidden = np.zeros(chosen.shape, bool)
    if causal:
        query = rows % lead[-1] + width - lead[-1]
        hidden = np.arange(width) > query[:, None]
        chosen = np.where(hidden, np.float32(0), chosen)
    return Sketch(chosen[:, columns].ravel(), np.linalg.norm(chosen, axis=1), hidden[:, columns].ravel())


@lru_cache(maxsize=64)
def _sample(rows: int, columns: int) -> tuple[Array, Array]:
    """Which of so many rows and columns are kept."""
    rng = np.random.default_rng(0)
    some = np.sort(rng.choice(rows, min(rows, ROWS), replace=False))
    return some, np.sort(rng.choice(columns, min(columns, ELEMENTS // len(some)), replace=False))


class Likeness(NamedTuple):
    """How like an array is to each of E others.

    `distance` is the relative L2, `cosine` as it says, both with magnitudes clipped at 4 medians;
    `profile` is 1 where quantiles agree, `sign` says where both or none of the two have negative values
    (softmax leaves none). `norms` says where the norms of rows agree: those survive a
    wrong pairing of RoPE and the order of GGUF's rows. `known` is the share of elements that are finite
    in both, which all this is about.
    """

    distance: Array
    cosine: Array
    profile: Array
    sign: Array  # booleans
    norms: Array  # booleans
    known: Array

    @property
    def alike(self) -> Array:
        """Where it looks like the same computation."""
        return (self.cosine > ALIKE) | self.norms


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The sketches of E arrays of one shape."""

    clipped: Array  # [E, N], in medians of each array
    scale: Array  # [E, 1], those medians
    quantiles: Array  # [E, 9]
    norms: Array  # [E, R]
    unknown: Array  # [E, N] of booleans: neither finite

    @classmethod
    def of(cls, sketches: Sequence[Sketch]) -> Stack:
        values = np.stack([one.values for one in sketches])
        unknown = ~np.isfinite(values)
        values[unknown] = 0
        scale = _typical(values)
        norms = np.stack([one.norms for one in sketches])
        return cls(np.clip(values / scale, -CLIP, CLIP), scale, _quantiles(values) / scale, norms, unknown)

    def compare(self, one: Sketch) -> Likeness | None:
        """How like these an array is; elements that are not finite in one of two do not count, and of
        none left nothing is like. None where its sketch has another size."""
        if one.values.size != self.clipped.shape[1] or one.norms.size != self.norms.shape[1]:
            return None
        unknown = self.unknown | ~np.isfinite(one.values) | one.hidden
        plain = np.where(np.isfinite(one.values), one.values, np.float32(0))
        mine, theirs = np.clip(plain / self.scale, -CLIP, CLIP), self.clipped
        if unknown.any():
            mine, theirs = np.where(unknown, 0, mine), np.where(unknown, 0, theirs)
        distance, cosine = _distance_and_cosine(mine, theirs)
        if mine.shape[1] == 1:  # of two numbers the cosine says only the sign
            cosine = np.maximum(0.0, 1 - distance)
        distance[unknown.all(axis=1)], cosine[unknown.all(axis=1)] = np.inf, 0.0
        widest = 2 * CLIP
        quantiles = _quantiles(plain[None])  # [1, 9]
        sign = (quantiles[:, 0] < 0) == (self.quantiles[:, 0] < 0)
        spread = np.clip(quantiles / self.scale, -widest, widest)
        apart = np.abs(spread - np.clip(self.quantiles, -widest, widest)).mean(axis=1)
        near = np.linalg.norm(one.norms - self.norms, axis=1) < SAME * np.linalg.norm(self.norms, axis=1)
        known = 1 - (unknown & ~one.hidden).sum(axis=1) / max(1, np.count_nonzero(~one.hidden))
        return Likeness(distance, cosine, np.exp(-apart), sign, near, known)


def _distance_and_cosine(mine: Array, theirs: Array) -> tuple[Array, Array]:
    """Row by row, of [E, N] and [E, N] -> [E] twice; rows of zeros are equal."""
    length, other = (np.sqrt(np.einsum("en,en->e", rows, rows)).astype(np.float64) for rows in (mine, theirs))
    gap = np.linalg.norm(mine - theirs, axis=1).astype(np.float64)
    distance = np.divide(gap, other, out=np.where(gap == 0, 0.0, np.inf), where=other > 0)
    inner = np.einsum("en,en->e", mine, theirs).astype(np.float64)
    known = length * other > 0
    return distance, np.divide(inner, length * other, out=np.where(gap == 0, 1.0, 0.0), where=known)


def _typical(values: Array) -> Array:
    """The median magnitude of what is not zero, row by row, 1 where all is: [E, N] -> [E, 1]"""
    magnitudes = np.sort(np.abs(values), axis=1)
    zeros = (magnitudes == 0).sum(axis=1)
    middle = np.minimum((zeros + values.shape[1]) // 2, values.shape[1] - 1)
    median = np.take_along_axis(magnitudes, middle[:, None], axis=1)
    return np.where(median > 0, median, np.float32(1))


def _quantiles(values: Array) -> Array:
    """Nine of each row: whether it has negative values, how wide it spreads: [E, N] -> [E, 9]"""
    return np.sort(values, axis=1)[:, np.linspace(0, values.shape[1] - 1, 9).astype(int)]
