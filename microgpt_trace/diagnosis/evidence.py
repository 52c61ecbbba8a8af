"""Decide which of two explanations the values of a dump support. Fit the number in a mistake (such as an
eps), and find the range of numbers that fit equally well.

The dump's values are projected on the line between two predictions: 0 is the first prediction, 1 is the
second. The standard error of this projection follows from the errors of the first prediction. Errors within a
row may have one common cause, such as the row's norm, so each row contributes one error to the standard
error. This error is at least ROW_ALIKE times the row's tolerance. All rows together may also have a common
error. Predictions that differ by less than ALL_ALIKE times the tolerance cannot be distinguished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays.stats import Array
from ..rounding.precision import PRECISIONS
from .hypothesis import Family, Range

ROW_ALIKE, ALL_ALIKE = 1 / 8, 1 / 3  # common error of one row and of all rows, as a share of the tolerance
SURELY = 5.0  # smallest distance of the values from a rejected prediction, in standard errors
CLOSE = 0.25  # values support a prediction within this share of the distance between two predictions
MOST = 1 << 20  # the largest number of elements examined
TINY = 2.0**-24  # an element counts as at least this size, relative to the row's size
STEP = 1e-4  # step of the finite difference for a slope
STEPS, SHORTENINGS = 24, 6
SETTLED = 1e-10  # the search ends when a step reduces the squared error by less than this share
# The search ends if the error exceeds PROMISING times the error of the right values. Above HOPEFUL times the
# error of the right values, the search also ends if a step reduces the error by less than the share SLOW.
PROMISING, HOPEFUL, SLOW = 0.8, 0.25, 0.05
WIDENINGS, NARROWINGS = 48, 9  # maximum number of steps outwards that double, and of steps back that halve

Predict = Callable[[float], "Array | None"]  # number -> predicted rows, or None if there is no prediction


class Seen:
    """The values of an event of a dump, as rows [R, n] in float64, for comparison with predictions.
    `compared` marks the entries to compare, as in `compare_rows`. Only some rows of a large event are used.
    If `elements` is True, no terms cancel in the event, and errors are also relative to single elements."""

    def __init__(
        self, found: Array, expected: Array, compared: Array | None, precision: str, elements: bool = False
    ) -> None:
        width = found.shape[-1] if found.ndim else 1
        rows = found.reshape(-1, width)
        count = max(1, min(len(rows), MOST // width))
        self._rows = np.unique(np.linspace(0, len(rows) - 1, count).astype(int))
        self._shape = found.shape
        marks = np.isfinite(rows[self._rows])
        if compared is not None:
            whole = np.broadcast_to(compared, (len(rows) // len(compared), *compared.shape))
            marks &= whole.reshape(-1, width)[self._rows]
        self._marks = marks
        self.found = np.where(marks, rows[self._rows], 0).astype(np.float64)
        self._count = np.maximum(marks.sum(axis=1, keepdims=True), 1)
        sizes, right = self._size(self.found), self._size(self.rows_of(expected))
        sizes = np.where(sizes > 0, sizes, right)  # a row of zeros gets the expected size
        self.sizes = np.where(sizes > 0, sizes, 1.0)  # RMS, [R, 1]
        self._elements, self._smallest = elements, PRECISIONS[precision].smallest

    def _size(self, rows: Array) -> Array:
        return np.sqrt(np.square(rows).sum(axis=1, keepdims=True) / self._count)

    def rows_of(self, values: Array) -> Array:
        """Return the rows of a prediction. Elements that are not finite are replaced by the dump's values."""
        width = self._marks.shape[1]
        rows = np.broadcast_to(values, self._shape).reshape(-1, width)[self._rows].astype(np.float64)
        return np.where(self._marks & np.isfinite(rows), rows, self.found)

    def of_rows(self, per_row: Array) -> Array:
        """Select the numbers of the used rows, [R, 1], from a number for each row of the event."""
        return np.asarray(per_row)[self._rows][:, None]

    def error(self, prediction: Array) -> float:
        """Return the mean squared error of a prediction, relative to the size of each row."""
        errors = (self.found - prediction) / self.sizes
        return float(np.square(errors).sum() / max(int(self._marks.sum()), 1))

    def prefers(self, one: Array, other: Array, tolerances: Array) -> bool:
        """Return True if the values support the prediction `one` and reject the prediction `other`. Errors
        are relative to the size of the row or of the element. `tolerances` are the rows' tolerances, [R,
        1]."""
        if self._prefers(one, other, self.sizes, tolerances):
            return True
        if not self._elements:
            return False
        smallest = np.maximum(TINY * self.sizes, self._smallest) + 0 * one
        elements = np.maximum.reduce([np.abs(one), np.abs(other), np.abs(self.found), smallest])
        return self._prefers(one, other, elements, tolerances)

    def _prefers(self, one: Array, other: Array, scale: Array, tolerances: Array) -> bool:
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
    """Return the number with the smallest error, or None if no error is clearly below the error of the
    `right` values. The search begins at a start, a special number or the model's number, whichever predicts
    best. The model's number predicts the `right` values. Each step is a least-squares fit along the slope,
    and is shortened until the error falls."""
    starts = {value: predict(value) for value in dict.fromkeys((*family.starts, *family.special))}
    predictions = {value: rows for value, rows in starts.items() if rows is not None}
    if family.own is not None and math.isfinite(family.own):
        predictions[family.own] = right
    if not predictions:
        return None
    value = min(predictions, key=lambda v: seen.error(predictions[v]))
    rows, error, most = predictions[value], seen.error(predictions[value]), seen.error(right)
    for _ in range(STEPS):
        slope = _slope(family, predict, value, rows)
        if slope is None:
            break
        weighed = slope / seen.sizes
        by = float((weighed * (seen.found - rows) / seen.sizes).sum() / np.square(weighed).sum())
        shorter = (family.value(family.step(value) + by / 4**n) for n in range(SHORTENINGS))
        predicted = ((other, predict(other)) for other in shorter if other != value)
        steps = ((other, near, seen.error(near)) for other, near in predicted if near is not None)
        step = next((step for step in steps if step[2] < error), None)
        if step is None:
            break
        gain = error - step[2]
        value, rows, error = step
        if error > PROMISING * most or gain <= (SETTLED if error < HOPEFUL * most else SLOW) * error:
            break
    return value if error < PROMISING * most else None


