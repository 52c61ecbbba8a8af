"""Batches: names packed row after row, so that one pass runs all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..architecture.packs import EqualLengths, equal_lengths
from ..arrays.stats import Array, DType
from ..text.frozen import frozen
from .parameters import Config


@frozen
class PackedRows:
    """The data of a batch that depend on the lengths of its names, not on their characters."""

    positions: Array  # [N] position within the name, from 0
    positions_onehot: Array  # [N, block_size]
    share: Array  # share of a row in the loss: [] 1/T for 1 name, [N, 1] 1/(B*T) for B names
    groups: tuple[EqualLengths, ...]  # empty for one name


class Batch(NamedTuple):
    """Names packed row after row without padding, the shortest first."""

    tokens: Array  # [N] ids
    tokens_onehot: Array  # [N, V]
    targets: Array  # [N, V] the share of the loss at the target of each row, 0 elsewhere
    rows: PackedRows


class Packer:
    """Makes batches for one model, and caches one-hot rows and data that depend only on lengths of names."""

    def __init__(self, config: Config, dtype: DType = np.float32) -> None:
        self.config, self.dtype = config, dtype
        self._tokens = np.eye(config.vocab_size, dtype=dtype)
        self._by_length: dict[int, tuple[PackedRows, Array]] = {}

    def one(self, ids: Array) -> Batch:
        """Make a batch of one name from its [T+1] ids, which begin and end with BOS."""
        tokens = ids[:-1]
        rows, targets = self._by_length.get(len(tokens)) or self._add_length(len(tokens))
        return Batch(tokens, self._tokens.take(tokens, 0), targets.take(ids[1:], 0), rows)

    def _add_length(self, length: int) -> tuple[PackedRows, Array]:
        """Cache and return the rows for a name of this length, and the `targets` of each token: [V, V]"""
        share = np.array(1 / length, self.dtype)
        positions_onehot = np.eye(length, self.config.block_size, dtype=self.dtype)
        rows = PackedRows(np.arange(length), positions_onehot, share, ())
        self._by_length[length] = result = rows, self._tokens * share
        return result

    def several(self, tokens: Array, next_tokens: Array, lengths: Array) -> Batch:
        """Make a batch of B names from the ids of their rows [N], the ids after each row [N] and the numbers
        of rows [B]. The shortest name comes first."""
        rows = np.arange(len(tokens))
        positions = rows - np.repeat(lengths.cumsum() - lengths, lengths)
        share = np.repeat(1 / (len(lengths) * lengths), lengths).astype(self.dtype)
        targets = np.zeros((len(rows), self.config.vocab_size), self.dtype)
        targets[rows, next_tokens] = share
        positions_onehot = np.zeros((len(rows), self.config.block_size), self.dtype)
        positions_onehot[rows, positions] = 1
        packed_rows = PackedRows(positions, positions_onehot, share[:, None], equal_lengths(lengths))
        return Batch(tokens, self._tokens.take(tokens, 0), targets, packed_rows)
