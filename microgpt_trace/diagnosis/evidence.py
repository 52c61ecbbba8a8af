"""Evidence: which of two explanations a dump's values speak for, if for either; the number of a mistake that
leaves least of the dump's error, and which others fit as well. Knows no explanation.

Of two predictions the dump's values lie somewhere on the line from one (0) to the other (1). How surely is
estimated from what the first leaves, row by row, for a row's errors may be alike (its norm's root, a table
of cosines): never less than a share of what a right engine may err, all of it in that direction. The errors
of all rows may be alike too (the same number rounded in each), so that predictions closer than a share of
what is allowed are never told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays.stats import Array
from .hypothesis import Family, Range

ROW_ALIKE, ALL_ALIKE = 1 / 8, 1 / 3  # of the tolerance may be one error that lies just so
SURELY = 5.0  # standard errors from the other prediction
CLOSE = 0.25  # of the way to the other prediction: the dump is at the first one
MOST = 1 << 20  # elements looked at
TINY = 2.0**-24  # of a row: an element is not smaller
SMALLEST = {"f16": 2.0**-14}  # number of a whole fraction
STEP = 1e-4  # between two predictions whose difference is a slope
STEPS, HALVINGS = 24, 6
SETTLED = 1e-10  # of the errors' squares: no step gains more
PROMISING, HOPEFUL, SLOW = 0.8, 0.25, 0.05  # of the errors' squares are left: nothing comes of it
WIDENINGS, NARROWINGS = 48, 9  # steps on the way out of what fits as well, and back to its edge

Predict = Callable[[float], "Array | None"]  # rows that would follow; None where nothing does


class Seen:
    """The values of an event of a dump that predictions are held against: rows [R, n], float64.

    `compared` marks entries that count, as in `compare_rows`; of a large event some rows are taken. With
    `elements` nothing cancels in an element: it errs relative to its own size.
    """

    def __init__(
        self, found: Array, expected: Array, compared: Array | None, precision: str, elements: bool = False
    ) -> None:
        width = found.shape[-1] if found.ndim else 1
        rows = found.reshape(-1, width)
        self._rows = np.unique(
            np.linspace(0, len(rows) - 1, max(1, min(len(rows), MOST // width))).astype(int)
        )
        self._shape = found.shape
        marks = np.isfinite(rows[self._rows])
        if compared is not None:
            whole = np.broadcast_to(compared, (len(rows) // len(compared), *compared.shape))
            marks &= whole.reshape(-1, width)[self._rows]
        self._marks = marks
        self.found = np.where(marks, rows[self._rows], 0).astype(np.float64)
        self._count = np.maximum(marks.sum(axis=1, keepdims=True), 1)
        sizes, right = self._size(self.found), self._size(self.rows_of(expected))
        sizes = np.where(sizes > 0, sizes, right)  # a row of zeros is beside what it should be
        self.sizes = np.where(sizes > 0, sizes, 1.0)  # [R, 1]: root of the mean square
        self._elements, self._smallest = elements, SMALLEST.get(precision, 0.0)

    def _size(self, rows: Array) -> Array:
        return np.sqrt(np.square(rows).sum(axis=1, keepdims=True) / self._count)

    def rows_of(self, values: Array) -> Array:
        """A prediction's rows; where it is not finite it says nothing, and stands for what was found."""
        width = self._marks.shape[1]
        rows = np.broadcast_to(values, self._shape).reshape(-1, width)[self._rows].astype(np.float64)
        return np.where(self._marks & np.isfinite(rows), rows, self.found)

    def of_rows(self, per_row: Array) -> Array:
        """A number per row of the event, for the rows that are looked at: [R, 1]"""
        return np.asarray(per_row)[self._rows][:, None]

    def left(self, prediction: Array) -> float:
        """The mean square of what a prediction's rows leave, relative to the rows."""
        apart = (self.found - prediction) / self.sizes
        return float(np.square(apart).sum() / max(int(self._marks.sum()), 1))

    def speaks_for(self, one: Array, other: Array, tolerances: Array) -> bool:
        """Whether the values are at `one` and surely not at `other`, taken as they are or each element
        beside its own size. `tolerances` are those of the rows, [R, 1]."""
        if self._told(one, other, self.sizes, tolerances):
            return True
        if not self._elements:
            return False
        smallest = np.maximum(TINY * self.sizes, self._smallest) + 0 * one
        elements = np.maximum.reduce([np.abs(one), np.abs(other), np.abs(self.found), smallest])
        return self._told(one, other, elements, tolerances)

    def _told(self, one: Array, other: Array, scale: Array, tolerances: Array) -> bool:
        way = (other - one) / scale
        length = float(np.square(way).sum())
        most = tolerances * np.abs(way).sum(axis=1, keepdims=True)
        if not length or ALL_ALIKE * float(most.sum()) > length:
            return False
        along = (way * (self.found - one) / scale).sum(axis=1, keepdims=True)
        place = float(along.sum()) / length
        error = float(np.sqrt(np.square(np.maximum(np.abs(along), ROW_ALIKE * most)).sum())) / length
        return abs(place) <= CLOSE and 1 - place >= SURELY * error


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
