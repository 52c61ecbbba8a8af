"""How far two tensors lie apart, row by row. Knows no model and no tolerance.

A row is a position's vector, or of [H, T, S] a head's scores of one query. Shape letters: n rows of K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from ..arrays.logits import kl_divergence, log_softmax
from ..arrays.stats import Array, median

FAR = 6.0  # times the RMS of a row: an element beyond it is an outlier (a normal row has none)
HIDDEN = 0.2  # the other elements' RMS over the row's, below which outliers hide them
FEWEST = 8  # columns, were they alike in size, that tell a factor from errors of single elements
CAPPED, ROUNDS = 2.0, 4  # times the mean magnitude, itself of capped ones: more an element counts not
NOTHING = 1e-5  # the same, below which they are what rounding leaves of a row of float32


@dataclass(frozen=True, slots=True, eq=False)
class RowDifferences:
    """Two tensors compared row by row: arrays [n].

    `a`, `b` and `d` are the RMS of the rows and of their difference, `rest_a` and `rest_d` the same
    without the elements that hide the others, `plain_a` that of a with the bias taken out (NaN where
    there is nothing to leave out). `largest` is the largest |difference|, in column `column`, between
    the values `of_a` and `of_b`; `odd` is the first column where only one of them is finite, which then
    counts as the largest, or -1. Of the `count` elements of a row, `alike` are not finite and the same in
    both: nothing can be said of these, and of a row where all are so. `kl` is what `with_predictions`
    measures of logits, NaN of others.
    """

    a: Array
    b: Array
    d: Array
    rest_a: Array
    rest_d: Array
    plain_a: Array
    cosine: Array
    largest: Array
    column: Array
    of_a: Array
    of_b: Array
    odd: Array
    count: Array
    alike: Array
    kl: Array

    @property
    def told(self) -> Array:
        """Which rows have an element to compare: [n] of booleans"""
        return self.alike < self.count

    def relative(self) -> Array:
        """|a - b| / max(|a|, |b|) of every row; a row smaller than the median row counts as that."""
        return _relative(self.d, np.maximum(self.a, self.b))

    def strict(self) -> Array:
        """The largest of: `relative`, the same without outliers, the same with the bias taken out."""
        found = self.relative()
        for d, size in ((self.rest_d, self.rest_a), (self.d, self.plain_a)):
            there = ~np.isnan(size)
            if there.any():
                found[there] = np.fmax(found[there], _relative(d[there], size[there]))
        found[self.odd >= 0] = np.inf
        return found

    def in_length(self) -> Array:
        """The part of `relative` by which b is longer (or shorter, negative) than a: all that a factor does
        to a row, and little of what roundings do. 0 where there is no telling."""
        longer = self.cosine * self.b - self.a
        found = _relative(np.abs(longer), np.maximum(self.a, self.b))
        return np.where(np.isinf(found), 0.0, np.copysign(found, longer))

    def in_prediction(self) -> Array:
        """sqrt(2 KL): to first order the standard deviation of the difference of two rows of logits, each
        weighted by its probability. What large logits lose counts there. 0 where there is no telling."""
        return np.sqrt(2 * np.fmax(self.kl, 0.0))


def _relative(d: Array, size: Array) -> Array:
    size = np.maximum(size, median(size)) if len(size) else size
    found = np.divide(d, size, out=np.where(d > 0, np.inf, 0.0), where=size > 0)
    return np.where(np.isnan(found), np.inf, found)  # both beyond what float64 holds


def join(parts: Sequence[RowDifferences]) -> RowDifferences:
    """The rows of several parts, one after another."""
    if len(parts) == 1:
        return parts[0]
    return RowDifferences(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(RowDifferences))
    )


@np.errstate(all="ignore")
def compare_rows(
    a: Array, b: Array, seen: Array | None = None, bias: Array | None = None, outliers: bool = True,
    zero_elsewhere: bool = False,
) -> RowDifferences:  # fmt: skip
    """Compare two tensors of one shape, [T, K] or [H, T, S]. Elements that are not `seen` (booleans that lack
    leading axes) are left out, unless they are to be 0 (`zero_elsewhere`). `bias`, [K] or [T, K], is what
    both were given in the same way. Without `outliers` large elements may hide small ones: of probabilities,
    the small ones do not count."""
    leading = a.shape[:-1]
    if seen is not None and not zero_elsewhere:
        a, b = np.where(seen, a, 0), np.where(seen, b, 0)
    a = a.reshape(-1, a.shape[-1]) if a.ndim else a.reshape(1, 1)
    b = b.reshape(a.shape)
    every, width, nothing = np.arange(len(a)), np.full(len(a), a.shape[1]), np.full(len(a), np.nan)
    counts = width if seen is None else np.broadcast_to(seen.sum(axis=-1), leading).reshape(-1)
    finite_a, finite_b, odd, alike = _finite_in_both(a, b)
    d = finite_a - finite_b
    rms_a, rms_b, rms_d = (_rms(x, counts) for x in (finite_a, finite_b, d))
    rest_a, rest_d = _without_outliers(finite_a, d, rms_a, counts) if outliers else (nothing, nothing)
    column = np.where(odd >= 0, odd, np.abs(d).argmax(axis=1))
    dot, both = np.einsum("nk,nk->n", finite_a, finite_b), rms_a * rms_b * counts
    cosine = np.divide(dot, both, out=np.zeros(len(a)), where=both > 0)
    return RowDifferences(
        rms_a, rms_b, rms_d, rest_a, rest_d,
        plain_a=nothing if bias is None else _rms(finite_a - bias, counts),
        cosine=np.where(rms_d == 0, 1.0, cosine),
        largest=np.where(odd >= 0, np.inf, np.abs(d[every, column])),
        column=column, of_a=a[every, column], of_b=b[every, column], odd=odd,
        count=width if zero_elsewhere else counts, alike=alike, kl=nothing,
    )  # fmt: skip


class SharedFactor(NamedTuple):
    """By what share all rows of a tensor are longer than another's, and the standard error of that."""

    value: float
    error: float


