"""Packed runs: many texts in one forward pass, without padding.

What a product with stored weights costs for a few rows is mostly the unpacking of the weights, which rows of
all texts share. Knows no kind's arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays.logits import in_parts, softmax
from ..arrays.stats import Array
from ..hooks.bus import Tap
from .model import LanguageModel
from .operations.pass_state import PassState
from .packs import Pack
from .run import head_forward, pass_forward

ROWS = 512  # of a pass of several texts: more gain nothing
PART = 1 << 23  # logits worked out at a time, 32 MB: the head is unpacked for each part


def run_packed(model: LanguageModel, pack: Pack, tap: Tap) -> None:
    """One pass over texts up to the logits and probabilities; these in parts, where somebody wants them."""
    final = pass_forward(pass_over(model, pack, tap))
    if not any(tap.wants(name) for name in (*(row.name for row in model.plan.head), "probs")):
        return
    for own in in_parts(len(final), model.config.vocab_size, PART):
        logits = tap.emit("logits", head_forward(model, final[own], tap))
        if tap.wants("probs"):
            tap.emit("probs", softmax(logits))


def pass_over(model: LanguageModel, pack: Pack, tap: Tap) -> PassState:
    """One pass over all these texts."""
    groups = [
        (own.rows, PassState(model, pack.tokens[own.rows], own.texts, _TapOfTexts(tap, own.texts)))
        for own in pack.groups
    ]
    return PassState(model, pack.tokens, tap=tap, groups=groups)


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
