"""Batch: names packed row after row for one pass, with what the model needs to know of the rows."""

from __future__ import annotations

from functools import lru_cache
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


@lru_cache(maxsize=16)
def identity(size: int, dtype: DType) -> Array:
    return np.eye(size, dtype=dtype)


@lru_cache(maxsize=1024)
def _rows_of_one(length: int, config: Config, dtype: DType) -> tuple[Any, ...]:
    share = np.array(1 / length, dtype)
    return (
        np.arange(length),
        identity(config.block_size, dtype)[:length],
        identity(config.vocab_size, dtype) * share,
        (Group(slice(0, length), 1, length),),
        share,
    )


def one_name(ids: Array, config: Config, dtype: DType = np.float32) -> Batch:
    """A batch of one name from its [T+1] ids, both BOS included."""
    tokens, wanted = ids[:-1], ids[1:]
    positions, positions_onehot, targets, groups, share = _rows_of_one(len(tokens), config, dtype)
    return Batch(
        tokens,
        positions,
        identity(config.vocab_size, dtype).take(tokens, 0),
        positions_onehot,
        targets.take(wanted, 0),
        groups,
        share,
    )


def packed_names(padded: Array, lengths: Array, config: Config, dtype: DType = np.float32) -> Batch:
    """A batch of B names from their ids padded to [B, block_size + 1] and their positions [B]."""
    order = np.argsort(lengths, kind="stable")
    padded, lengths = padded[order], lengths[order]
    kept = np.arange(config.block_size) < lengths[:, None]
    tokens, wanted, positions = padded[:, :-1][kept], padded[:, 1:][kept], np.nonzero(kept)[1]
    groups, start = [], 0
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        stop = start + int(length) * int(count)
        groups.append(Group(slice(start, stop), int(count), int(length)))
        start = stop
    share = np.repeat(1 / (len(lengths) * lengths), lengths).astype(dtype)
    targets = np.zeros((start, config.vocab_size), dtype)
    targets[np.arange(start), wanted] = share
    return Batch(
        tokens,
        positions,
        identity(config.vocab_size, dtype).take(tokens, 0),
        identity(config.block_size, dtype).take(positions, 0),
        targets,
        tuple(groups),
        share[:, None],
    )
