"""Compute the predictions of a traced pass from the input of the head, in parts if possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.logits import in_small_parts, rows_held, rows_of_a_part, softmax
from ..arrays.stats import Array
from ..hooks.bus import PartsTap, Run, Tap
from ..hooks.event import differs
from ..interpreter.run import head_forward
from .collector import predictions_of
from .observers import Observers
from .result import Prediction, Predictions


class Predicted(NamedTuple):
    """The results of the head: predictions, the mean loss, the logits for a continuation, and the logits for
    a comparison."""

    rows: Predictions
    loss: float | None
    last: tuple[Array, Array] | None  # logits and probs [V] of the last position, after all hooks
    compared: Sequence[int]  # the positions of `computed`
    computed: Array  # the logits [n, V] at the positions `compared`, before any hook
    used: Array  # the logits [n, V] of all positions after all hooks, or empty if they take too much memory
    probs: Array  # the probabilities [n, V] after all hooks at the last positions that were computed together


def predict(observers: Observers, final: Array, top_k: int, run: Run, forward_tap: Tap) -> Predicted:
    """Compute the predictions and the mean loss from the input `final` of the head, in parts if no hook needs
    all logits at once."""
    model, inputs, rows, _ = observers.asked
    vocab_size, names = model.config.vocab_size, [*(row.name for row in model.plan.head), "probs"]
    is_parted = len(rows) > rows_of_a_part(vocab_size) and not any(map(run.wants_whole, names))
    tap = PartsTap(run, "forward") if is_parted else forward_tap
    size = rows_held(vocab_size) if is_parted else len(rows)
    predictions: list[Prediction] = []
    for start in range(0, len(rows), size):
        group, computed, logits = rows[start : start + size], np.empty(0), np.empty(0)  # frees 64 MB
        computed = head_forward(model, final[list(group)], tap)
        for part in in_small_parts(len(group), vocab_size) if is_parted else [slice(len(group))]:
            logits = tap.emit("logits", computed[part])
            computed_probs = softmax(logits)
            probs = tap.emit("probs", computed_probs)
            replaced = differs(probs, computed_probs)
            predictions += predictions_of(model, inputs, group[part], logits, probs, replaced, top_k)
            if observers.baseline is not None:
                observers.baseline.take(group[part], logits, probs, replaced)
            run.resume()
    run.announce_parts()
    losses, loss = [p.loss for p in predictions if p.loss is not None], None
    if losses:
        mean = np.asarray(math.fsum(losses) / len(losses), model.dtype)
        loss = float(run.tap("forward").emit("loss", mean))
    last = (logits[-1], probs[-1]) if rows[-1] == len(final) - 1 else None
    used = (computed if is_parted else logits) if len(group) == len(rows) else np.empty(0)
    return Predicted(Predictions(predictions), loss, last, group, computed, used, probs)
