"""What the tallies of an event say of its channels, as arrays. Knows no model and no text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..architecture.kinds import Activation, Multiply
from ..arrays.stats import NOT_FINITE, Array, median
from ..text.brief import frozen
from ..tracing.layer_measures import NEAR_ZERO
from .meters import ChannelTallies

UNITS = (Activation.__name__, Multiply.__name__)  # kinds of events whose channels are units of an MLP
OUTLIER = 6.0  # times the median RMS of an event's channels
LARGEST = float(np.finfo(np.float32).max)  # beyond it no bin is counted
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99, 0.999)


@frozen(slots=False, eq=False)
class ChannelStatistics:
    """Of every channel of an event, over a corpus, [C] each: how many finite values, mean, population
    variance, mean of squares, least and largest value, how many are 0, and how many are not finite.

    What has no finite value is NaN, never 0. A head is a channel of scores and weights, whose values are
    those of keys that a query sees.
    """

    count: Array
    mean: Array
    variance: Array
    mean_square: Array
    least: Array
    largest: Array
    zeros: Array
    nonfinite: Array
    units: bool  # whether the channels are units of an MLP

    @property
    def rms(self) -> Array:
        return np.sqrt(self.mean_square)

    @cached_property
    def dead(self) -> Array:
        """The units that never leave +-NEAR_ZERO; of other channels those that are always 0."""
        farthest = np.maximum(np.abs(self.least), np.abs(self.largest))
        return np.flatnonzero((self.count > 0) & (farthest <= (NEAR_ZERO if self.units else 0.0)))

    @cached_property
    def outliers(self) -> Array:
        """The channels whose RMS is OUTLIER times the median one or more, the largest first."""
        times = self.times_median
        return np.flatnonzero(times >= OUTLIER)[np.argsort(-times[times >= OUTLIER], kind="stable")]

    @cached_property
    def times_median(self) -> Array:
        """How many times the median RMS that of each channel is; NaN where the median is 0."""
        known = self.rms[self.count > 0]
        middle = median(known) if known.size else np.nan
        return self.rms / (middle if middle > 0 else np.nan)


@NOT_FINITE
def channel_statistics(tallies: Mapping[str, Any], event: str, kind: str = "") -> ChannelStatistics:
    """The statistics of an event that was measured, of such a kind. Raises KeyError where it was not."""
    own = ChannelTallies(**{name: tallies[f"{event}/{name}"] for name in ChannelTallies.__dataclass_fields__})
    count = own.values.values()
    known = np.where(count > 0, count, np.nan)
    mean, mean_square = own.total.values() / known, own.squares.values() / known
    there = count > 0
    return ChannelStatistics(
        count, mean, np.maximum(mean_square - mean * mean, 0), mean_square,
        np.where(there, own.range.least, np.nan), np.where(there, own.range.largest, np.nan),
        own.zeros.values(), own.nonfinite.values(), kind in UNITS,
    )  # fmt: skip


def quantiles(bins: Array, edges: Array) -> dict[float, float]:
    """Magnitudes that so many shares of all do not exceed, each the upper edge of its bin: within an eighth
    of an octave, 13 %, above the true one; 0 in the first, of what a float32 holds as 0 or nearly."""
    finite = np.isfinite(edges)
    counts, upper = bins[finite].cumsum(), edges[1:]
    if not counts[-1]:
        return {}
    places = [int(np.searchsorted(counts, np.ceil(q * counts[-1]))) for q in QUANTILES]
    return {
        q: min(float(upper[place]), LARGEST) if place else 0.0
        for q, place in zip(QUANTILES, places, strict=True)
    }
