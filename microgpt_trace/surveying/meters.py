"""Meters: what is measured of each value of a pass, by event and channel. Knows no model.

A meter is given the values of the events that it wants, pack after pack, and keeps tallies. Rows of a value
are summed by document, in float64 and position after position; documents are put together exactly. A number
that is not finite, or beyond LARGEST, is counted and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from ..arrays.exact_sum import added_up, least_above_0, summable
from ..arrays.folding import folded
from ..arrays.stats import NOT_FINITE, Array
from .pack_layout import EXCERPT, PackLayout, causal_places
from .tallies import Counts, Ranges, Sums, Tally, named
from .top_list import Entries, TopList

LARGEST = np.float64(1e130)  # in magnitude: an ExactSum holds sums of squares; as float32 it would be inf
SHORT = 32  # rows of a document: not more, and all are summed at once; more on average, and one by one
MANY = 512  # sums, at most, of all rows at once
BINS = 1 << 11  # of magnitudes: 8 to an octave, by the leading bits of a float32
SHIFT = 20  # bits of a float32 behind these


class Meter(Protocol):
    """What a pass is measured by."""

    @property
    def names(self) -> Collection[str]: ...

    @property
    def tallies(self) -> Mapping[str, Tally]: ...

    def begin(self, layout: PackLayout) -> None:
        """The rows of the pass that comes."""

    def __call__(self, name: str, value: Array, /) -> None:
        """An event's value, or rows or heads of it."""

    def finish(self) -> None:
        """All of the pass has come."""


class Rows:
    """Where the rows stand that come of each event."""

    layout: PackLayout

    def begin(self, layout: PackLayout) -> None:
        self.layout = layout
        self._seen: dict[str, int] = {}

    def finish(self) -> None:
        """Nothing is kept from pass to pass."""

    def next(self, name: str, count: int) -> int:
        """How many rows or groups of this event came before, and these come now."""
        start = self._seen.get(name, 0)
        self._seen[name] = start + count
        return start


@dataclass
class ChannelTallies:
    """Of each channel of an event: how many finite numbers, their sums, squares and range, how many zeros,
    and how many that are not finite."""

    values: Counts
    total: Sums
    squares: Sums
    range: Ranges
    zeros: Counts
    nonfinite: Counts

    @classmethod
    def empty(cls, channels: int) -> ChannelTallies:
        c = channels
        return cls(Counts(c), Sums(c), Sums(c), Ranges(c), Counts(c), Counts(c))


class ChannelMeter(Rows):
    """Measures the channels of events, and of scores and weights the heads."""

    def __init__(self, channels: Mapping[str, int], causal: Collection[str]) -> None:
        self._own = {name: ChannelTallies.empty(count) for name, count in channels.items()}
        self._causal = causal
        self.names = list(channels)

    @property
    def tallies(self) -> dict[str, Tally]:
        return {key: tally for name, own in self._own.items() for key, tally in named(name, own).items()}

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        own, value = self._own[name], seen_by_heads(value) if name in self._causal else value
        low, high = _of_all(np.minimum, value), _of_all(np.maximum, value)
        largest, kept = max(abs(low.min()), abs(high.max())), value
        if not largest <= LARGEST:  # or NaN
            fine = np.abs(value) <= LARGEST
            kept = np.where(fine, value, 0)
            low = _of_all(np.minimum, np.where(fine, value, np.inf))
            high = _of_all(np.maximum, np.where(fine, value, -np.inf))
            largest, lost = np.abs(kept).max(), _counted(~fine)
            own.nonfinite.numbers += lost
            own.values.numbers -= lost
        short = name not in self._causal and self.layout.lengths[-1] <= SHORT and value.dtype == np.float32
        least, has_zeros = least_above_0(kept) if short else (0.0, bool((kept == 0).any()))
        if name in self._causal:
            total, squares = _of_heads(kept)
        else:
            most = summable(float(largest), least) if short else 0
            total, squares = _of_rows(self.layout, self.next(name, len(value)), kept, most)
        own.values.numbers += value.size // len(low)
        own.total.add(total)
        own.squares.add(squares)
        own.range.take(low, high)
        if has_zeros:
            own.zeros.numbers += _counted(value == 0)


