"""Passes of models of transformers in several schedules, and engines that make mistakes of a schedule."""

from contextlib import contextmanager

import numpy as np
import pytest

from microgpt_trace import record

TEXT = (3, 17, 44, 3, 60, 0, 29, 5, 8, 21)
OTHER = (9, 2, 51, 33, 7, 12, 40, 6, 18, 27)
CHUNKS = {"whole": [10], "decoding": [6, 1, 1, 1, 1], "chunks of 3": [3, 3, 3, 1], "chunks of 1": [1] * 10,
          "chunks of 8": [8, 2]}  # fmt: skip


def padded(side, pads=3):
    """Return the tokens, the attention mask and the positions of a batch whose first text is padded."""
    real = [TEXT, (1,) * pads]
    ids, mask = (sum(parts[:: -1 if side == "left" else 1], ()) for parts in (real, [(1,) * 10, (0,) * pads]))
    positions = np.maximum(np.cumsum(mask) - 1, 0)
    return [ids, (*OTHER, 4, 5, 6)], [mask, (1,) * 13], [tuple(positions), tuple(range(13))]


def run(model, folder, lengths, ids=(TEXT,), mask=None, positions=None):
    """Record the passes of these lengths over texts."""
    torch = pytest.importorskip("torch")
    start, cache, ids = 0, None, torch.tensor(ids)
    with torch.no_grad(), record(model, folder, steps=True, force=True):
        for length in lengths:
            own, more = slice(start, start + length), {}
            more |= {} if mask is None else {"attention_mask": torch.tensor(mask)[:, : own.stop]}
            more |= {} if positions is None else {"position_ids": torch.tensor(positions)[:, own]}
            output = model(ids[:, own], past_key_values=cache, use_cache=True, **more)
            cache, start = output.past_key_values, own.stop
    return folder


@contextmanager
def faulty_cache(change):
    """Let attention without a window read other keys and values: `change` gets the keys, the values, and the
    positions of the pass, and returns keys and values."""
    cache_utils = pytest.importorskip("transformers.cache_utils")
    kind = cache_utils.DynamicLayer
    right = kind.update

    def update(self, keys, values, *args, **options):
        start = self.get_seq_length() if self.is_initialized else 0
        keys, values = right(self, keys, values, *args, **options)
        return change(keys.clone(), values.clone(), start, keys.shape[-2]) if start else (keys, values)

    kind.update = update
    try:
        yield
    finally:
        kind.update = right


def moved(by, keys=True, values=True):
    def change(k, v, start, end):
        index = (np.arange(end) - by).clip(0, end - 1)
        return k[:, :, index] if keys else k, v[:, :, index] if values else v

    return change


def stale(k, v, start, end):
    length = end - start
    for own in (k, v):
        own[:, :, start:end] = own[:, :, start - length : start].clone()
    return k, v


def empty(k, v, start, end):
    k[:, :, :start] = v[:, :, :start] = 0
    return k, v


def rounded(type_name):
    def change(k, v, start, end):
        torch = pytest.importorskip("torch")
        for own in (k, v):
            own[:, :, :start] = own[:, :, :start].to(getattr(torch, type_name)).to(own.dtype)
        return k, v

    return change


def swapped(k, v, start, end):
    return k.flip(0), v.flip(0)


CACHE_FAULTS = {
    "of one position earlier": moved(1), "keys of one position earlier": moved(1, values=False),
    "values of one position later": moved(-1, keys=False), "not updated": stale, "as zeros": empty,
    "rounded to bfloat16": rounded("bfloat16"), "rounded to float16": rounded("float16"),
}  # fmt: skip
OFFSETS = {"1 too large": 1, "2 too small": -2, "4 too large": 4}
