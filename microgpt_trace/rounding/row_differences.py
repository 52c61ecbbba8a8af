"""Measure the difference of two tensors row by row, without a model.

A row is the vector of a position. In an array of shape [H, T, S], a row contains the scores of one head and
one query. In shapes, n is the number of rows and K the number of columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np

from ..arrays.logits import kl_divergence, log_softmax
from ..arrays.stats import Array, median
from ..text.frozen import frozen

FAR = 6.0  # an element beyond this multiple of its row's RMS is an outlier (Gaussian rows have no outliers)
HIDDEN = 0.2  # largest RMS of elements that outliers hide, as a share of the row's RMS
NOTHING = 1e-5  # elements with a smaller RMS, as a share of the row's RMS, are only float32 rounding
FEWEST = 8  # fewest effective columns to distinguish a common factor from errors of single elements
CAPPED, ROUNDS = 2.0, 4  # limit of a weight / mean magnitude; number of iterations to compute the limit
LEAST = 2.0**-14  # smallest share with a precise logarithm, because float16 has fewer digits below
BLOCK = 1 << 21  # elements compared at a time


@frozen(eq=False)
class RowDifferences:
    """The comparison of two tensors, row by row. Every field is an array [n].

    - `a`, `b`, `d`: the RMS of the rows and of their difference. `rest_a`, `rest_d`: the RMS of `a` and `d`
      without outliers. `rest_a` is NaN if no outliers hide the other elements. `plain_a`: the RMS of `a`
      without the bias, or NaN.
    - `largest`: the largest |difference|, in column `column`, between the values `of_a` and `of_b`. `odd`:
      the first column where the values differ and one value is not finite, or -1. The element in column `odd`
      counts as the largest difference.
    - `count`: the number of elements to compare. `alike`: the number of elements that are the same NaN or
      infinity in both tensors. A row cannot be compared if all its elements are alike.
    - `kl`: the KL divergence of the predictions of logits (see `with_predictions`), otherwise NaN.
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
    def comparable(self) -> Array:
        """True for the rows that have an element to compare: [n]."""
        return self.alike < self.count

    def relative(self) -> Array:
        """Return |a - b| / max(|a|, |b|) of every row. For rows smaller than the median size, the difference
        is divided by the median size."""
        return _relative(self.d, np.maximum(self.a, self.b))

    def strict(self) -> Array:
        """Return the largest relative difference of each row, also without outliers and without the bias."""
        distances = self.relative()
        for d, size in ((self.rest_d, self.rest_a), (self.d, self.plain_a)):
            there = ~np.isnan(size)
            if there.any():
                distances[there] = np.fmax(distances[there], _relative(d[there], size[there]))
        distances[self.odd >= 0] = np.inf
        return distances

    def in_length(self) -> Array:
        """Return by how much b is longer than a in the direction of a, relative to the longer row. The result
        is negative if b is shorter, and 0 if the length is unknown. The result includes the full effect of a
        common factor, but little of the effect of rounding."""
        longer = self.cosine * self.b - self.a
        distances = _relative(np.abs(longer), np.maximum(self.a, self.b))
        return np.where(np.isinf(distances), 0.0, np.copysign(distances, longer))

    def in_prediction(self) -> Array:
        """Return sqrt(2 KL), or 0 if KL cannot be measured. To first order, sqrt(2 KL) is the standard
        deviation of the difference of two rows of logits, weighted by probability. So errors of large logits
        count most."""
        return np.sqrt(2 * np.fmax(self.kl, 0.0))


def _relative(d: Array, size: Array) -> Array:
    size = np.maximum(size, median(size)) if len(size) else size
    distances = np.divide(d, size, out=np.where(d > 0, np.inf, 0.0), where=size > 0)
    return np.where(np.isnan(distances), np.inf, distances)  # NaN if both d and size exceed float64