def seen_by_heads(value: Array) -> Array:
    """What the queries of heads see: [(n,) H, T, T] -> [n, H, K]"""
    heads, length = value.shape[-3:-1]
    return value.reshape(-1, heads, length * length).take(causal_places(length), axis=2)


def _of_rows(layout: PackLayout, start: int, value: Array, most: int) -> tuple[Array, Array]:
    """The sums of rows from `start` on and of their squares, by document: [N, C] -> [B, C] twice. Of rows
    that come in parts these are of the documents in this part.

    Where float64 adds up `most` numbers without rounding, as many as a document has at least, no sum of one
    is rounded: a few sums of the rows of all of them will do.
    """
    whole = len(value) == layout.rows
    if whole and layout.rows >= SHORT * len(layout.texts):
        return layout.sums_of_long(value)
    wide = (layout.in_turn(value) if whole else value).astype(np.float64)
    sums = layout.sums if whole else partial(layout.sums_of_part, start)
    total = added_up(wide, most) if most >= max(SHORT, len(value) // MANY) else sums(wide)
    return total, sums(np.multiply(wide, wide, out=wide))


def _of_heads(seen: Array) -> tuple[Array, Array]:
    """The sums of each document's heads, and of the squares: [n, H, K] -> [n, H] twice"""
    wide = seen.astype(np.float64)
    total = wide.sum(axis=2)
    return total, np.multiply(wide, wide, out=wide).sum(axis=2)


def _of_all(by: np.ufunc, value: Array) -> Array:
    """The least or the largest of each channel, [N, C] -> [C], or head, [n, H, K] -> [H]"""
    return folded(by, value) if value.ndim == 2 else by.reduce(by.reduce(value, axis=0), axis=1)


def _counted(chosen: Array) -> Array:
    """How many are chosen of each channel or head."""
    return np.count_nonzero(chosen, axis=0 if chosen.ndim == 2 else (0, 2))


class HistogramMeter(Rows):
    """The magnitudes of events, in bins by their leading bits: BINS of them, 8 to an octave. A magnitude that
    is not finite is in the last ones."""

    def __init__(self, names: Collection[str], causal: Collection[str]) -> None:
        self.names, self._causal = names, causal
        self._bins = {name: Counts(BINS) for name in names}

    @property
    def tallies(self) -> dict[str, Tally]:
        return {f"{name}/magnitudes": bins for name, bins in self._bins.items()}

    def __call__(self, name: str, value: Array) -> None:
        if name in self._causal:
            value = seen_by_heads(value)
        bits = np.ascontiguousarray(value, np.float32).view(np.uint32).ravel()
        self._bins[name].numbers += np.bincount((bits >> SHIFT) & (BINS - 1), minlength=BINS)


@NOT_FINITE
def bin_edges() -> Array:
    """The least magnitude of every bin: [BINS]; inf and NaN where these lie."""
    return (np.arange(BINS, dtype=np.uint32) << SHIFT).view(np.float32).astype(np.float64)


class TopMeter(Rows):
    """The documents and positions at which each channel of events has its largest values above 0."""

    def __init__(self, channels: Mapping[str, int], most: int) -> None:
        self.names = list(channels)
        self._lists = {name: TopList(count, most, EXCERPT, least=0.0) for name, count in channels.items()}

    @property
    def tallies(self) -> dict[str, Tally]:
        return {f"{name}/top": own for name, own in self._lists.items()}

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        own, layout = self._lists[name], self.layout
        start = self.next(name, len(value))
        above = (value > 0) & (value >= own.bar.astype(value.dtype))  # an earlier text may come later
        rows, channels = np.nonzero(above & (value < np.inf))
        if not rows.size:
            return
        found = value[rows, channels].astype(np.float64)
        rows = rows + start
        own.add(
            Entries(channels, found, *layout.origins(layout.text_at[rows]), layout.positions[rows], channels),
            lambda chosen: layout.excerpts(rows[chosen]),
        )