def _slope(family: Family, predict: Predict, value: float, rows: Array) -> Array | None:
    """Return the derivative of the predicted rows by `family.step(number)`, or None for constant rows."""
    at = family.step(value)
    if not math.isfinite(at):
        return None
    size = STEP * (max(1.0, abs(at)) if family.pivot is None else 1.0)
    for by in (size, -size):
        other = family.value(at + by)
        near = predict(other) if other != value else None
        if near is not None:
            slope = (near - rows) / (family.step(other) - at)
            return slope if slope.any() and np.isfinite(slope).all() else None
    return None


def range_of(
    family: Family, predicts: Sequence[Predict], seen: Seen, best: float, tolerances: Array
) -> Range:
    """Return the range of numbers around the best number that the values do not exclude. A number fits if the
    prediction of at least one function in `predicts` fits. `predicts[0]` was used to find the best number."""
    rows = predicts[0](best)
    assert rows is not None

    def fits(value: float) -> bool:
        others = (predict(value) for predict in predicts)
        return any(o is not None and not seen.prefers(rows, o, tolerances) for o in others)

    return Range(_edge(family, best, fits, -1), best, _edge(family, best, fits, 1))


def _edge(family: Family, best: float, fits: Callable[[float], bool], side: int) -> float:
    """Return the last number that fits on one side of the best number, by steps that double and then
    halve."""
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
    """Return the intersection of the ranges, or None if the intersection is empty."""
    if not ranges:
        return None
    low, high = max(r.low for r in ranges), min(r.high for r in ranges)
    return Range(low, min(max(ranges[0].best, low), high), high) if low <= high else None
