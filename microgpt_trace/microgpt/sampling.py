"""Sample new names, character by character, from the predictions of a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import InputError
from ..text.wording import counted
from .batch import Packer
from .forward_backward import forward
from .model import Model, check_microgpt, check_seed


def sample(
    model: Model, count: int = 20, *, temperature: float = 0.5, seed: int = 42, prefix: str = ""
) -> Iterator[str]:
    """Sample `count` names that begin with `prefix`. Calls with the same seed return the same names. At
    temperature 0, the next character is always the most likely character. A name ends at EOS, or when the
    block is full. Raises InputError if the prefix is too long or has unknown characters, or if a prediction
    is not finite."""
    check_microgpt(model, "sample")
    if not (np.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature: expected 0 or more, found {temperature}")
    check_seed(seed)
    if count < 1:
        raise InputError(f"the number of names: expected at least 1, found {count}")
    tokenizer, block = model.tokenizer, model.config.block_size
    start = [tokenizer.bos_id, *tokenizer.encode(prefix)]
    if len(start) > block:
        raise InputError(
            f"prefix {prefix!r}: expected at most {counted(block - 1, 'character')}, found {len(start) - 1}"
        )
    return _names(model, start, count, temperature, seed)


def _names(model: Model, start: list[int], count: int, temperature: float, seed: int) -> Iterator[str]:
    tokenizer, block = model.tokenizer, model.config.block_size
    rng, packer = np.random.default_rng(seed), Packer(model.config, model.params.dtype)
    for _ in range(count):
        ids = list(start)
        while len(ids) <= block:
            batch = packer.one(np.array([*ids, tokenizer.bos_id]))
            with np.errstate(all="ignore"):
                logits = forward(model.params, batch).logits[-1].astype(np.float64)
            if not np.isfinite(logits).all():
                reason = "the predictions are not finite; `microgpt trace` shows where"
                raise InputError(f"{model.origin}: {reason}")
            token = _sampled_token(logits, temperature, rng)
            if token == tokenizer.bos_id:
                break
            ids.append(token)
        yield tokenizer.decode(ids)


def _sampled_token(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):
        weights = np.exp((logits - logits.max()) / temperature)
    bounds = weights.cumsum()
    return int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))
