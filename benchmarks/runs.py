"""Our training runs, and their names in the form that peers take."""

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
def documents(block_size: int = Config.block_size) -> Documents:
    """Return the names of names.txt, or for a longer block texts of the letters of many names."""
    lines = read_lines(default_data())
    if block_size > Config.block_size:
        letters, size = "".join(lines), block_size - 1
        lines = [letters[at : at + size] for at in range(0, len(letters) - size, size)]
    return Documents.fit(lines, Tokenizer(), block_size)


def new_trainer(config: Config, steps: int, batch_size: int, lr: float = LR, seed: int = 42) -> Trainer:
    """Start a run. `seed` sets the initial values and the order of the names."""
    texts = documents(config.block_size)
    return Trainer(init(config, seed=seed), texts, Schedule(steps, batch_size, lr, seed))


def padded(names: Sequence[Sequence[int] | np.ndarray], block_size: int) -> np.ndarray:
    """Pad the ids of B names, with both BOS, by -1: [B, block_size + 1]"""
    rows = np.full((len(names), block_size + 1), -1, np.int32)
    for row, ids in zip(rows, names, strict=True):
        row[: len(ids)] = ids
    return rows


def rows_of(batch: Batch, config: Config) -> np.ndarray:
    """Return the names of a batch: [B, block_size + 1]"""
    targets = batch.targets.argmax(axis=1)
    starts = np.flatnonzero(batch.rows.positions == 0)[1:]  # of all names but the first
    pieces = zip(np.split(batch.tokens, starts), np.split(targets, starts), strict=True)
    names = [np.append(tokens, targets[-1]) for tokens, targets in pieces]
    return padded(names, config.block_size)


def held_out_rows() -> np.ndarray:
    """Return the names of the held-out set: [B, block_size + 1]"""
    names, tokenizer = documents().names, Tokenizer()
    ids = [tokenizer.encode_name(names[i]) for i in documents().held_out]
    return padded(ids, Config().block_size)
