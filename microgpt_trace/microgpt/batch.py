"""Batches: names packed row after row, so that one pass runs all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array, DType
from ..models.packs import equal_lengths
from ..text.frozen import frozen
from .documents import encoded_names
from .parameters import Config
from .tokenizer import Tokenizer

SHORT = 32  # positions of a name that runs alone with its heads stacked, which takes half the time there
MERGED = 32  # names of different lengths run together until a group has so many
QUERIES = 64  # queries of a block


class Group(NamedTuple):
    """Consecutive names of a batch whose heads share one product per operation. Zeros follow a name that is
    shorter than the longest name of the group."""

    rows: slice
    source: Array  # [n, H, T] the head of a row to copy, as an index into [rows*H], or rows*H for zeros
    place: Array  # [rows, H] the index of each head of a row in [n*H*T]

    @classmethod
    def of(cls, first: int, lengths: Array, n_head: int) -> Group:
        names, longest, rows = len(lengths), int(lengths[-1]), int(lengths.sum())
        cells = np.arange(names * n_head * longest).reshape(names, n_head, longest)
        place = cells.swapaxes(1, 2)[np.arange(longest) < lengths[:, None]]
        source = np.full_like(cells, rows * n_head)
        source.ravel()[place] = np.arange(rows * n_head).reshape(rows, n_head)
        return cls(slice(first, first + rows), source, place)

    def heads(self, x: Array) -> Array:
        """Copy the heads of the rows of this group: [N, C] -> [n, H, T, D]"""
        heads = x[self.rows].reshape(self.place.size, -1)
        return np.concatenate((heads, np.zeros_like(heads[:1]))).take(self.source, 0)

    def side_by_side(self, heads: Array) -> Array:
        """Reverse `heads`, for several values together: [m, n, H, T, D] -> [m, rows, C]"""
        by_row = heads.reshape(len(heads), -1, heads.shape[-1]).take(self.place, 1)
        return by_row.reshape(*by_row.shape[:2], -1)


def groups_of(lengths: Array, n_head: int) -> tuple[Group, ...]:
    """Group the names of a batch, sorted from short to long. Names of one length stay together. The last
    digits of a name may depend on the other names."""
    groups, start, end, row = list[Group](), 0, 0, 0
    for rows, names, _ in equal_lengths(lengths):
        end += names
        if end - start >= MERGED or end == len(lengths):
            groups.append(Group.of(row, lengths[start:end], n_head))
            start, row = end, rows.stop
    return tuple(groups)


@frozen
class PackedRows:
    """The data of a batch that depend on the lengths of its names, not on their characters."""

    positions: Array  # [N] position within the name, from 0
    positions_onehot: Array  # [N, block_size]
    share: Array  # share of a row in the loss: [] 1/T for 1 name, [N, 1] 1/(B*T) for B names
    groups: tuple[Group, ...]  # empty for one short name


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
        self._positions = np.eye(config.block_size, dtype=dtype)
        self._by_length: dict[int, tuple[PackedRows, Array]] = {}

    def one(self, ids: Array) -> Batch:
        """Make a batch of one name from its [T+1] ids, which begin and end with BOS."""
        tokens = ids[:-1]
        rows, targets = self._by_length.get(len(tokens)) or self._add_length(len(tokens))
        return Batch(tokens, self._tokens.take(tokens, 0), targets.take(ids[1:], 0), rows)

    def _add_length(self, length: int) -> tuple[PackedRows, Array]:
        """Cache and return the rows for a name of this length, and the `targets` of each token: [V, V]"""
        share = np.array(1 / length, self.dtype)
        groups = () if length <= SHORT else groups_of(np.array([length]), self.config.n_head)
        rows = PackedRows(np.arange(length), self._positions[:length], share, groups)
        self._by_length[length] = result = rows, self._tokens * share
        return result

    def several(self, tokens: Array, next_tokens: Array, lengths: Array) -> Batch:
        """Make a batch of B names from the ids of their rows [N], the ids after each row [N] and the numbers
        of rows [B]. The shortest name comes first."""
        positions = np.arange(len(tokens)) - np.repeat(lengths.cumsum() - lengths, lengths)
        share = np.repeat(1 / (len(lengths) * lengths), lengths).astype(self.dtype)[:, None]
        targets = self._tokens.take(next_tokens, 0) * share
        groups = groups_of(lengths, self.config.n_head)
        packed_rows = PackedRows(positions, self._positions.take(positions, 0), share, groups)
        return Batch(tokens, self._tokens.take(tokens, 0), targets, packed_rows)


class Encoded:
    """Documents as one stream of ids. A slice of the stream is a name between two BOS."""

    def __init__(
        self, names: Sequence[str], tokenizer: Tokenizer, config: Config, dtype: DType = np.float32
    ) -> None:
        self.stream = encoded_names(names, tokenizer)
        self.lengths = np.fromiter((len(name) + 1 for name in names), np.intp, len(names))
        self.starts = np.concatenate(([0], self.lengths.cumsum()))
        self._packer = Packer(config, dtype)
        self._starts = self.starts.tolist()  # slicing is faster with Python integers

    def one(self, index: int) -> Batch:
        return self._packer.one(self.stream[self._starts[index] : self._starts[index + 1] + 1])

    def several(self, indices: Array) -> Batch:
        shortest_first = indices[np.argsort(self.lengths[indices], kind="stable")]
        lengths = self.lengths[shortest_first]
        rows_before = lengths.cumsum() - lengths
        places = np.repeat(self.starts[shortest_first] - rows_before, lengths) + np.arange(lengths.sum())
        return self._packer.several(self.stream[places], self.stream[places + 1], lengths)
