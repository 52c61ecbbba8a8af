"""TensorStats: one robust, mergeable summary of an array. Knows nothing about models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..text.brief import frozen

Array = npt.NDArray[Any]
PIECE = 1 << 15  # elements summarised at a time: 256 KB in float64
NOT_FINITE = np.errstate(invalid="ignore")  # infinities may cancel, and casts meet signalling NaN
_ONES = np.ones(PIECE)  # a product with them sums twice as fast as sum()
DType = Any  # np.float32 or np.float64 (a type: those hash fast)


@frozen
class TensorStats:
    """Summary of an array's elements.

    `count` is the number of all elements. Mean, population standard deviation, L2 norm, minimum,
    maximum and largest magnitude are taken over the finite elements in float64; they are None,
    never 0, where no element is finite.
    """

    count: int
    mean: float | None
    std: float | None
    l2_norm: float | None
    min: float | None
    max: float | None
    max_abs: float | None
    zero_count: int
    nan_count: int
    inf_count: int

    @classmethod
    def of(cls, array: npt.ArrayLike, where: Array | None = None) -> TensorStats:
        """Summarise `array`, or only its elements where the boolean mask `where` holds. The mask may
        lack leading axes of the array."""
        values = np.asarray(array)
        if where is not None:
            chosen = np.flatnonzero(where)  # taking by index costs a third of a boolean mask
            values = values.reshape(-1, where.size).take(chosen, axis=1)
        values = values.ravel()
        return (_in_one_pass(values) if values.dtype == np.float32 else None) or _in_two_passes(values)

    @property
    def finite_count(self) -> int:
        """How many elements are neither NaN nor infinite."""
        return self.count - self.nan_count - self.inf_count

    @property
    def nonfinite_count(self) -> int:
        """How many elements are NaN or infinite."""
        return self.nan_count + self.inf_count

    @property
    def rms(self) -> float | None:
        """Root of the mean square of the finite elements."""
        return None if self.l2_norm is None else self.l2_norm / math.sqrt(self.finite_count)

    def merge(self, other: TensorStats) -> TensorStats:
        """Summary of both arrays together, as if they had been one.

        Mean and spread are combined as in Chan, Golub and LeVeque, "Updating formulae and a
        pairwise algorithm for computing sample variances" (1979).
        """
        count = self.count + other.count
        zeros = self.zero_count + other.zero_count
        nans, infs = self.nan_count + other.nan_count, self.inf_count + other.inf_count
        parts = [part for part in (self, other) if part.mean is not None]
        if len(parts) < 2:
            whole = parts[0] if parts else self
            moments = (whole.mean, whole.std, whole.l2_norm, whole.min, whole.max, whole.max_abs)
            return TensorStats(count, *moments, zeros, nans, infs)
        weights = [part.finite_count / (self.finite_count + other.finite_count) for part in parts]
        (mean_a, mean_b), (std_a, std_b) = _pairs(self, other, "mean"), _pairs(self, other, "std")
        gap = mean_b - mean_a
        within = math.hypot(math.sqrt(weights[0]) * std_a, math.sqrt(weights[1]) * std_b)
        return TensorStats(
            count=count,
            mean=mean_a + weights[1] * gap,
            std=math.hypot(within, math.sqrt(weights[0] * weights[1]) * gap),
            l2_norm=math.hypot(*_pairs(self, other, "l2_norm")),
            min=min(_pairs(self, other, "min")),
            max=max(_pairs(self, other, "max")),
            max_abs=max(_pairs(self, other, "max_abs")),
            zero_count=zeros,
            nan_count=nans,
            inf_count=infs,
        )


def _pairs(a: TensorStats, b: TensorStats, field: str) -> tuple[float, float]:
    return getattr(a, field), getattr(b, field)


def median(values: npt.ArrayLike) -> float:
    """The median, NaN where one is among the values. (np.median and the module statistics would load
    5 ms of modules.)"""
    return float(row_medians(np.asarray(values, np.float64).reshape(1, -1))[0])


def row_medians(values: Array) -> Array:
    """The median of every row, NaN where one is among its values: [n, C] -> [n]"""
    middle, even = values.shape[1] // 2, values.shape[1] % 2 == 0
    parted = np.partition(values, middle, axis=1)  # NaN comes last
    upper, last = parted[:, middle], parted[:, middle:].max(axis=1)
    lower = parted[:, :middle].max(axis=1) if even else upper
    return np.where(last == last, lower / 2 + upper / 2, last)


@NOT_FINITE
def _in_one_pass(values: Array) -> TensorStats | None:
    """The summary of finite float32 values [N], whose squares and sums float64 holds exactly enough.

    Pieces stay in the cache: 0.6 ns an element against 4. None where a value is not finite, or where
    mean and spread lie so far apart that their difference would lose digits.
    """
    count, total, squares, zeros, low, high = values.size, 0.0, 0.0, 0, math.inf, -math.inf
    for start in range(0, count, PIECE):
        piece = values[start : start + PIECE]
        wide = piece.astype(np.float64)
        total += float(wide.dot(_ONES[: wide.size]))
        squares += float(wide.dot(wide))
        zeros += int(np.count_nonzero(piece == 0))  # four times as fast as counting the floats
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    if not count or not math.isfinite(squares):
        return None
    mean = total / count
    variance = squares / count - mean * mean
    if variance < 1e-6 * mean * mean:
        return None
    return TensorStats(
        count, mean, math.sqrt(variance), math.sqrt(squares), low, high, max(abs(low), abs(high)), zeros, 0, 0
    )


@NOT_FINITE
def _in_two_passes(values: Array) -> TensorStats:
    """The summary of any values [N]: of the finite ones among them, by mean and deviations."""
    values = values.astype(np.float64)
    count = values.size
    nan_count = int(np.count_nonzero(np.isnan(values)))
    inf_count = int(np.count_nonzero(np.isinf(values)))
    if nan_count or inf_count:
        values = values[np.isfinite(values)]
    if values.size == 0:
        return TensorStats(count, None, None, None, None, None, None, 0, nan_count, inf_count)
    low, high = float(values.min()), float(values.max())
    max_abs = max(abs(low), abs(high))
    # Squares and sums leave the range of float64 for magnitudes that float64 itself can hold.
    scale = max_abs if max_abs > 1e150 or 0 < max_abs < 1e-140 else 1.0
    scaled = values / scale if scale != 1.0 else values
    mean = float(scaled.mean())
    deviation = scaled - mean
    return TensorStats(
        count=count,
        mean=mean * scale,
        std=math.sqrt(float(deviation.dot(deviation)) / values.size) * scale,
        l2_norm=math.sqrt(float(scaled.dot(scaled))) * scale,
        min=low,
        max=high,
        max_abs=max_abs,
        zero_count=int(values.size - np.count_nonzero(values)),
        nan_count=nan_count,
        inf_count=inf_count,
    )


def causal_mask(queries: int, keys: int) -> Array:
    """Where a key [.., S] is not later than its query, one of the last T: [T, S] of booleans"""
    return np.tri(queries, keys, keys - queries, dtype=bool)
