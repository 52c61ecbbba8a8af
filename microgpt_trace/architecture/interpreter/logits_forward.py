"""Forward passes up to the logits and the loss: over one prompt, and over many texts packed in one pass
without padding. Knows no vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...arrays.logits import in_parts, rows_of_a_part, softmax, used_losses
from ...arrays.stats import Array
from ...hooks.bus import Tap
from ...hooks.event import differs
from ..model import LanguageModel, TapOf, TraceInput
from ..operations.pass_state import PassState
from ..packs import Pack
from .run import forward, head_forward, pass_forward


def logits_forward(model: LanguageModel, inputs: TraceInput, rows: Sequence[int], tap: Tap) -> Array:
    """The logits [n, V] of these positions, as used; no others are computed and emitted."""
    final = forward(model, np.array(inputs.tokens), tap)
    return tap.emit("logits", head_forward(model, final[list(rows)], tap))


def run_together(model: LanguageModel, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
    """n times forward through the whole model with all sequences in each product, the logits in parts where
    they are many and somebody listens."""
    final = forward(model, np.array(inputs.tokens), tap_of(range(n)), n=n).reshape(n, len(inputs.tokens), -1)
    if not any(tap_of([0]).wants(name) for name in ("logits", "probs", "loss")):
        return
    most = rows_of_a_part(model.config.vocab_size)  # rows of logits at a time
    size = min(most, final.shape[1])
    losses: list[list[float]] = [[] for _ in range(n)]
    for start in range(0, final.shape[1], size):
        for first in range(0, n, max(1, most // size)):
            numbers = range(first, min(n, first + max(1, most // size)))
            rows = final[numbers.start : numbers.stop, start : start + size]
            found = _losses(model, rows, inputs.targets[start : start + size], tap_of(numbers))
            for number, own in zip(numbers, found, strict=True):
                losses[number] += own
    for number, own in enumerate(losses):
        if own:
            tap_of([number]).emit("loss", np.asarray(np.float32(math.fsum(own) / len(own))))


def _losses(model: LanguageModel, final: Array, targets: Sequence[int | None], tap: Tap) -> list[list[float]]:
    """What the head makes of some rows [n, T, C] of each sequence; the losses where somebody wants them."""
    n, length, width = final.shape
    logits = tap.emit("logits", head_forward(model, final.reshape(n * length, width), tap))
    if not tap.wants("probs") and not tap.wants("loss"):
        return [[]] * n
    computed = softmax(logits)
    probs = tap.emit("probs", computed)
    known = [target or 0 for target in targets] * n
    of_rows = used_losses(known, logits, probs, differs(probs, computed)).reshape(n, length)
    return [[float(x) for x, t in zip(row, targets, strict=True) if t is not None] for row in of_rows]


ROWS = 512  # of a pass of several texts: more gain nothing
PART = 1 << 23  # logits worked out at a time, 32 MB: the head is unpacked for each part


def run_packed(model: LanguageModel, pack: Pack, tap: Tap) -> None:
    """One pass over texts up to the logits and probabilities; these in parts, where somebody wants them."""
    groups = [
        (own.rows, PassState(model, pack.tokens[own.rows], own.texts, _TapOfTexts(tap, own.texts)))
        for own in pack.groups
    ]
    final = pass_forward(PassState(model, pack.tokens, tap=tap, groups=groups))
    if not any(tap.wants(name) for name in (*(row.name for row in model.plan.head), "probs")):
        return
    for own in in_parts(len(final), model.config.vocab_size, PART):
        logits = tap.emit("logits", head_forward(model, final[own], tap))
        if tap.wants("probs"):
            tap.emit("probs", softmax(logits))


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
