"""AttentionMeter: what heads look at, over a corpus. Knows no text.

Of every query from position 1 on: the share of its attention on itself, on the position before it, on
position 0 and, where its token occurred before, on these earlier occurrences, and the entropy of its
attention, in nats. The same of attention that is spread evenly, which has a key of its own for each window.
A document in which a weight is no number is left out of what is known of that layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..architecture.operations.softmax import seen_keys
from ..arrays.stats import NOT_FINITE, Array
from ..attribution.head_roles import repeats_of
from .meters import Rows
from .pack_layout import PackLayout, first_rows
from .tallies import Counts, Sums, Tally, named

EVENLY = "attention"  # before the window, of what is spread evenly


@dataclass
class AttentionSums:
    """Sums over queries, of each head: [H]; of evenly spread attention of one."""

    itself: Sums
    previous: Sums
    first: Sums
    repeat: Sums
    repeat_apart: Sums
    entropy: Sums

    @classmethod
    def empty(cls, heads: int) -> AttentionSums:
        return cls(*(Sums(heads) for _ in fields(cls)))

    def add(self, measured: Mapping[str, Array]) -> None:
        for name, sums in measured.items():
            getattr(self, name).add(sums)


@dataclass
class QueryCounts:
    """How many queries were measured, how many of them have a token that occurred before, and how many one
    that occurred neither at position 0 alone nor right before it."""

    queries: Counts
    repeats: Counts
    repeats_apart: Counts

    @classmethod
    def empty(cls) -> QueryCounts:
        return cls(*(Counts(1) for _ in fields(cls)))

    def add(self, looks: _Looks, fine: Array) -> None:
        """Count the queries of those documents of a group that are `fine`, [n]."""
        self.queries.numbers += np.count_nonzero(fine) * (looks.length - 1)
        any_earlier, any_apart = looks.repeated[fine].sum(axis=0)
        self.repeats.numbers += any_earlier
        self.repeats_apart.numbers += any_apart


class AttentionMeter(Rows):
    """Measures the weights of every head. `windows` are those of the events, None for no window."""

    def __init__(self, heads: Mapping[str, int], windows: Mapping[str, int | None]) -> None:
        self.names = list(heads)
        self._own = {name: AttentionSums.empty(count) for name, count in heads.items()}
        self._even = {window: AttentionSums.empty(1) for window in dict.fromkeys(windows.values())}
        self._counts = {name: QueryCounts.empty() for name in (EVENLY, *heads)}

    @property
    def tallies(self) -> dict[str, Tally]:
        found: dict[str, Tally] = {}
        for name, counts in self._counts.items():
            found |= named(name, counts)
        for window, sums in self._even.items():
            found |= named(f"{EVENLY}.{window or 'all'}", sums)
        for name, sums in self._own.items():
            found |= named(name, sums)
        return found

    def begin(self, layout: PackLayout) -> None:
        super().begin(layout)
        self._looks = [_Looks(layout, group) for group in range(len(layout.groups))]
        self._measured: dict[str, list[dict[str, Array]]] = {name: [] for name in self._own}
        for window, sums in self._even.items():
            sums.add(_joined([looks.even(window) for looks in self._looks]))
        for looks in self._looks:
            self._counts[EVENLY].add(looks, np.ones(looks.texts, bool))

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        heads, length = value.shape[-3:-1]
        looks = self._looks[self.next(name, 1)]
        measured = looks.measured(value.reshape(-1, heads, length, length))
        fine = np.isfinite(np.sum([*measured.values()], axis=0)).all(axis=1)
        if fine.any():
            self._measured[name].append({key: sums[fine] for key, sums in measured.items()})
            self._counts[name].add(looks, fine)

    def finish(self) -> None:
        """Take in all groups at once, which are many where texts are short."""
        for name, measured in self._measured.items():
            if measured:
                self._own[name].add(_joined(measured))


def _joined(groups: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The sums of all groups: [n, H] each -> [B, H] each"""
    return {key: np.concatenate([group[key] for group in groups]) for key in groups[0]}


class _Looks:
    """Where the queries of one group of a pack look: at themselves, at the position before, at position 0
    and at earlier occurrences of their tokens."""

    def __init__(self, layout: PackLayout, group: int) -> None:
        own = layout.groups[group]
        self.texts, self.length = own.texts, own.length
        tokens = layout.tokens[own.rows].reshape(own.texts, own.length)
        earlier, apart = repeats_of(tokens)  # [n, T, T]
        at = np.flatnonzero(earlier)
        is_apart = apart.ravel()[at]
        self._text, self._place = np.divmod(at, own.length**2)  # of each such key, [R]
        self._apart = is_apart[:, None]
        self._firsts = first_rows(self._text)
        queries = at // own.length
        counts = [
            np.bincount(np.unique(some) // own.length, minlength=own.texts)
            for some in (queries, queries[is_apart])
        ]
        self.repeated = np.stack(counts, axis=1)  # how many queries of each text have such keys: [n, 2]

    def even(self, window: int | None) -> dict[str, Array]:
        """The sums over the queries of attention that is spread evenly over what they see: [n, 1] each"""
        seen = seen_keys(self.length, self.length, window)
        found = self.measured((seen / seen.sum(axis=1, keepdims=True))[None, None])
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

    def _of_texts(self, again: Array) -> Array:
        """The sums of what is at repeats: [R, H] -> [n, H]"""
        found = np.zeros((self.texts, again.shape[1]))
        if len(again):
            found[self._text[self._firsts]] = np.add.reduceat(again, self._firsts, axis=0)
        return found


def _summed(looked: Array) -> Array:
    """What some queries give to a key each: [n, H, Q] -> [n, H]"""
    return looked.astype(np.float64).sum(axis=2)
