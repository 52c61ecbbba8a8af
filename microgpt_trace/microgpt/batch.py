"""Batch: names packed row after row for one pass, with what the model needs to know of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..architecture.packs import EqualLengths, Pack, equal_lengths
from ..arrays.stats import Array, DType
from .parameters import Config


@dataclass(frozen=True, slots=True)
class PackedRows:
    """What is known of a batch's rows without their characters."""

    positions: Array  # [N] 0-based, within the name
    positions_onehot: Array  # [N, block_size]
    share: Array  # [] 1/T for one name, [N, 1] 1/(B*T) for several: every name counts the same
    groups: tuple[EqualLengths, ...]  # empty for one name


class Batch(NamedTuple):
    """Names packed row after row, without padding, shorter ones first."""

    tokens: Array  # [N] ids
    tokens_onehot: Array  # [N, V]
    targets: Array  # [N, V] each row's share of the loss at its target, 0 elsewhere
    rows: PackedRows


class Packer:
    """Makes batches for one model: its tables of one-hot rows, and what depends on a length alone."""

    def __init__(self, config: Config, dtype: DType = np.float32) -> None:
        self.config, self.dtype = config, dtype
        self._tokens = np.eye(config.vocab_size, dtype=dtype)
        self._of_length: dict[int, tuple[PackedRows, Array]] = {}

    def one(self, ids: Array) -> Batch:
        """A batch of one name from its [T+1] ids, both BOS included."""
        tokens = ids[:-1]
        rows, targets = self._of_length.get(len(tokens)) or self._know(len(tokens))
        return Batch(tokens, self._tokens.take(tokens, 0), targets.take(ids[1:], 0), rows)

    def _know(self, length: int) -> tuple[PackedRows, Array]:
        """The rows of a name of this length, and the table of its targets."""
        share = np.array(1 / length, self.dtype)
        rows = PackedRows(
            np.arange(length), np.eye(length, self.config.block_size, dtype=self.dtype), share, ()
        )
        known = self._of_length[length] = rows, self._tokens * share
        return known

    def packed(self, pack: Pack) -> Batch:
        """A batch of texts that were read."""
        return self._batch(pack.tokens, pack.targets, pack.positions, pack.lengths, pack.groups)

    def several(self, padded: Array, lengths: Array) -> Batch:
        """A batch of B names from their ids padded to [B, block_size + 1] and their positions [B]."""
        order = np.argsort(lengths, kind="stable")
        padded, lengths = padded[order], lengths[order]
        kept = np.arange(self.config.block_size) < lengths[:, None]
        tokens, wanted, positions = padded[:, :-1][kept], padded[:, 1:][kept], np.nonzero(kept)[1]
        return self._batch(tokens, wanted, positions, lengths, equal_lengths(lengths))

    def _batch(
        self, tokens: Array, wanted: Array, positions: Array, lengths: Array, groups: tuple[EqualLengths, ...]
    ) -> Batch:
        count = len(tokens)
        share = np.repeat(1 / (len(lengths) * lengths), lengths).astype(self.dtype)
        targets = np.zeros((count, self.config.vocab_size), self.dtype)
        targets[np.arange(count), wanted] = share
        positions_onehot = np.zeros((count, self.config.block_size), self.dtype)
        positions_onehot[np.arange(count), positions] = 1
        rows = PackedRows(positions, positions_onehot, share[:, None], groups)
        return Batch(tokens, self._tokens.take(tokens, 0), targets, rows)
