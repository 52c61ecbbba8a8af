"""Packed runs: many texts in one forward pass, without padding.

What a product with stored weights costs for a few rows is mostly the unpacking of the weights, which rows of
all texts share. Knows no kind's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.logits import in_parts, softmax
from ..arrays.stats import Array
from ..hooks.bus import Tap
from .model import LanguageModel
from .operations.pass_state import PassState
from .packs import ReadText, equal_lengths
from .run import head_forward, pass_forward

ROWS = 512  # of a pass of several texts: more gain nothing


def run_packed(model: LanguageModel, texts: Sequence[ReadText], tap: Tap) -> None:
    """One pass over texts, shorter ones first, up to the logits and probabilities; these in parts, where
    somebody wants them."""
    final = pass_forward(pass_over(model, texts, tap))
    if not any(tap.wants(name) for name in (*(row.name for row in model.plan.head), "probs")):
        return
    for own in in_parts(len(final), model.config.vocab_size):
        logits = tap.emit("logits", head_forward(model, final[own], tap))
        if tap.wants("probs"):
            tap.emit("probs", softmax(logits))


def pass_over(model: LanguageModel, texts: Sequence[ReadText], tap: Tap) -> PassState:
    """One pass over all these texts, shorter ones first."""
    tokens = np.concatenate([text.tokens for text in texts])
    groups = [
        (own.rows, PassState(model, tokens[own.rows], own.texts, _TapOfTexts(tap, own.texts)))
        for own in equal_lengths([len(text.tokens) for text in texts])
    ]
    return PassState(model, tokens, tap=tap, groups=groups)


@dataclass(frozen=True, slots=True)
class _TapOfTexts:
    """Emits what n texts of equal length have for each head, [n*H, T, T], as [n, H, T, T]."""

    tap: Tap
    n: int

    def emit(self, name: str, value: Array) -> Array:
        if value.ndim < 3:
            return self.tap.emit(name, value)
        return self.tap.emit(name, value.reshape(self.n, -1, *value.shape[1:])).reshape(value.shape)

    def wants(self, name: str) -> bool:
        return self.tap.wants(name)

    def layer(self, index: int) -> Tap:
        return _TapOfTexts(self.tap.layer(index), self.n)
