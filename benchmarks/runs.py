"""Training runs of ours, and the same names in the form the peers take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from microgpt_trace import Config, Tokenizer, init
from microgpt_trace.microgpt.batch import Batch
from microgpt_trace.microgpt.documents import Documents, default_data, read_lines
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer

LR = 0.01


@cache
def documents() -> Documents:
    """names.txt"""
    return Documents.fit(read_lines(default_data()), Tokenizer(), Config().block_size)


def new_trainer(config: Config, steps: int, batch_size: int, lr: float = LR, seed: int = 42) -> Trainer:
    """A run from fresh values: `seed` draws them and shuffles the names."""
    return Trainer(init(config, seed=seed), documents(), Schedule(steps, batch_size, lr, seed))


def padded(names: Sequence[Sequence[int] | np.ndarray], block_size: int) -> np.ndarray:
    """Ids of B names, both BOS included, padded with -1: [B, block_size + 1]"""
    rows = np.full((len(names), block_size + 1), -1, np.int32)
    for row, ids in zip(rows, names, strict=True):
        row[: len(ids)] = ids
    return rows


def rows_of(batch: Batch, config: Config) -> np.ndarray:
    """The names of a batch: [B, block_size + 1]"""
    wanted = batch.targets.argmax(axis=1)
    first = np.flatnonzero(batch.rows.positions == 0)[1:]  # where a name begins, but for the first name
    pieces = zip(np.split(batch.tokens, first), np.split(wanted, first), strict=True)
    names = [np.append(tokens, wanted[-1]) for tokens, wanted in pieces]
    return padded(names, config.block_size)


def held_out_rows() -> np.ndarray:
    """The names that are never trained on: [B, block_size + 1]"""
    names, tokenizer = documents().names, Tokenizer()
    ids = [tokenizer.encode_name(names[i]) for i in documents().held_out]
    return padded(ids, Config().block_size)
