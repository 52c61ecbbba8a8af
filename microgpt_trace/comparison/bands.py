"""How far apart two right runs may lie: a band for every row of every event, with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..brief import one_line
from ..events import EventSpec, causal_mask
from ..stats import Array, median
from .measures import Rows
from .rounding import Compute

# Relative error of a float32 engine after one layer. On SmolLM2 PyTorch's worst row of any event lies
# within 0.49 of the band that this gives, over 24 prompts.
ROUNDING = 1e-5
AMPLIFIED = 4.0  # in scores, where products cancel, and in weights and probs, where errors are exponents
UNIT = 2.0**-24  # float32's largest relative error of one rounding
SUMS = 8.0  # roundings that a score of many products has
LARGEST = 1e4  # a score beyond is no score: it stands for a mask
# Two right engines stray in different ways. Over 24 prompts through SmolLM2, PyTorch's rows in bf16 and
# f16 lie at most 7.5 times as far from ours as our own rounded ones and nine tenths of all rows do (10.7
# times in attention weights, where a row may have two elements), and the median row 2.4 times.
FACTOR, PEAKED, TYPICAL = 12.0, 1.5, 3.0
UNRELATED = 1.2  # rows of a size that have nothing to do with each other lie 1.4 apart
MOST, ENOUGH = 0.9, 4  # of the rows; rows whose median says something


@dataclass(frozen=True)
class Tolerance:
    """What was allowed, in words. `factor` multiplies a measured distance; None where none was."""

    kind: str  # "float32", "bf16", "f16", "q8", "calibrated", "given"
    reason: str
    factor: float | None = None
    rtol: float | None = None
    atol: float | None = None

    __repr__ = one_line


def _largest_seen(scores: Array) -> float:
    """The largest magnitude among scores [H, T, S] that a query may look at."""
    seen = np.where(causal_mask(*scores.shape[-2:]), scores, 0)
    return float(np.nanmax(np.abs(seen), initial=0.0))


class Bands:
    """Gives the band of each row, as the events come by in order of computation."""

    def __init__(self, tolerance: Tolerance, layers: int, compute: Compute | None = None) -> None:
        self.tolerance, self._layers, self.atol = tolerance, layers, tolerance.atol or 0.0
        self._floor = 0.0 if compute is None or compute.inputs else compute.unit
        self._noise = {-1: 1.0}  # after layer i, in units of ROUNDING, squared

    def note(self, spec: EventSpec, values: Sequence[Array]) -> None:
        """Scores of a large magnitude round to an absolute error, which softmax makes a relative one. The
        side with the smaller ones counts: the other's may be wrong, or hold what stands for a mask."""
        if not spec.name.endswith(".scores") or spec.layer is None:
            return
        largest = min(_largest_seen(value) for value in values)
        own = SUMS * UNIT * min(largest, LARGEST) / ROUNDING
        self._noise[spec.layer] = self._before(spec.layer) + 1 + own * own

    def _before(self, layer: int) -> float:
        """The squared noise that enters a layer."""
        known = max(i for i in self._noise if i < layer)
        return self._noise[known] + (layer - 1 - known)

    def _noise_in(self, spec: EventSpec) -> float:
        if spec.layer is not None:
            return self._noise.get(spec.layer, self._before(spec.layer) + 1)
        return 1.0 if spec.stage == "embedding" else self._before(self._layers) + 1

    def of(self, spec: EventSpec, rows: Rows, third: Rows | None) -> Array:
        """The band of every row; a third run's distance widens it where there is one."""
        given = self.tolerance
        if given.rtol is not None:
            return np.full(len(rows.d), given.rtol)
        noise = self._noise_in(spec)
        peaked = is_peaked(spec)
        amplified = peaked or spec.name.endswith(".scores")
        own = ROUNDING * math.sqrt(noise) * (AMPLIFIED if amplified else 1.0)
        if third is None or given.factor is None:
            return np.full(len(rows.d), own)
        factor = given.factor * (PEAKED if peaked else 1.0)
        return np.minimum(own + _strayed(rows.strict(), third.strict(), factor, self._floor), UNRELATED)


def is_peaked(spec: EventSpec) -> bool:
    """Whether the values are exponentials: probabilities, or what follows from them."""
    return spec.name.endswith(".weights") or spec.name in ("probs", "loss")


def _strayed(found: Array, third: Array, factor: float, floor: float) -> Array:
    """How far rows may lie apart where a third run's do so: `factor` times its row or nine tenths of all
    its rows. Where the median row strays more than two medians can, all rows have the lesser band."""
    if not len(third):
        return third
    usual = np.sort(third)[int(MOST * (len(third) - 1))]
    band = factor * np.maximum(np.maximum(third, usual), floor)
    typical = factor * TYPICAL / FACTOR * max(median(third), floor)
    off = len(found) >= ENOUGH and median(found) > typical
    return np.minimum(band, typical) if off else band


def tolerance_of(
    compute: Compute | None, calibrated: str | None, factor: float | None, rtol: float | None,
    atol: float | None,
) -> Tolerance:  # fmt: skip
    """The tolerance that was asked for, and why it is what it is."""
    times = FACTOR if factor is None else factor
    typical = f"{times * TYPICAL / FACTOR:g}"
    if rtol is not None or atol is not None:
        words = f"given: rtol {rtol or 0:g}, atol {atol or 0:g}"
        return Tolerance("given", words, None, rtol or 0.0, atol or 0.0)
    if calibrated is not None:
        reason = f"{times:g} times the distance of {calibrated}, row by row; {typical} in the median"
        return Tolerance("calibrated", reason, times)
    if compute is not None:
        reason = f"{times:g} times what our own forward strays with {compute.words}; {typical} in the median"
        return Tolerance(compute.name, reason, times)
    reason = f"float32 rounding: {ROUNDING:g} of a row after a layer, grown with the root of the depth"
    return Tolerance("float32", reason)
