"""Batch: names packed row after row for one pass, with what the model needs to know of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .parameters import Config
from .stats import Array, DType


class Group(NamedTuple):
    """Names of equal length that stand one after another in a batch."""

    rows: slice
    n_names: int
    length: int


class Batch(NamedTuple):
    """Names packed row after row, without padding, shorter ones first."""

    tokens: Array  # [N] ids
    positions: Array  # [N] 0-based, within the name
    tokens_onehot: Array  # [N, V]
    positions_onehot: Array  # [N, block_size]
    targets: Array  # [N, V] each row's share of the loss at its target, 0 elsewhere
    groups: tuple[Group, ...]
    share: Array  # [] 1/T for one name, [N, 1] 1/(B*T) for several: every name counts the same


class Packer:
    """Makes batches for one model: its tables of one-hot rows, and what depends on a length alone."""

    def __init__(self, config: Config, dtype: DType = np.float32) -> None:
        self.config, self.dtype = config, dtype
        self._tokens = np.eye(config.vocab_size, dtype=dtype)
        self._positions = np.eye(config.block_size, dtype=dtype)
        self._of_length: dict[int, tuple[Any, ...]] = {}

    def one(self, ids: Array) -> Batch:
        """A batch of one name from its [T+1] ids, both BOS included."""
        tokens, wanted = ids[:-1], ids[1:]
        length = len(tokens)
        known = self._of_length.get(length) or self._know(length)
        positions, positions_onehot, targets, groups, share = known
        return Batch(
            tokens,
            positions,
            self._tokens.take(tokens, 0),
            positions_onehot,
            targets.take(wanted, 0),
            groups,
            share,
        )

    def _know(self, length: int) -> tuple[Any, ...]:
        share = np.array(1 / length, self.dtype)
        groups = (Group(slice(0, length), 1, length),)
        known = (np.arange(length), self._positions[:length], self._tokens * share, groups, share)
        self._of_length[length] = known
        return known

    def several(self, padded: Array, lengths: Array) -> Batch:
        """A batch of B names from their ids padded to [B, block_size + 1] and their positions [B]."""
        order = np.argsort(lengths, kind="stable")
        padded, lengths = padded[order], lengths[order]
        kept = np.arange(self.config.block_size) < lengths[:, None]
        tokens, wanted, positions = padded[:, :-1][kept], padded[:, 1:][kept], np.nonzero(kept)[1]
        groups, start = [], 0
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            stop = start + int(length) * int(count)
            groups.append(Group(slice(start, stop), int(count), int(length)))
            start = stop
        share = np.repeat(1 / (len(lengths) * lengths), lengths).astype(self.dtype)
        targets = np.zeros((start, self.config.vocab_size), self.dtype)
        targets[np.arange(start), wanted] = share
        return Batch(
            tokens,
            positions,
            self._tokens.take(tokens, 0),
            self._positions.take(positions, 0),
            targets,
            tuple(groups),
            share[:, None],
        )
