"""Forward passes over a prompt up to the logits and the loss. Knows no vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arrays.logits import rows_of_a_part, softmax, used_losses
from ..arrays.stats import Array
from ..hooks.bus import Tap
from ..hooks.replacements import differs
from .model import LanguageModel, TapOf, TraceInput
from .run import forward, head_forward


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


def _losses(
    model: LanguageModel, final: Array, targets: Sequence[int | None], tap: Tap
) -> list[list[float]]:  # fmt: skip
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