def element_index(
    row: int, column: int, shape: tuple[int, ...], positions: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the indices of an element in a tensor whose rows are at `positions`, or at all positions."""
    if not shape:
        return ()
    *leading, at = map(int, np.unravel_index(row, shape[:-1]))
    return (*leading, at if positions is None else positions[at], column)


def join(parts: Sequence[RowDifferences]) -> RowDifferences:
    return RowDifferences(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(RowDifferences))
    )


@np.errstate(all="ignore")
def compare_rows(
    a: Array, b: Array, seen: Array | None = None, bias: Array | None = None, outliers: bool = True,
    zero_elsewhere: bool = False,
) -> RowDifferences:  # fmt: skip
    """Compare two tensors of one shape, [T, K] or [H, T, S].

    `seen` is a mask of the elements to compare, without leading axes. With `zero_elsewhere`, the elements
    outside `seen` are compared too, because these elements must be 0. `bias`, [K] or [T, K], was added to
    both tensors. If `outliers` is true, also compare the rows without outliers. Do not use `outliers` for
    probabilities, because small probabilities do not matter.
    """
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


class FactorMeter:
    """Measures the common factor between the rows of two tensors, a block of rows at a time.

    All rows have the same weight. The weight of an element is its square, but at most the square of twice the
    mean magnitude. The standard error allows for errors common to a row or to a column (Cameron, Gelbach and
    Miller, "Robust Inference With Multiway Clustering", 2011). The standard error is infinite if few columns
    dominate.
    """

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self._columns: Array | float = 0.0  # the sum of errors and the sum of weights of each column

    def add(self, a: Array, b: Array) -> None:
        """Add rows of both tensors, [n, K] in float64, with 0 for elements that are not compared."""
        size, most = np.abs(a), np.inf
        count = np.maximum(np.count_nonzero(a, axis=1)[:, None], 1)
        for _ in range(ROUNDS):
            most = CAPPED * np.minimum(size, most).sum(axis=1, keepdims=True) / count
        weights = np.divide(most * most, size, out=size.copy(), where=size > most) * np.sign(a)
        total = (weights * a).sum(axis=1, keepdims=True)
        there = (total[:, 0] > 0) & np.isfinite(b).all(axis=1)
        weights = weights[there] / total[there]
        shares = weights * (b[there] - a[there])
        self._rows.append(shares.sum(axis=1))
        self._columns = self._columns + np.stack([shares.sum(axis=0), (weights * a[there]).sum(axis=0)])

    def result(self) -> tuple[float, float]:
        """Return the share by which all rows of b are longer than the rows of a, and its standard error."""
        rows = np.concatenate(self._rows)
        if not len(rows):
            return 0.0, 0.0
        value = float(rows.mean())
        errors, weights = np.asarray(self._columns)
        if weights.sum() ** 2 < FEWEST * np.square(weights).sum():
            return value, np.inf
        squares = np.square(rows - value).sum() + np.square(errors - value * weights).sum()
        return value, float(np.sqrt(squares)) / len(rows)


def compared_blocks(
    found: Array, expected: Array, seen: Array | None, meter: FactorMeter | None = None
) -> tuple[RowDifferences, Array]:
    """Compare the rows of `expected` and `found`, a block at a time. Only elements that are finite in
    `expected` and marked in `seen` count. Return the differences. With a meter, also return the concentration
    of each row, [R] (see `beyond_usual`). The meter measures the common factor of all rows."""
    parts, concentration = [], []
    for a, b, marks in _blocks(found, expected, seen):
        finite = np.isfinite(a)
        b = b if finite.all() else np.where(finite, b, a)
        parts.append(compare_rows(a, b, marks, outliers=False))
        if meter is not None:
            counted = finite if marks is None else finite & marks
            a, b = np.where(counted, a, 0), np.where(counted, b, 0)
            meter.add(a, b)
            squares = np.square(a)
            total = np.maximum(squares.sum(axis=1), 1e-300)
            concentration.append(np.square(squares / total[:, None]).sum(axis=1))
    return join(parts), np.concatenate(concentration) if concentration else np.zeros(())


def _blocks(found: Array, expected: Array, seen: Array | None) -> Iterator[tuple[Array, Array, Array | None]]:
    width = expected.shape[-1] if expected.ndim else 1
    expected, found = expected.reshape(-1, width), found.reshape(-1, width)
    step = max(1, BLOCK // width)
    for start in range(0, len(found), step):
        own = slice(start, start + step)
        marks = None if seen is None else seen[np.arange(len(found))[own] % len(seen)]
        yield expected[own].astype(np.float64), found[own], marks


def errors_of(rows: RowDifferences) -> Array:
    """Return |b - a| / |a| of every row: [R]. The result is NaN if a row has no elements to compare, and
    infinite if a row of b is not finite."""
    with np.errstate(all="ignore"):
        errors = np.where(rows.d == 0, 0.0, rows.d / rows.a)
    errors[rows.odd >= 0] = math.inf
    errors[~rows.comparable] = math.nan
    return errors


@np.errstate(all="ignore")
def factor_of_logarithms(a: Array, b: Array) -> tuple[float, float]:
    """Return the factor between the logarithms of shares a and b, [H, n, S], less 1, and its standard error.
    Rows may differ by a constant. In attention weights, this is the common factor of all scores. All heads of
    a position are one row of the FactorMeter, so a row has enough columns in a short text, too."""
    meter, (heads, length, width) = FactorMeter(), a.shape
    step = max(1, BLOCK // (heads * width))
    for start in range(0, length, step):
        shares = [x[:, start : start + step].swapaxes(0, 1).astype(np.float64) for x in (a, b)]
        seen = shares[0] >= LEAST
        logs = [np.log(x, out=np.zeros(x.shape), where=seen) for x in shares]
        count = np.maximum(seen.sum(axis=-1, keepdims=True), 1)
        centred = (np.where(seen, x - x.sum(axis=-1, keepdims=True) / count, 0) for x in logs)
        meter.add(*(x.reshape(len(x), -1) for x in centred))
    return meter.result()


@np.errstate(all="ignore")
def with_predictions(
    rows: Sequence[RowDifferences], a: Array, others: Sequence[Array]
) -> list[RowDifferences]:
    """Add the KL divergence of predictions to the comparisons of logits `a` with `others`, [n, V] each."""
    log_a = log_softmax(a)
    kl = [kl_divergence(log_a, log_softmax(other)) for other in others]
    return [replace(row, kl=own) for row, own in zip(rows, kl, strict=True)]


def _finite_in_both(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Return a and b in float64, with 0 where an element of a or b is not finite. For each row, also return
    the first column where a and b differ and are not both finite, or -1. Finally, return the number of
    elements of each row that are the same NaN or infinity."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bad = ~(np.isfinite(a) & np.isfinite(b))
    if not bad.any():
        return wide_a, wide_b, np.full(len(a), -1), np.zeros(len(a), np.intp)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    different = bad & ~same
    wide_a[bad] = wide_b[bad] = 0
    odd = np.where(different.any(axis=1), different.argmax(axis=1), -1)
    return wide_a, wide_b, odd, (bad & same).sum(axis=1)


def _rms(x: Array, counts: Array) -> Array:
    return np.sqrt(np.einsum("nk,nk->n", x, x) / counts)


def _without_outliers(a: Array, d: Array, rms: Array, counts: Array) -> tuple[Array, Array]:
    """Return the RMS of a and of the difference without outliers, for rows where outliers hide the other
    elements. If no outliers hide other elements, the RMS of a is NaN."""
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
