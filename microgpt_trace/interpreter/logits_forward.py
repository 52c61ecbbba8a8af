"""Forward passes for one prompt, or for many texts without padding. This module uses no vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arrays.logits import in_products, rows_of_a_part, softmax, used_losses
from ..arrays.stats import Array
from ..hooks.bus import SILENT, Tap
from ..hooks.event import differs
from ..models.language_model import LanguageModel, TapOf, TraceInput
from ..models.packs import Pack
from ..operations.pass_state import PassState
from ..text.frozen import frozen
from .run import forward, head_forward, pass_forward


def logits_forward(model: LanguageModel, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
    """Run a pass, and return the logits of the positions `rows` after replacements by hooks: [n, V]"""
    final = forward(model, np.array(inputs.tokens), tap)
    return tap.emit("logits", head_forward(model, final[list(rows)], tap))


def run_together(model: LanguageModel, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
    """Run n passes over the same tokens at once. If a listener requests a value of the head,
    probabilities or the loss, these values are computed in parts."""
    final = forward(model, np.array(inputs.tokens), tap_of(range(n)), n=n).reshape(n, len(inputs.tokens), -1)
    after = [row.name for row in model.plan.head]
    if not any(tap_of([0]).wants(name) for name in (*after, "probs", "loss")):
        return
    most = rows_of_a_part(model.config.vocab_size)  # the largest number of rows in a part
    size = min(most, final.shape[1])
    sequences = max(1, most // size)  # the number of sequences in a part
    losses: list[list[float]] = [[] for _ in range(n)]
    for start in range(0, final.shape[1], size):
        for first in range(0, n, sequences):
            numbers = range(first, min(n, first + sequences))
            rows = final[numbers.start : numbers.stop, start : start + size]
            part = _losses(model, rows, inputs.targets[start : start + size], tap_of(numbers))
            for number, of_sequence in zip(numbers, part, strict=True):
                losses[number] += of_sequence
    for number, of_sequence in enumerate(losses):
        if of_sequence:
            mean = math.fsum(of_sequence) / len(of_sequence)
            tap_of([number]).emit("loss", np.asarray(mean, model.dtype))


def _losses(model: LanguageModel, final: Array, targets: Sequence[int | None], tap: Tap) -> list[list[float]]:
    """Run the head on rows [n, T, C] of n sequences, and return the losses of each sequence. If no listener
    requests probabilities or the loss, the lists are empty."""
    n, length, width = final.shape
    logits = tap.emit("logits", head_forward(model, final.reshape(n * length, width), tap))
    if not tap.wants("probs") and not tap.wants("loss"):
        return [[]] * n
    computed = softmax(logits)
    probs = tap.emit("probs", computed)
    known = [target or 0 for target in targets] * n
    losses = used_losses(known, logits, probs, differs(probs, computed)).reshape(n, length)
    return [[float(x) for x, t in zip(row, targets, strict=True) if t is not None] for row in losses]


ROWS = 512  # rows in a pass over several texts; larger passes are no faster


def run_packed(model: LanguageModel, pack: Pack, tap: Tap) -> None:
    """Run one pass over texts. If requested, logits and probabilities are computed in parts."""
    final = final_of_pack(model, pack, tap)
    if not any(tap.wants(name) for name in (*(row.name for row in model.plan.head), "probs")):
        return
    for part in in_products(len(final), model.config.vocab_size):
        logits = tap.emit("logits", head_forward(model, final[part], tap))
        if tap.wants("probs"):
            tap.emit("probs", softmax(logits))


def final_of_pack(model: LanguageModel, pack: Pack, tap: Tap = SILENT) -> Array:
    """Compute the input of the head for the rows of a pack: [N, C]"""
    groups = [
        (group.rows, PassState(model, pack.tokens[group.rows], group.texts, _TapOfTexts(tap, group.texts)))
        for group in pack.groups
    ]
    return pass_forward(PassState(model, pack.tokens, tap=tap, groups=groups))


@frozen
class _TapOfTexts:
    """A tap for n texts of equal length. The tap emits scores and weights [n*H, T, T] as [n, H, T, T]."""

    tap: Tap
    n: int

    def emit(self, name: str, value: Array) -> Array:
        if value.ndim < 3:
            return self.tap.emit(name, value)
        return self.tap.emit(name, value.reshape(self.n, -1, *value.shape[1:])).reshape(value.shape)

    def wants(self, name: str) -> bool:
        return self.tap.wants(name)
