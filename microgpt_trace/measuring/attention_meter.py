"""Measure where attention heads look, in one text and over a corpus.

For every query from position 1 on, the module measures a head's attention on the query's own position, on the
previous position, on position 0, and on earlier occurrences of the query's token. The module also measures
the entropy of the attention in nats. For each window, the module measures evenly spread attention, too. If a
document's weights in a layer are not all finite, the tallies of the layer leave the document out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays.stats import NOT_FINITE, Array
from ..operations.softmax import seen_keys
from .definitions import Attention
from .meter import Meter, PackLayout, first_rows
from .tallies import Counts, Sums, named

EVENLY = "attention"  # prefix of the tallies for evenly spread attention
# Each name is a sum over all queries of a head, or over all queries of evenly spread attention.
SUMS = ("itself", "previous", "first", "repeat", "repeat_apart", "entropy")
# `repeats` counts the queries with a repeat, which is an earlier occurrence of the query's token.
# `repeats_apart` counts the queries with a repeat between position 0 and the previous position.
COUNTS = ("queries", "repeats", "repeats_apart")


class AttentionMeter(Meter):
    """A meter of the weights of every head. `windows` maps each event to its attention window or None."""

    def __init__(self, heads: Mapping[str, int], windows: Mapping[str, int | None]) -> None:
        self.names = list(heads)
        self._own = {name: _sums(count) for name, count in heads.items()}
        self._even = {window: _sums(1) for window in windows.values()}
        self._counts = {name: {key: Counts(1) for key in COUNTS} for name in (EVENLY, *heads)}
        even = {f"{EVENLY}.{window or 'all'}": sums for window, sums in self._even.items()}
        self.tallies = named(self._counts) | named(even) | named(self._own)

    def begin(self, layout: PackLayout) -> None:
        super().begin(layout)
        self._groups = [
            Queries(layout.tokens[group.rows].reshape(group.texts, group.length)) for group in layout.groups
        ]
        self._measured: dict[str, list[dict[str, Array]]] = {name: [] for name in self._own}
        for window, sums in self._even.items():
            _add(sums, [queries.even(window) for queries in self._groups])
        for queries in self._groups:
            self._count(EVENLY, queries, np.ones(queries.texts, bool))

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        heads, length = value.shape[-3:-1]
        queries = self._groups[self.next(name, 1)]
        measured = queries.measured(value.reshape(-1, heads, length, length))
        fine = np.isfinite(np.sum([*measured.values()], axis=0)).all(axis=1)
        if fine.any():
            some = slice(None) if fine.all() else fine
            self._measured[name].append({key: sums[some] for key, sums in measured.items()})
            self._count(name, queries, fine)

    def _count(self, name: str, queries: Queries, fine: Array) -> None:
        """Count the queries of a group, in the documents that the mask `fine` [n] selects."""
        numbers = np.count_nonzero(fine) * (queries.length - 1), *(fine @ queries.repeated)
        for tally, number in zip(self._counts[name].values(), numbers, strict=True):
            tally.numbers += number

    def finish(self) -> None:
        """Add the sums of all groups in one step, because a pass over short texts has many groups."""
        for name, measured in self._measured.items():
            if measured:
                _add(self._own[name], measured)


def _sums(heads: int) -> dict[str, Sums]:
    return {key: Sums(heads) for key in SUMS}


def _add(sums: Mapping[str, Sums], groups: Sequence[Mapping[str, Array]]) -> None:
    """Add the sums of all groups to the tallies: [n, H] each"""
    for key, own in sums.items():
        own.add(np.concatenate([group[key] for group in groups]))


class Queries:
    """The queries of texts of equal length. `tokens` [n, T] contains the token ids. The measured keys of a
    query are the query itself, the previous position, position 0 and earlier occurrences of its token."""

    def __init__(self, tokens: Array) -> None:
        self.texts, self.length = tokens.shape
        earlier, apart = repeats_of(tokens)  # [n, T, T]
        at = np.flatnonzero(earlier)
        is_apart = apart.ravel()[at]
        self._text, self._place = np.divmod(at, self.length**2)  # text and place of each repeat, [R]
        self._apart = is_apart[:, None]
        self._firsts = first_rows(self._text)
        queries = at // self.length
        counts = [
            np.bincount(repeats[first_rows(repeats)] // self.length, minlength=self.texts)
            for repeats in (queries, queries[is_apart])
        ]
        self.repeated = np.stack(counts, axis=1)  # the last two of COUNTS, for each text: [n, 2]

    def even(self, window: int | None) -> dict[str, Array]:
        """Return the sums over the queries of each text, for evenly spread attention: [n, 1] each"""
        sums = self.measured(even_weights(self.length, window)[None, None])
        return {name: np.broadcast_to(own, (self.texts, 1)) for name, own in sums.items()}

    def measured(self, weights: Array) -> dict[str, Array]:
        """Return the sums over the queries of each text and head: [n, H, T, T] -> [n, H] each. All texts can
        share weights [1, H, T, T]."""
        count, heads = weights.shape[:2]
        flat = weights.reshape(count, heads, -1)
        # Unlike take, an index array puts the queries first in memory, so that sums add query after query.
        shares = flat[:, :, _places(self.length)].astype(np.float64).sum(axis=3)
        logs = np.log(np.maximum(weights, np.finfo(weights.dtype).tiny))
        of_key = np.multiply(logs, weights, out=logs)[:, :, 1:].reshape(count, heads, -1)
        entropy = 0.0 * weights[:, :, 0, 0] - of_key.sum(axis=2, dtype=np.float64)  # NaN if a weight is NaN
        repeats = flat[self._text % count, :, self._place].astype(np.float64)
        return {
            "itself": shares[:, :, 0], "previous": shares[:, :, 1], "first": shares[:, :, 2],
            "repeat": self._by_text(repeats), "repeat_apart": self._by_text(repeats * self._apart),
            "entropy": entropy,
        }  # fmt: skip

    def attention(self, weights: Array) -> list[Attention]:
        """Return the mean shares of each head in a text of two or more tokens: [H, T, T] -> H items"""
        sums = {name: own[0] for name, own in self.measured(weights[None]).items()}
        return [shares for shares, _ in mean_shares(sums, self.length - 1, *self.repeated[0])]

    def even_attention(self, window: int | None) -> Attention:
        """Return the mean shares of evenly spread attention in one text."""
        return self.attention(even_weights(self.length, window)[None])[0]

    def _by_text(self, repeats: Array) -> Array:
        """Sum the weights of the repeats in each text: [R, H] -> [n, H]"""
        sums = np.zeros((self.texts, repeats.shape[1]))
        sums[self._text[self._firsts]] = np.add.reduceat(repeats, self._firsts, axis=0)
        return sums


def mean_shares(
    sums: Mapping[str, Array], queries: int, repeats: int, repeats_apart: int
) -> Iterator[tuple[Attention, float]]:
    """Yield the mean shares and the mean entropy of each head, from sums [H] and numbers of queries."""
    counts = {"repeat": repeats, "repeat_apart": repeats_apart}
    for head in range(len(sums["entropy"])):
        mean: dict[str, Any] = {
            name: float(own[head]) / counts.get(name, queries) if counts.get(name, 1) else None
            for name, own in sums.items()
        }
        entropy = mean.pop("entropy")
        yield Attention(**mean), entropy


def even_weights(length: int, window: int | None) -> Array:
    """Return evenly spread attention weights over the keys that a query sees: [T, T]"""
    seen = seen_keys(length, length, window)
    return seen / seen.sum(axis=1, keepdims=True)


def repeats_of(tokens: Array) -> tuple[Array, Array]:
    """Return two masks of the keys of each query: [..., T] -> [..., T, T] twice. The first mask marks earlier
    occurrences of the query's token. The second mask leaves out the previous position and position 0."""
    keys = np.arange(tokens.shape[-1])
    back = keys[:, None] - keys
    earlier = (back > 0) & (tokens[..., :, None] == tokens[..., None, :])
    return earlier, earlier & (back > 1) & (keys > 0)


@lru_cache(maxsize=64)
def _places(length: int) -> Array:
    """Return the indices of each query's own position, of the previous position and of position 0 in a
    flattened [T, T] matrix, for the queries from position 1 on: [3, T - 1]"""
    queries = np.arange(1, length)
    return queries * length + np.stack((queries, queries - 1, np.zeros_like(queries)))
