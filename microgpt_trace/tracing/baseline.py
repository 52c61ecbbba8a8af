"""A pass without interventions beside the one that has them: two events in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plan import HEAD_EVENTS
from ..architecture.run import what_the_head_reads
from ..arrays.logits import in_parts, softmax
from ..arrays.stats import Array
from ..hooks.bus import HookBus, Subscription
from ..running.event_stream import EventStream, Piece
from ..running.interventions import Editor, Intervention
from .intervention_effects import Comparer, divergences, mean_of, p_after
from .predictions import predictions_of
from .result import Intervened, Prediction

_ENDS = (*HEAD_EVENTS, "loss")


class Baseline:
    """The interventions of a trace, and what they change of the events in `names`.

    `head` makes logits of rows of final.norm, for a model whose pass need not go so far. A context manager:
    the untouched pass starts with it, in a thread of its own and under no hook.
    """

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, rows: Sequence[int],
        interventions: Sequence[Intervention], names: Collection[str], top_k: int,
        head: Callable[[Array], Array] | None = None,
    ) -> None:  # fmt: skip
        self.editor = Editor(model, inputs, rows, interventions)
        self._model, self._inputs, self._top_k, self._head = model, inputs, top_k, head
        self._last = what_the_head_reads(model)
        self._kept_names = _ENDS if head is None else (self._last,)
        known = list(model.plan)
        self._names = [n for n in known if (n in names and n not in _ENDS) or n in self._kept_names]
        self._comparer = Comparer(self._next)
        self._kept: dict[str, Array] = {}
        self._before: list[Prediction] = []
        self._kl: list[float | None] = []
        self._p_after: list[float | None] = []

    def __enter__(self) -> Baseline:
        self._stream = EventStream(self._model, self._inputs, self._names, bus=self._model.hooks.alone())
        self._pieces: Iterator[Piece] = iter(self._stream)
        return self

    def __exit__(self, *unused: object) -> None:
        self._stream.close()

    def subscriptions(self, bus: HookBus) -> tuple[list[Subscription], list[Subscription]]:
        """The interventions, and who looks at what they led to."""
        compared = [name for name in self._names if name not in _ENDS]
        comparing = [bus.subscription(self._comparer, *compared)] if compared else []
        return self.editor.subscriptions(bus), comparing

    def _next(self, name: str) -> Array:
        piece = next(self._pieces)
        assert piece.name == name, (piece.name, name)  # both passes compute in one order
        if name in self._kept_names:
            self._kept[name] = piece.value.copy()
        return piece.value

    def take(self, positions: Sequence[int], logits: Array, probs: Array, replaced: bool) -> None:
        """Hold predictions [n, V] of some positions against those without interventions."""
        for own in in_parts(len(positions), self._model.config.vocab_size):
            self._take(positions[own], logits[own], probs[own], replaced)

    def _take(self, positions: Sequence[int], logits: Array, probs: Array, replaced: bool) -> None:
        before, likely = self._without(positions)
        self._comparer.add("logits", logits, before)
        self._comparer.add("probs", probs, likely)
        self._kl += divergences(before, logits, probs if replaced else None)
        model, inputs = self._model, self._inputs
        seen, targets = [model.seen(inputs, p) for p in positions], [inputs.targets[p] for p in positions]
        predicted = list(
            predictions_of(
                positions, seen, targets, before, likely, False,
                lambda token: model.label(token, target=True), self._top_k,
            )
        )  # fmt: skip
        self._before += predicted
        self._p_after += p_after(predicted, probs)

    def _without(self, positions: Sequence[int]) -> tuple[Array, Array]:
        """Logits and probabilities [n, V] of the untouched pass."""
        if self._head is not None:
            logits = self._head(self._kept[self._last][list(positions)])
            return logits, softmax(logits)
        for name in HEAD_EVENTS:
            if name not in self._kept:
                self._next(name)
        return self._kept["logits"][list(positions)], self._kept["probs"][list(positions)]

    def result(self, shown: Collection[str], loss: float | None) -> Intervened:
        """What was found, beside the loss of the traced run."""
        before = self._loss()
        if loss is not None and before is not None:
            self._comparer.add("loss", np.asarray(loss), np.asarray(before))
        return Intervened(
            self.editor.applied, self._comparer.changes(shown, self.editor.names), tuple(self._before),
            before, tuple(self._p_after), tuple(self._kl),
        )  # fmt: skip

    def _loss(self) -> float | None:
        if self._head is None:
            return float(self._next("loss"))
        mean = mean_of([p.loss for p in self._before if p.target is not None])
        return None if mean is None else float(np.float32(mean))  # as the traced run has it
