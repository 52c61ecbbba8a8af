"""Measure which tokens attention heads look from and look to, over a corpus. This module reads no text.

The sums cover the keys between position 0 and the query. Position 0 does not count, because heads without a
target rest there. The query does not count, because the last tokens of texts have no other query. Sums for a
large vocabulary would take gigabytes, so only the smallest token ids have sums. In vocabularies by byte-pair
encoding, these are the most frequent tokens. Examples may be at the query, but not at position 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays.stats import NOT_FINITE, Array
from ..operations.softmax import seen_keys
from .meter import PAIR, Meter
from .tallies import Counts, TopList

KINDS = ("from", "to", "pairs")
TOKENS = 1 << 10  # largest number of tokens, or of pairs of tokens, with sums
UNIT = 2.0**-24  # attention is rounded to a multiple of UNIT, so that sums of integers are exact
AT_ONCE = 1 << 17  # number of weights to sum at a time: in float64, this many fit the CPU cache
EXAMPLES = 10  # places to keep for each head


class HeadTokenMeter(Meter):
    """A meter of attention weights. `from` sums, by query token, the attention of a query on all keys. `to`
    sums, by key token, the attention of all queries on a key. `pairs` sums weights by both tokens, if the
    vocabulary is tiny. Each sum has a row for each head, for evenly spread attention and for counts.
    `examples` lists each head's largest multiples of even attention, at most one of each document."""

    def __init__(self, heads: Mapping[str, int], windows: Mapping[str, int | None], vocab_size: int) -> None:
        self.names, self._windows, self._vocab_size = list(heads), windows, vocab_size
        size, self._pairs = min(vocab_size, TOKENS), vocab_size**2 if vocab_size**2 <= TOKENS else 0
        self._measured: dict[str, list[tuple[Array, ...]]] = {}
        self.tallies: dict[str, Any] = {}
        for name, count in heads.items():
            for kind, cells in zip(KINDS, (size, size, self._pairs), strict=True):
                self.tallies[f"{name}/{kind}"] = Counts(count + 2, cells)
            self.tallies[f"{name}/examples"] = TopList(count, EXAMPLES, PAIR)

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        heads, length = value.shape[-3:-1]
        first = self.layout.groups[self.next(name, 1)].rows.start
        weights = value.reshape(-1, heads, length, length)
        fine = np.flatnonzero(np.isfinite(weights.sum(axis=(1, 2, 3))))
        if length == 1 or not fine.size:
            return
        weights = weights if len(fine) == len(weights) else weights[fine]
        starts, window = first + length * fine, self._windows[name]
        seen, even_from, even_to = _even(length, window)
        tokens = self.layout.tokens[starts[:, None] + np.arange(1, length)]
        sent, received = _sums_of_weights(weights)
        measured = [("from", tokens, sent, even_from), ("to", tokens, received, even_to)]
        if self._pairs:
            query, key = np.nonzero(np.tril(seen_keys(length, length, window), -1)[1:, 1:])
            pairs = tokens[:, query] * self._vocab_size + tokens[:, key]
            of_pairs = weights.reshape(len(fine), heads, -1).take((1 + query) * length + 1 + key, axis=2)
            measured.append(("pairs", pairs, of_pairs, 1 / seen[1 + query]))
        for kind, cells, own, even in measured:
            evenly = np.broadcast_to(even, cells.shape).ravel()  # np.tile takes 15 us longer
            arrays = cells.ravel(), own.swapaxes(0, 1).reshape(heads, -1), evenly
            self._measured.setdefault(f"{name}/{kind}", []).append(arrays)
        self._measured.setdefault(f"{name}/examples", []).append(_peaks(starts, weights, seen))

    def finish(self) -> None:
        """Add all groups at once, because short texts make many groups."""
        for name, groups in self._measured.items():
            arrays = [np.concatenate(own, axis=-1) for own in zip(*groups, strict=True)]
            if name.endswith("/examples"):
                heads, _, times, _ = arrays
                above = (times > 0) & (times >= self.tallies[name].bar[heads])
                self.layout.enter_pairs(self.tallies[name], *(own[above] for own in arrays))
            else:
                _add(self.tallies[name].numbers, *arrays)
        self._measured = {}


def _sums_of_weights(weights: Array) -> tuple[Array, Array]:
    """Return the sums by query and by key in float64, without position 0 and without the query: [n, H, T, T]
    -> [n, H, T - 1] twice. Two products take a third of the time of two sums along the axes."""
    length = weights.shape[-1]
    inner, sums = (np.arange(length) > 0).astype(np.float64), np.empty((2, *weights.shape[:-1]))
    matrices, (sent, received) = weights.reshape(-1, length, length), sums.reshape(2, -1, length)
    count = max(1, AT_ONCE // length**2)
    for start in range(0, len(matrices), count):
        part = slice(start, start + count)
        wide = matrices[part].astype(np.float64)
        sent[part] = wide.reshape(-1, length).dot(inner).reshape(-1, length)
        np.matmul(inner, wide, out=received[part])
    by_query, by_key = (sums - np.einsum("nhtt->nht", weights))[..., 1:]
    return by_query, by_key


def _peaks(starts: Array, weights: Array, seen: Array) -> tuple[Array, ...]:
    """Return the largest multiple of even attention of each document and head: the head, the query's row, the
    multiple and the key's position: [n], [n, H, T, T], [T] -> [n * H] each. Position 0 counts as 0."""
    count, heads, length = weights.shape[:3]
    even = seen[:, None] * (np.arange(length) > 0)
    times = (weights * even.astype(weights.dtype)).reshape(count * heads, -1)
    place, each = times.argmax(axis=1), np.arange(count * heads)
    highest = weights.reshape(len(each), -1)[each, place] * even.ravel()[place]
    return each % heads, starts[each // heads] + place // length, highest, place % length


@lru_cache(maxsize=256)
def _even(length: int, window: int | None) -> tuple[Array, Array, Array]:
    """Return the number of keys that each query sees [T], and the sums of even attention by query and by key,
    without position 0: [T - 1] each"""
    visible = seen_keys(length, length, window)
    even = np.tril(visible, -1)[1:, 1:] / visible.sum(axis=1)[1:, None]
    return visible.sum(axis=1), even.sum(axis=1), even.sum(axis=0)


def _add(sums: Array, cells: Array, own: Array, even: Array) -> None:
    """Add numbers, even attention and counts (where it is above 0): [H + 2, S], [R], [H, R], [R]"""
    size = sums.shape[1]
    cells = np.minimum(cells, size)  # one more cell collects the tokens without sums
    for row, numbers in zip(sums, (*own, even, even > 0), strict=True):
        units = np.rint(numbers * (1 / UNIT))  # integers, so that bincount sums them exactly
        row += np.bincount(cells, units, size + 1)[:size].astype(np.int64)
