"""How many bits the numbers of a parameter really use, which may be fewer than its type has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..arrays.stats import Array
from .stored_rounding import FACTOR, QuantisationDistance, Values, float_steps

_PLACES, _LONGEST = 64, 1 << 13  # where numbers are read, and how many at most at each place
_MOST_BITS, _MANY = 8, 64  # the most bits that are recognised, and the result for more bits
_OFF_GRID = 0.2  # allowed distance of a gap from whole steps. BF16 rounds 32 steps by up to 1/8 of a step.
# The least share of the range of integers that quantisers use. llama.cpp tries scales that use only 0.66 of a
# range of 2 or 3 bits. An unused bit leaves 0.5 of the range.
_LEAST_RANGE = 0.6


def bits_of_type(type: str) -> int:
    """Return the bits of each number of a type, without scales: 4 for Q4_1, 16 for BF16."""
    return int(re.findall("[0-9]+", type)[0])


def narrowed(values: Values, type: str) -> Values | None:
    """Return F32 or F16 values with the steps of `type`, BF16 or F16, or None if not all numbers fit it."""
    if values.type not in ("F32", "F16"):
        return None
    step = max(1, _LONGEST // max(1, math.prod(values.shape[1:])))
    for start in range(0, values.shape[0], step):
        rows = np.ascontiguousarray(values.rows(start, min(start + step, values.shape[0])))
        with np.errstate(over="ignore"):
            fits = rows.view(np.uint32) & 0xFFFF == 0 if type == "BF16" else rows.astype(np.float16) == rows
        if not fits.all():
            return None

    def steps(start: int, stop: int) -> Array:
        return np.maximum(values.steps(start, stop), float_steps(values.rows(start, stop), type))

    return replace(values, type=type, steps=steps)


def _runs(values: Values, rows: Callable[[int, int], Array], size: int) -> Array:
    """Return runs of neighbouring elements from all parts of a parameter: [n, size] float64"""
    count = min(values.shape[0], -(-size // max(1, math.prod(values.shape[1:]))))
    places = np.unique(np.linspace(0, values.shape[0] - count, _PLACES).astype(int))
    read = [rows(i, i + count).reshape(-1)[:_LONGEST] for i in map(int, places)]
    runs = [own[: own.size // size * size].reshape(-1, size) for own in read]
    return np.concatenate(runs).astype(np.float64)


def bits_used(values: Values) -> int:
    """Return how many bits distinguish neighbouring numbers, or 64 if more than 8 bits are needed.

    If 32 neighbours have at most 16 different numbers, these are counted. Otherwise, the gaps between the
    numbers must be multiples of a step, because the numbers were rounded to a grid.
    """
    bits = [_MANY]
    for size in (32, 16):  # some types have grids for 16 elements
        runs = np.sort(_runs(values, values.rows, size))
        gaps = np.diff(runs[np.isfinite(runs).all(axis=1) & (runs[:, 0] < runs[:, -1])])
        if not len(gaps):
            continue
        different = np.quantile(1 + np.count_nonzero(gaps, axis=1), 0.95)
        if size == 32 and different <= 16:
            return math.ceil(math.log2(different))
        steps, off = _whole_steps(np.sort(gaps))
        on = (off < _OFF_GRID) & (steps < 2**_MOST_BITS)
        if on.mean() > 0.25:
            bits.append(math.ceil(math.log2(np.quantile(steps[on], 0.98) + 1)))
    return min(bits)


def _whole_steps(gaps: Array) -> tuple[Array, Array]:
    """Find a step that divides the gaps of each run, which are sorted. Return the sum of the gaps in steps,
    and the largest distance of a gap from whole steps: [n, gaps] -> [n], [n]"""
    gaps[gaps < 0.5**_MOST_BITS / 2 * gaps.sum(axis=1, keepdims=True)] = 0  # equal before a second rounding
    steps, counts = np.zeros(len(gaps)), np.zeros(gaps.shape)
    step = np.where(gaps > 0, gaps, np.inf).min(axis=1)
    for i, gap in enumerate(gaps.T):  # each gap improves the estimate of the step
        counts[:, i] = np.rint(gap / step)
        steps += counts[:, i]
        step = np.where(steps > 0, gaps[:, : i + 1].sum(axis=1) / np.maximum(steps, 1), step)
    return steps, np.abs(gaps / step[:, None] - counts).max(axis=1)


def wasted_bits(values: Values, distance: QuantisationDistance) -> int:
    """Return how many bits of a quantised type are not used, although using them would reduce the error.

    `distance` is the distance of `values` from the original. If integers use a small part of their range, the
    steps are too large, and seem to explain the error.
    """
    tensor, expected = values.tensor, distance.expected
    if tensor is None or not expected or tensor.encoding.unpack is None or tensor.encoding.codebook:
        return 0
    runs, steps = (_runs(values, rows, 16) for rows in (values.rows, values.steps))
    bits, step = bits_of_type(values.type), steps.max(axis=1)
    shares = np.abs(runs).max(axis=1) / 2 ** (bits - 1)  # of a range of integers around 0, times the step
    if tensor.encoding.minima:
        shares = np.ptp(runs, axis=1) / (2**bits - 1)
    used = float(np.median(shares[step > 0] / step[step > 0])) if step.any() else 1.0
    if used > _LEAST_RANGE or distance.relative_l2 <= FACTOR * expected * used:
        return 0
    return min(bits - 1, round(-math.log2(max(used, 0.5**bits))))
