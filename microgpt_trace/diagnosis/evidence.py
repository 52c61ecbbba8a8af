"""Evidence: which of two explanations a dump's values speak for, if for either. Knows no explanation.

Of two predictions the dump's values lie somewhere on the line from one (0) to the other (1). How surely is
estimated from what the first leaves, row by row, for a row's errors may be alike (its norm's root, a table
of cosines): never less than a share of what a right engine may err, all of it in that direction. The errors
of all rows may be alike too (the same number rounded in each), so that predictions closer than a share of
what is allowed are never told apart.
"""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array

ROW_ALIKE, ALL_ALIKE = 1 / 8, 1 / 3  # of the tolerance may be one error that lies just so
SURELY = 5.0  # standard errors from the other prediction
CLOSE = 0.25  # of the way to the other prediction: the dump is at the first one
MOST = 1 << 20  # elements looked at
TINY = 2.0**-24  # of a row: an element is not smaller
SMALLEST = {"f16": 2.0**-14}  # number of a whole fraction


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
