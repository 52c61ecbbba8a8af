"""Sums of float32 numbers that float64 holds without rounding, in whatever order. Knows no model."""

from __future__ import annotations

import math

import numpy as np

from .stats import Array

SIGNIFICANT, HELD = 24, 53  # bits of a float32 and of a float64
LOWEST = -126  # the least exponent of a float32 that has all of its bits


def least_above_0(values: Array) -> tuple[float, bool]:
    """The least magnitude that is not 0, and whether one is 0; of finite numbers. Inf where all are 0."""
    sizes = np.abs(values)
    least = float(sizes.min(initial=np.inf))
    if least > 0:
        return least, False
    order = sizes.view(f"u{sizes.itemsize}")  # that of the numbers
    order -= 1  # 0 is beyond all others now
    least_order = order.reshape(-1).min(keepdims=True) + 1
    return float(least_order.view(sizes.dtype)[0]) or np.inf, True


def summable(largest: float, least: float) -> int:
    """How many float32 numbers of magnitudes from `least`, which is above 0, to `largest` float64 adds up
    without rounding: as many as leave all bits within 53, from the first of the largest to the last of the
    least."""
    span = math.frexp(largest)[1] - max(math.frexp(least)[1] - 1, LOWEST) + SIGNIFICANT - 1
    return 1 << HELD - span if span <= HELD else 0


def added_up(wide: Array, most: int) -> Array:
    """A few rows with the sums of these, of which `most` are added up without rounding: [N, C] -> [k, C]"""
    sums = -(-len(wide) // most)
    each = len(wide) // sums
    found = np.matmul(np.ones(each), wide[: sums * each].reshape(sums, each, -1))
    return np.concatenate((found, wide[sums * each :]))
