"""Fitting: the number of a mistake that leaves least of a dump's error, and which others fit as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays.stats import Array
from .evidence import Seen
from .hypothesis import Family, Range

STEP = 1e-4  # between two predictions whose difference is a slope
STEPS, HALVINGS = 24, 6
SETTLED = 1e-10  # of the errors' squares: no step gains more
PROMISING, HOPEFUL, SLOW = 0.8, 0.25, 0.05  # of the errors' squares are left: nothing comes of it
WIDENINGS, NARROWINGS = 48, 9  # steps on the way out of what fits as well, and back to its edge

Predict = Callable[[float], "Array | None"]  # rows that would follow; None where nothing does


def best_of(family: Family, predict: Predict, seen: Seen, right: Array) -> float | None:
    """The number that leaves least, from the best start (or the model's own number, of which follows what
    is `right`) on by least squares along the slope; None where none leaves clearly less than that."""
    tried = {value: predict(value) for value in dict.fromkeys((*family.starts, *family.special))}
    known = {value: rows for value, rows in tried.items() if rows is not None}
    if family.own is not None and math.isfinite(family.own):
        known[family.own] = right
    if not known:
        return None
    value = min(known, key=lambda v: seen.left(known[v]))
    rows, left, most = known[value], seen.left(known[value]), seen.left(right)
    for _ in range(STEPS):
        slope = _slope(family, predict, value, rows)
        if slope is None:
            break
        weighed = slope / seen.sizes
        by = float((weighed * (seen.found - rows) / seen.sizes).sum() / np.square(weighed).sum())
        moved = _moved(family, predict, seen, (value, left), by)
        if moved is None:
            break
        gain = left - moved[2]
        value, rows, left = moved
        if left > PROMISING * most or gain <= (SETTLED if left < HOPEFUL * most else SLOW) * left:
            break
    return value if left < PROMISING * most else None


def _slope(family: Family, predict: Predict, value: float, rows: Array) -> Array | None:
    """How the rows change with the number's step, from the side that lies within the bounds."""
    at = family.step(value)
    if not math.isfinite(at):  # where there is no step: from a number next to it
        return None
    size = STEP * (max(1.0, abs(at)) if family.pivot is None else 1.0)
    for by in (size, -size):
        other = family.value(at + by)
        moved = predict(other) if other != value else None
        if moved is not None:
            slope = (moved - rows) / (family.step(other) - at)
            return slope if slope.any() and np.isfinite(slope).all() else None
    return None


def _moved(
    family: Family, predict: Predict, seen: Seen, start: tuple[float, float], by: float
) -> tuple[float, Array, float] | None:
    """The number after a step, or after a part of it, that leaves less; None where none does."""
    value, left = start
    for _ in range(HALVINGS):
        other = family.value(family.step(value) + by)
        rows = predict(other) if other != value else None
        if rows is not None and seen.left(rows) < left:
            return other, rows, seen.left(rows)
        by /= 4
    return None


def range_of(
    family: Family, predicts: Sequence[Predict], seen: Seen, best: float, tolerances: Array
) -> Range:
    """The numbers on both sides of the best that the values do not speak against, of one way at least in
    which they may be computed; the best is that of the first."""
    rows = predicts[0](best)
    assert rows is not None

    def fits(value: float) -> bool:
        others = (predict(value) for predict in predicts)
        return any(o is not None and not seen.speaks_for(rows, o, tolerances) for o in others)

    return Range(_edge(family, best, fits, -1), best, _edge(family, best, fits, 1))


def _edge(family: Family, best: float, fits: Callable[[float], bool], side: int) -> float:
    """How far numbers fit on one side: steps that double until one does not, then halves of the last."""
    bound = family.high if side > 0 else family.low
    if best == bound:
        return best
    start = family.step(best)
    inner, outer = 0.0, 1e-9 * (max(1.0, abs(start)) if family.pivot is None else 1.0)
    for _ in range(WIDENINGS):
        value = family.value(start + side * outer)
        if not fits(value):
            break
        if value == bound or not math.isfinite(family.step(value)):
            return bound
        inner, outer = outer, 2 * outer
    else:
        return bound
    for _ in range(NARROWINGS):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if fits(family.value(start + side * middle)) else (inner, middle)
    return family.value(start + side * outer)


def common(ranges: Sequence[Range]) -> Range | None:
    """The numbers that fit everywhere; None where there is none."""
    if not ranges:
        return None
    low, high = max(r.low for r in ranges), min(r.high for r in ranges)
    best = ranges[0].best
    return Range(low, min(max(best, low), high), high) if low <= high else None