class FactorMeter:
    """Measures the factor between two tensors, a block of rows at a time.

    Rows count alike. An element of a row counts by its square, but for those beyond twice the mean magnitude,
    which count as much as that. The standard error holds for errors that all of a row or of a column share
    (Cameron, Gelbach and Miller, "Robust Inference With Multiway Clustering", 2011),
    and is infinite where a few columns are most of it.
    """

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self._columns: Array | float = 0.0  # sums of errors, and of their elements

    def add(self, a: Array, b: Array) -> None:
        """Rows [n, K] of both, float64, 0 in both where they are not compared."""
        size, most = np.abs(a), np.inf
        count = np.maximum(np.count_nonzero(a, axis=1)[:, None], 1)
        for _ in range(ROUNDS):
            most = CAPPED * np.minimum(size, most).sum(axis=1, keepdims=True) / count
        weights = np.divide(most * most, size, out=size.copy(), where=size > most) * np.sign(a)
        whole = (weights * a).sum(axis=1, keepdims=True)
        there = (whole[:, 0] > 0) & np.isfinite(b).all(axis=1)
        weights = weights[there] / whole[there]
        shares = weights * (b[there] - a[there])
        self._rows.append(shares.sum(axis=1))
        self._columns = self._columns + np.stack([shares.sum(axis=0), (weights * a[there]).sum(axis=0)])

    def result(self) -> SharedFactor:
        rows = np.concatenate(self._rows)
        if not len(rows):
            return SharedFactor(0.0, 0.0)
        value = float(rows.mean())
        errors, whole = np.asarray(self._columns)
        if whole.sum() ** 2 < FEWEST * np.square(whole).sum():
            return SharedFactor(value, np.inf)
        squares = np.square(rows - value).sum() + np.square(errors - value * whole).sum()
        return SharedFactor(value, float(np.sqrt(squares)) / len(rows))


@np.errstate(all="ignore")
def with_predictions(
    rows: Sequence[RowDifferences], a: Array, others: Sequence[Array]
) -> list[RowDifferences]:
    """The rows of one tensor of logits [n, V] beside each of several, with KL(a || other) of what they
    predict."""
    log_a = log_softmax(a)
    kl = [kl_divergence(log_a, log_softmax(other)) for other in others]
    return [replace(row, kl=own) for row, own in zip(rows, kl, strict=True)]


def _finite_in_both(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Both in float64 with 0 where one is not finite, the first column of each row where they differ in that,
    and in how many they do not."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bad = ~(np.isfinite(a) & np.isfinite(b))
    if not bad.any():
        return wide_a, wide_b, np.full(len(a), -1), np.zeros(len(a), np.intp)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    unlike = bad & ~same
    wide_a[bad] = wide_b[bad] = 0
    odd = np.where(unlike.any(axis=1), unlike.argmax(axis=1), -1)
    return wide_a, wide_b, odd, (bad & same).sum(axis=1)


def _rms(x: Array, counts: Array) -> Array:
    return np.sqrt(np.einsum("nk,nk->n", x, x) / counts)


def _without_outliers(a: Array, d: Array, rms: Array, counts: Array) -> tuple[Array, Array]:
    """RMS of a and of the difference over the elements that a few large ones hide; NaN where none do."""
    rest_a, rest_d = np.full(len(a), np.nan), np.zeros(len(a))
    largest = np.maximum(a.max(axis=1, initial=0.0), -a.min(axis=1, initial=0.0))
    rows = np.flatnonzero(largest > FAR * rms)
    if not len(rows):
        return rest_a, rest_d
    kept = np.abs(a[rows]) <= FAR * rms[rows, None]
    count = counts[rows] - np.count_nonzero(~kept, axis=1)
    size = _rms(np.where(kept, a[rows], 0), count)
    hidden = (NOTHING * rms[rows] < size) & (size < HIDDEN * rms[rows])
    rest_a[rows[hidden]] = size[hidden]
    rest_d[rows[hidden]] = _rms(np.where(kept, d[rows], 0)[hidden], count[hidden])
    return rest_a, rest_d
