"""What heads look at, in one text and over a corpus. Knows no text.

Of every query from position 1 on: the share of its attention on itself, on the position before it, on
position 0 and, where its token occurred before, on these earlier occurrences, and the entropy of its
attention, in nats. The same of attention that is spread evenly, which has a key of its own for each window.
A document in which a weight is no number is left out of what is known of that layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..architecture.operations.softmax import seen_keys
from ..arrays.stats import NOT_FINITE, Array
from .definitions import Attention
from .meter import Meter, PackLayout, first_rows
from .tallies import Counts, Sums, named

EVENLY = "attention"  # before the window, of what is spread evenly


# Sums over queries, of each head; of evenly spread attention of one.
SUMS = ("itself", "previous", "first", "repeat", "repeat_apart", "entropy")
# How many queries were measured, how many of them have a token that occurred before, and how many one that
# occurred neither at position 0 alone nor right before it.
COUNTS = ("queries", "repeats", "repeats_apart")


class AttentionMeter(Meter):
    """Measures the weights of every head. `windows` are those of the events, None for no window."""

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
            self._measured[name].append({key: sums[fine] for key, sums in measured.items()})
            self._count(name, queries, fine)

    def _count(self, name: str, queries: Queries, fine: Array) -> None:
        """Count the queries of those documents of a group that are `fine`, [n]."""
        numbers = np.count_nonzero(fine) * (queries.length - 1), *queries.repeated[fine].sum(axis=0)
        for tally, number in zip(self._counts[name].values(), numbers, strict=True):
            tally.numbers += number

    def finish(self) -> None:
        """Take in all groups at once, which are many where texts are short."""
        for name, measured in self._measured.items():
            if measured:
                _add(self._own[name], measured)


def _sums(heads: int) -> dict[str, Sums]:
    return {key: Sums(heads) for key in SUMS}


def _add(sums: Mapping[str, Sums], groups: Sequence[Mapping[str, Array]]) -> None:
    """Add what was measured of the documents of all groups: [n, H] each"""
    for key, own in sums.items():
        own.add(np.concatenate([group[key] for group in groups]))


class Queries:
    """Where the queries of texts of one length look: at themselves, at the position before, at position 0
    and at earlier occurrences of their tokens, [n, T]."""

    def __init__(self, tokens: Array) -> None:
        self.texts, self.length = tokens.shape
        earlier, apart = repeats_of(tokens)  # [n, T, T]
        at = np.flatnonzero(earlier)
        is_apart = apart.ravel()[at]
        self._text, self._place = np.divmod(at, self.length**2)  # of each such key, [R]
        self._apart = is_apart[:, None]
        self._firsts = first_rows(self._text)
        queries = at // self.length
        counts = [
            np.bincount(np.unique(some) // self.length, minlength=self.texts)
            for some in (queries, queries[is_apart])
        ]
        self.repeated = np.stack(counts, axis=1)  # how many queries of each text have such keys: [n, 2]

    def even(self, window: int | None) -> dict[str, Array]:
        """The sums over the queries of attention that is spread evenly over what they see: [n, 1] each"""
        found = self.measured(even_weights(self.length, window)[None, None])
        return {name: np.broadcast_to(own, (self.texts, 1)) for name, own in found.items()}

    def measured(self, weights: Array) -> dict[str, Array]:
        """Sums over the queries of each document and head: [n, H, T, T] -> [n, H] each; of weights that are
        the same for all documents, [1, H, T, T]."""
        count, heads = weights.shape[:2]
        queries = np.arange(1, self.length)
        logs = np.log(np.maximum(weights, np.finfo(weights.dtype).tiny))
        of_key = np.multiply(logs, weights, out=logs)[:, :, 1:].reshape(count, heads, -1)
        entropy = 0.0 * weights[:, :, 0, 0] - of_key.sum(axis=2, dtype=np.float64)  # NaN where any weight is
        again = weights.reshape(count, heads, -1)[self._text % count, :, self._place].astype(np.float64)
        return {
            "itself": _summed(weights[:, :, queries, queries]),
            "previous": _summed(weights[:, :, queries, queries - 1]),
            "first": _summed(weights[:, :, 1:, 0]),
            "repeat": self._of_texts(again), "repeat_apart": self._of_texts(again * self._apart),
            "entropy": entropy,
        }  # fmt: skip

    def attention(self, weights: Array) -> list[Attention]:
        """The mean shares of each head in one text of two tokens or more: [H, T, T] -> H of them"""
        sums = {name: own[0] for name, own in self.measured(weights[None]).items()}
        return [shares for shares, _ in mean_shares(sums, self.length - 1, *self.repeated[0])]

    def even_attention(self, window: int | None) -> Attention:
        """The mean shares in one text of a head that gives all that it can see the same weight."""
        return self.attention(even_weights(self.length, window)[None])[0]

    def _of_texts(self, again: Array) -> Array:
        """The sums of what is at repeats: [R, H] -> [n, H]"""
        found = np.zeros((self.texts, again.shape[1]))
        if len(again):
            found[self._text[self._firsts]] = np.add.reduceat(again, self._firsts, axis=0)
        return found


def mean_shares(
    sums: Mapping[str, Array], queries: int, repeats: int, repeats_apart: int
) -> list[tuple[Attention, float]]:
    """The mean shares of each head and its mean entropy, of the sums over so many queries: [H] each."""
    of = {"repeat": repeats, "repeat_apart": repeats_apart}
    found = []
    for head in range(len(sums["entropy"])):
        mean: dict[str, Any] = {
            name: float(own[head]) / of.get(name, queries) if of.get(name, 1) else None
            for name, own in sums.items()
        }
        entropy = mean.pop("entropy")
        found.append((Attention(**mean), entropy))
    return found


def even_weights(length: int, window: int | None) -> Array:
    """The weights of a head that gives all that it can see the same weight: [T, T]"""
    seen = seen_keys(length, length, window)
    return seen / seen.sum(axis=1, keepdims=True)


def repeats_of(tokens: Array) -> tuple[Array, Array]:
    """Which keys are earlier occurrences of each query's token, and which of these are neither right before
    it nor at position 0: [..., T] -> [..., T, T] twice"""
    keys = np.arange(tokens.shape[-1])
    back = keys[:, None] - keys
    earlier = (back > 0) & (tokens[..., :, None] == tokens[..., None, :])
    return earlier, earlier & (back > 1) & (keys > 0)


def _summed(looked: Array) -> Array:
    """What some queries give to a key each: [n, H, Q] -> [n, H]"""
    return looked.astype(np.float64).sum(axis=2)
