"""Meters of the channels of events: statistics, magnitudes, and the places where units are most active.

A number that is not finite, or whose magnitude exceeds LARGEST, is counted but not summed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..arrays.stats import NOT_FINITE, Array, median
from ..plans.kinds import Activation, Multiply
from ..text.frozen import frozen
from .definitions import NEAR_ZERO, OUTLIER
from .meter import EXCERPT, Meter, PackLayout, causal_places
from .tallies import Counts, Ranges, Sums, TopList, gathered, named

UNITS = (Activation.__name__, Multiply.__name__)  # kinds of events whose channels are units of an MLP
LARGEST = np.float64(1e130)  # the largest magnitude whose square an ExactSum can add
LARGEST_BIN = float(np.finfo(np.float32).max)  # the upper edge of the last bin of finite values
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99, 0.999)
BINS = 1 << 11  # 8 bins per octave: the exponent and 3 mantissa bits of a float32 are its bin number
SHIFT = 20  # the number of mantissa bits that a bin number leaves out
WIDE = 1 << 10  # the number of elements in a wide row, which joins several rows


class ChannelTallies:
    """The tallies of each channel of an event. Only `nonfinite` is about numbers that are not finite."""

    def __init__(self, channels: int) -> None:
        self.values = Counts(channels)
        self.total = Sums(channels)
        self.squares = Sums(channels)
        self.range = Ranges(channels)
        self.zeros = Counts(channels)
        self.nonfinite = Counts(channels)

    def add(self, total: Array, squares: Array) -> None:
        self.total.add(total)
        self.squares.add(squares)


class ChannelMeter(Meter):
    """A meter of the channels of events. For scores and attention weights, the heads count as channels."""

    def __init__(self, channels: Mapping[str, int], causal: Collection[str]) -> None:
        self._own = {name: ChannelTallies(count) for name, count in channels.items()}
        self._causal, self._of_heads = causal, defaultdict[str, list[tuple[Array, Array]]](list)
        self.names = list(channels)
        self.tallies = named({name: vars(own) for name, own in self._own.items()})

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        own, value = self._own[name], seen_by_heads(value) if name in self._causal else value
        low, high = _reduced(np.minimum, value), _reduced(np.maximum, value)
        kept = value
        if not max(abs(low.min()), abs(high.max())) <= LARGEST:  # or NaN
            fine = np.abs(value) <= LARGEST
            kept = np.where(fine, value, 0)
            low = _reduced(np.minimum, np.where(fine, value, np.inf))
            high = _reduced(np.maximum, np.where(fine, value, -np.inf))
            lost = _count(~fine)
            own.nonfinite.numbers += lost
            own.values.numbers -= lost
        if name in self._causal:
            self._of_heads[name].append(_sums_of_heads(kept))
        else:
            own.add(*_sums_of_rows(self.layout, self.next(name, len(value)), kept))
        own.values.numbers += value.size // len(low)
        own.range.take(low, high)
        zeros = value == 0
        if zeros.any():
            own.zeros.numbers += _count(zeros)

    def finish(self) -> None:
        """Add the sums of all groups at once, because short texts make many groups."""
        for name, groups in self._of_heads.items():
            self._own[name].add(*map(np.concatenate, zip(*groups, strict=True)))
        self._of_heads.clear()


def seen_by_heads(value: Array) -> Array:
    """Return the elements on and below the diagonal: [(n,) H, T, T] -> [n, H, K]"""
    heads, length = value.shape[-3:-1]
    return value.reshape(-1, heads, length * length).take(causal_places(length), axis=2)


def _sums_of_rows(layout: PackLayout, start: int, value: Array) -> tuple[Array, Array]:
    """Return the sum and the sum of squares of each document's rows: [N, C] -> [B, C] twice. If `value` is a
    part that begins at row `start`, B is the number of documents in this part."""
    whole = len(value) == layout.rows
    wide = (layout.in_turn(value) if whole else value).astype(np.float64)
    sums = layout.sums if whole else partial(layout.sums_of_part, start)
    return sums(wide), sums(np.multiply(wide, wide, out=wide))


def _sums_of_heads(values: Array) -> tuple[Array, Array]:
    """Return the sum and the sum of squares of each head in each document: [n, H, K] -> [n, H] twice"""
    wide = values.astype(np.float64)
    total = wide.sum(axis=2)
    return total, np.multiply(wide, wide, out=wide).sum(axis=2)


def folded(by: np.ufunc, rows: Array) -> Array:
    """Return by.reduce(rows, axis=0) for an operation whose order does not matter: [N, C] -> [C]

    NumPy reduces row by row, which takes 1.7 ns per element for rows of 16 elements. This function joins rows
    into wide rows, which takes 0.2 ns per element.
    """
    count, width = rows.shape
    beside = WIDE // max(width, 1)
    whole = count // beside * beside if beside > 1 else 0
    if not whole:
        return by.reduce(rows, axis=0)
    several = by.reduce(rows[:whole].reshape(-1, beside * width), axis=0)
    result = by.reduce(several.reshape(beside, width), axis=0)
    return result if whole == count else by(result, by.reduce(rows[whole:], axis=0))


def _reduced(by: np.ufunc, value: Array) -> Array:
    """Reduce the values of each channel, [N, C] -> [C], or of each head, [n, H, K] -> [H]."""
    return folded(by, value) if value.ndim == 2 else by.reduce(by.reduce(value, axis=0), axis=1)


def _count(chosen: Array) -> Array:
    if chosen.ndim == 3:
        return np.count_nonzero(chosen, axis=(0, 2))
    ones = np.ones(len(chosen), np.float32)  # a product takes a quarter of the time, and counts up to 2^24
    return ones.dot(chosen).astype(np.int64)


class HistogramMeter(Meter):
    """A meter that counts magnitudes in BINS bins. The last bins count the values that are not finite."""

    def __init__(self, names: Collection[str], causal: Collection[str]) -> None:
        self.names, self._causal = names, causal
        self._bins = {name: Counts(BINS) for name in names}
        self.tallies = {f"{name}/magnitudes": bins for name, bins in self._bins.items()}

    def __call__(self, name: str, value: Array) -> None:
        if name in self._causal:
            value = seen_by_heads(value)
        bits = np.ascontiguousarray(value, np.float32).view(np.uint32).ravel()
        counts = np.bincount(bits >> SHIFT, minlength=2 * BINS)  # first of positive numbers, then of negative
        self._bins[name].numbers += counts.reshape(2, BINS).sum(axis=0)


class TopMeter(Meter):
    """A meter that lists the largest positive values of each channel, with their documents and positions."""

    def __init__(self, channels: Mapping[str, int], most: int) -> None:
        self.names = list(channels)
        self._lists = {name: TopList(count, most, EXCERPT, least=0.0) for name, count in channels.items()}
        self.tallies = {f"{name}/top": own for name, own in self._lists.items()}

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        own, layout = self._lists[name], self.layout
        start = self.next(name, len(value))
        above = (value > 0) & (value >= own.bar.astype(value.dtype))  # with ties, the earlier document wins
        rows, channels = np.nonzero(above & (value < np.inf))
        layout.enter(own, channels, rows + start, value[rows, channels].astype(np.float64), channels)


@frozen(slots=False, eq=False)
class ChannelStatistics:
    """The statistics of every channel of an event over a corpus, [C] each.

    `count`, `zeros` and `nonfinite` are numbers of values: finite values, zeros, and values that are not
    finite. The variance is the population variance. A statistic is NaN if there is no finite value. For
    scores and attention weights, the heads count as channels, without the elements above the diagonal.
    """

    count: Array
    mean: Array
    variance: Array
    mean_square: Array
    least: Array
    largest: Array
    zeros: Array
    nonfinite: Array
    units: bool  # True if the channels are units of an MLP

    @property
    def rms(self) -> Array:
        return np.sqrt(self.mean_square)

    @cached_property
    def dead(self) -> Array:
        """The dead channels: units that stay within ±NEAR_ZERO, and other channels that are always 0."""
        farthest = np.maximum(np.abs(self.least), np.abs(self.largest))
        return np.flatnonzero((self.count > 0) & (farthest <= (NEAR_ZERO if self.units else 0.0)))

    @cached_property
    def outliers(self) -> Array:
        """The channels whose RMS is OUTLIER times the median RMS or more, the largest first."""
        times = self.times_median
        return np.flatnonzero(times >= OUTLIER)[np.argsort(-times[times >= OUTLIER], kind="stable")]

    @cached_property
    def times_median(self) -> Array:
        """The RMS of each channel as a multiple of the median RMS, or NaN if the median is 0."""
        measured = self.rms[self.count > 0]
        middle = median(measured) if measured.size else np.nan
        return self.rms / (middle if middle > 0 else np.nan)


@NOT_FINITE
def channel_statistics(tallies: Mapping[str, Any], event: str, kind: str = "") -> ChannelStatistics:
    """Return the statistics of an event of this kind. Raises KeyError if the event was not measured."""
    own = gathered(ChannelTallies, event, tallies)
    count = own.values.values()
    there = count > 0
    divisor = np.where(there, count, np.nan)
    mean, mean_square = own.total.values() / divisor, own.squares.values() / divisor
    return ChannelStatistics(
        count, mean, np.maximum(mean_square - mean * mean, 0), mean_square,
        np.where(there, own.range.least, np.nan), np.where(there, own.range.largest, np.nan),
        own.zeros.values(), own.nonfinite.values(), kind in UNITS,
    )  # fmt: skip


@NOT_FINITE
def quantiles(bins: Array) -> dict[float, float]:
    """Return the QUANTILES of the finite magnitudes. Each quantile is the upper edge of its bin, at most an
    eighth of an octave (13 %) above the true quantile. A quantile in the first bin is 0, because all
    magnitudes in this bin are 0 or almost 0 as float32."""
    edges = (np.arange(BINS, dtype=np.uint32) << SHIFT).view(np.float32).astype(np.float64)
    finite = np.isfinite(edges)  # the last bins count values that are not finite
    counts, upper = bins[finite].cumsum(), edges[1:]
    if not counts[-1]:
        return {}
    places = [int(np.searchsorted(counts, np.ceil(q * counts[-1]))) for q in QUANTILES]
    return {
        q: min(float(upper[place]), LARGEST_BIN) if place else 0.0
        for q, place in zip(QUANTILES, places, strict=True)
    }
