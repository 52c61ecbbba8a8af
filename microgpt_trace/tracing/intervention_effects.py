"""The effects of interventions: compare events and predictions with a pass without interventions.

The pass without interventions runs beside the traced pass, so that only two events are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from ..arrays.logits import in_parts, kl_divergence, log_softmax, softmax
from ..arrays.stats import PIECE, Array, causal_mask
from ..hooks.bus import HookBus, Subscription
from ..hooks.event import TraceEvent
from ..interpreter.event_stream import EventStream
from ..interpreter.run import head_forward, head_input
from ..interventions.interventions import Editor, Intervention
from ..models.language_model import LanguageModel, TraceInput
from ..plans.plan import over_tokens
from .collector import predictions_of
from .result import EventChange, Intervened, Prediction, mean_of


class Baseline:
    """The interventions of a trace, and the untouched pass: the pass without interventions. A Baseline
    measures the changes of the events in `names`. The untouched pass ends before the model's head. It starts
    at once, in a separate thread and without hooks. The caller must close the Baseline's `stream`."""

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, rows: Sequence[int],
        interventions: Sequence[Intervention], names: Collection[str], top_k: int,
    ) -> None:  # fmt: skip
        self.editor = Editor(model, inputs, rows, interventions)
        self._model, self._inputs, self._top_k = model, inputs, top_k
        self._last, self._final = head_input(model), np.empty(0)
        compared = {n for n in names if n != "loss" and not over_tokens(n)}
        self._names = [n for n in model.plan if n in compared or n == self._last]
        self._squares: dict[str, Array] = {}  # |after - before|² and |before|²
        self._before: list[Prediction] = []
        self._kl: list[float | None] = []
        self._p_after: list[float | None] = []
        self.stream = EventStream(model, inputs, self._names, bus=model.hooks.alone())
        self._pieces = iter(self.stream)

    def subscriptions(self, bus: HookBus) -> tuple[list[Subscription], list[Subscription]]:
        """Return subscriptions that intervene, and subscriptions that compare events afterwards."""
        return self.editor.subscriptions(bus), [bus.subscription(self._compare, *self._names)]

    def _compare(self, event: TraceEvent, value: Array) -> None:
        piece = next(self._pieces)
        assert piece.name == event.name, (piece.name, event.name)  # both passes have the same order
        before = piece.value
        if event.name == self._last:
            self._final = before.copy()
        if value.ndim == 3:
            below = causal_mask(*value.shape[-2:])
            value, before = np.where(below, value, 0), np.where(below, before, 0)
        self._add(event.name, value, before)

    def _add(self, name: str, after: Array, before: Array) -> None:
        """Add the squared change of an event, or of a part of the event's rows."""
        self._squares[name] = self._squares.get(name, 0.0) + squares_of(after, before)

    def take(self, positions: Sequence[int], logits: Array, probs: Array, replaced: bool) -> None:
        """Compare predictions [n, V] at `positions` with the predictions of the untouched pass. KL is
        computed from the logits, or from the probabilities if hooks set them (`replaced`)."""
        model, inputs = self._model, self._inputs
        for part in in_parts(len(positions), model.config.vocab_size):
            before, probs_before = self._untouched(positions[part])
            self._add("logits", logits[part], before)
            self._add("probs", probs[part], probs_before)
            rows = predictions_of(model, inputs, positions[part], before, probs_before, False, self._top_k)
            for i, prediction in enumerate(rows):  # one row at a time, because float64 takes twice the memory
                row, best = probs[part][i], prediction.predicted
                self._before.append(prediction)
                self._kl.append(_divergence(before[i], logits[part][i], row if replaced else None))
                self._p_after.append(None if best is None else float(row[best.token]))

    def _untouched(self, positions: Sequence[int]) -> tuple[Array, Array]:
        """Return the logits and probabilities [n, V] of the untouched pass."""
        logits = head_forward(self._model, self._final[list(positions)])
        return logits, softmax(logits)

    def result(self, shown: Collection[str], loss: float | None) -> Intervened:
        """Return the effects on the events in `shown`. `loss` is the loss of the traced run."""
        before = self._loss()
        if loss is not None and before is not None:
            self._add("loss", np.asarray(loss), np.asarray(before))
        changes = tuple(
            EventChange(name, name in self.editor.names, _relative(*squares.tolist()))
            for name, squares in self._squares.items()
            if name in shown
        )
        applied, predicted = self.editor.applied, tuple(self._before)
        return Intervened(applied, changes, predicted, before, tuple(self._p_after), tuple(self._kl))

    def _loss(self) -> float | None:
        mean = mean_of([p.loss for p in self._before if p.target is not None])
        return None if mean is None else float(np.asarray(mean, self._model.dtype))  # as in the traced run


def squares_of(after: Array, before: Array) -> Array:
    """Compute |after - before|² and |before|² in float64, piece by piece: [2]"""
    a, b, squares = np.ravel(after), np.ravel(before), np.zeros(2)
    for start in range(0, a.size, PIECE):
        wide = b[start : start + PIECE].astype(np.float64)
        off = a[start : start + PIECE].astype(np.float64) - wide
        squares += off.dot(off), wide.dot(wide)
    return squares


def distance(after: Array, before: Array) -> float:
    """Return |after - before| / |before|, or |after| if `before` is zero."""
    off, size = squares_of(after, before).tolist()
    return math.sqrt(off / (size or 1.0))


def _relative(off: float, size: float) -> float | None:
    """Return |after - before| / |before| from two squared norms, or None if the ratio is not finite."""
    ratio = math.sqrt(off / size) if size else math.inf
    return 0.0 if off == 0 else ratio if math.isfinite(ratio) else None


@np.errstate(all="ignore")
def _divergence(before: Array, after: Array, probs: Array | None) -> float | None:
    """Return KL(before || after) in nats from rows of logits [V], or None if the result is not finite.
    `probs`, if given, replace the probabilities that follow from `after`."""
    log_p = log_softmax(before)
    log_q = log_softmax(after) if probs is None else np.log(probs.astype(np.float64))
    kl = float(kl_divergence(log_p, log_q))
    return max(0.0, kl) if math.isfinite(kl) else None
