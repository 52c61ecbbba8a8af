"""Sketches: what is kept of an array to recognise it by. Knows no names of events and no files.

Letters: N elements of a sketch, R rows of it, E arrays of one shape that another is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array

ROWS, ELEMENTS = 16, 512  # of a sketch, at most
CLIP = np.float32(4)  # medians: a channel of huge values must not decide alone (SmolLM2's stream has such)
SAME = 1e-2  # relative L2 below which values agree: bfloat16 keeps 4e-3
ALIKE = 0.5  # cosine from which two arrays look like the same computation
_TINY = np.float32(1e-30)


class Sketch(NamedTuple):
    """Elements [N] of some rows of an array, and the norms [R] of those rows; float32."""

    values: Array
    norms: Array


def sketch(array: Array, causal: bool) -> Sketch:
    """Keep the same elements of every array [.., T, W] of one shape; with `causal`, [.., T, S], only those
    whose key is not later than their query."""
    array = np.atleast_2d(array)
    rows, columns, counted = _sample(array.shape, causal)
    chosen = array[np.unravel_index(rows, array.shape[:-1])].astype(np.float32)  # [R, W]
    return Sketch(chosen[:, columns][counted], np.linalg.norm(chosen, axis=1))


@lru_cache(maxsize=64)
def _sample(shape: tuple[int, ...], causal: bool) -> tuple[Array, Array, Array]:
    """Rows and columns that are kept, and which of their elements count: [R], [C], [R, C]"""
    rng, height, width = np.random.default_rng(0), math.prod(shape[:-1]), shape[-1]
    rows = np.sort(rng.choice(height, min(height, ROWS), replace=False))
    columns = np.sort(rng.choice(width, min(width, ELEMENTS // len(rows)), replace=False))
    queries = rows % shape[-2] + width - shape[-2]
    return rows, columns, (columns <= queries[:, None]) | (not causal)


class Likeness(NamedTuple):
    """How like an array is to each of E others, with magnitudes clipped at 4 medians: the relative L2
    and the cosine, whether it looks like the same computation, and the share of elements that are finite
    in both, which all this is about."""

    distance: Array
    cosine: Array
    alike: Array  # booleans
    known: Array


class Stack:
    """The sketches of E arrays of one shape."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        values = np.stack([one.values for one in sketches])
        self.finite = np.isfinite(values)
        magnitudes = np.where(self.finite & (values != 0), np.abs(values), np.nan)  # [E, N]
        magnitudes[np.isnan(magnitudes).all(axis=1)] = 1
        self.scale = np.nanmedian(magnitudes, axis=1, keepdims=True)
        self.clipped = np.where(self.finite, np.clip(values / self.scale, -CLIP, CLIP), 0)
        self.norms = np.stack([one.norms for one in sketches])  # [E, R]

    def compare(self, one: Sketch) -> Likeness:
        """How like an array is to each of these. Rows of equal norms look like the same computation too:
        those survive a wrong pairing of RoPE and the order of GGUF's rows."""
        known = self.finite & np.isfinite(one.values)
        mine = np.where(known, np.clip(one.values / self.scale, -CLIP, CLIP), 0)
        theirs = np.where(known, self.clipped, 0)
        size, other, gap = (np.linalg.norm(rows, axis=1) for rows in (mine, theirs, mine - theirs))
        distance = np.where(known.any(axis=1), gap / np.maximum(other, _TINY), np.inf)
        if one.values.size == 1:  # of two numbers the cosine says only the sign
            cosine = 1 - distance
        else:
            cosine = np.einsum("en,en->e", mine, theirs) / np.maximum(size * other, _TINY)
        norms = np.linalg.norm(one.norms - self.norms, axis=1) < SAME * np.linalg.norm(self.norms, axis=1)
        return Likeness(distance, np.maximum(cosine, 0), (cosine > ALIKE) | norms, known.mean(axis=1))
