"""Arrays that a page works out itself, held as how far the run's roundings lie apart. Knows no page.

The page works an array out in float64 from what is held of its inputs and rounds it to float32. The run
rounded on the way, so that it lies a few steps of a float32 off: these are held, a byte each, which deflate
to a tenth of the numbers. Where a float64 lies so near the middle of two float32 that another order of
summing could round it otherwise, and where the run is far off, the number itself is held. A sum of all tells
whether the page has restored what the run had.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ...architecture.formulas.evaluate import FormulaInputs, evaluated
from ...architecture.formulas.formula import Formula
from ...arrays.stats import Array

FARTHEST = 100  # steps of a float32 that a byte holds
MIDDLE = 0.499  # of a step: from there on the middle of two float32 is near
SMALLEST = 1e-36  # below it float32 loses digits
MOST = 0.25  # share of numbers that are held themselves, beyond which the array is


class Roundings(NamedTuple):
    """The steps of each element (128 is none, 0 stands for a number that is held itself), the numbers that
    are, and the sum of all elements' places among the float32."""

    steps: Array
    numbers: Array
    total: int


def roundings(array: Array, ways: Iterable[Formula], given: FormulaInputs) -> Roundings | None:
    """What is held of an array that is the sum of the ways; None where that would save nothing."""
    worked = sum(evaluated(way, given).reshape(-1) for way in ways)
    own = np.ascontiguousarray(array, np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        rounded = np.asarray(worked, np.float64).astype(np.float32)
        apart = np.abs(worked - rounded.astype(np.float64)) / np.spacing(np.abs(rounded)).astype(np.float64)
        steps = places(own) - places(rounded)
        whole = (np.abs(steps) > FARTHEST) | ~(apart < MIDDLE) | ~np.isfinite(own)
        whole |= (np.abs(worked) < SMALLEST) & (worked != 0)
    if whole.mean() > MOST:
        return None
    return Roundings(
        np.where(whole, 0, steps + 128).astype(np.uint8), own[whole], int(places(own).sum() % (1 << 32))
    )


def places(values: Array) -> Array:
    """The place of each float32 among all, from the largest below 0 on: integers that differ by 1 are
    neighbours."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
