"""A pass of a decoder without interventions, beside the one that has them: two events in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from .architecture.model import TraceInput
from .arrays.logits import in_parts, softmax
from .arrays.stats import Array
from .decoder.llama import head_forward
from .decoder.model import Decoder
from .hooks.bus import HookBus, Subscription
from .running.interventions import HEAD_EVENTS, Editor, Intervention
from .running.streams import EventStream, Piece
from .tracing.effects import Comparer, divergences, mean_of, p_after
from .tracing.predictions import predictions_of
from .tracing.result import Intervened, Prediction


class Beside:
    """The interventions of a trace, and what they change of the events in `names`.

    A context manager: the untouched pass starts with it, in a thread of its own and under no hook.
    """

    def __init__(
        self, model: Decoder, inputs: TraceInput, rows: Sequence[int], interventions: Sequence[Intervention],
        names: Collection[str], top_k: int,
    ) -> None:  # fmt: skip
        self.editor = Editor(model, inputs, rows, interventions)
        self._model, self._inputs, self._top_k = model, inputs, top_k
        of_head = (*HEAD_EVENTS, "loss")
        self._names = [n for n in model.hooks.specs if (n in names and n not in of_head) or n == "final.norm"]
        self._comparer = Comparer(self._next)
        self._final = np.empty((0, 0), np.float32)
        self._before: list[Prediction] = []
        self._kl: list[float | None] = []
        self._p_after: list[float | None] = []

    def __enter__(self) -> Beside:
        bus = self._model.hooks.alone()
        self._stream = EventStream(self._model, self._inputs, self._names, bus=bus)
        self._pieces: Iterator[Piece] = iter(self._stream)
        return self

    def __exit__(self, *unused: object) -> None:
        self._stream.close()

    def subscriptions(self, bus: HookBus) -> tuple[list[Subscription], list[Subscription]]:
        """The interventions, and who looks at what they led to."""
        return self.editor.subscriptions(bus), [bus.subscription(self._comparer, *self._names)]

    def _next(self, name: str) -> Array:
        piece = next(self._pieces)
        assert piece.name == name, (piece.name, name)  # both passes compute in one order
        if name == "final.norm":
            self._final = piece.value.copy()
        return piece.value

    def take(self, positions: Sequence[int], logits: Array, probs: Array, replaced: bool) -> None:
        """Hold predictions [n, V] of some positions against those without interventions."""
        for own in in_parts(len(positions), self._model.config.vocab_size):
            self._take(positions[own], logits[own], probs[own], replaced)

    def _take(self, positions: Sequence[int], logits: Array, probs: Array, replaced: bool) -> None:
        before = head_forward(self._model, self._final[list(positions)])
        likely, inputs = softmax(before), self._inputs
        self._comparer.add("logits", logits, before)
        self._comparer.add("probs", probs, likely)
        self._kl += divergences(before, logits, probs if replaced else None)
        seen, targets = [inputs.labels[p] for p in positions], [inputs.targets[p] for p in positions]
        predicted = list(
            predictions_of(positions, seen, targets, before, likely, False, self._model.label, self._top_k)
        )
        self._before += predicted
        self._p_after += p_after(predicted, probs)

    def result(self, shown: Collection[str], loss: float | None) -> Intervened:
        """What was found, beside the loss of the traced run."""
        before = mean_of([p.loss for p in self._before if p.target is not None])
        before = None if before is None else float(np.float32(before))  # as the traced run has it
        if loss is not None and before is not None:
            self._comparer.add("loss", np.asarray(loss), np.asarray(before))
        return Intervened(
            self.editor.applied, self._comparer.changes(shown, self.editor.names), tuple(self._before),
            before, tuple(self._p_after), tuple(self._kl),
        )  # fmt: skip
