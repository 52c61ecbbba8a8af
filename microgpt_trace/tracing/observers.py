"""Observers: put the hooks of a traced pass in order, and build a Trace from the hooks' results.

Other modules run the passes, and compute the results that belong to a single model family.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.bus import Hook, Run, Subscription
from ..hooks.event import PHASES, Phase, TraceEvent
from ..models.language_model import LanguageModel, TraceInput
from .checks import Checker
from .findings import Check, Insight
from .options import TraceOptions
from .result import Predictions, Trace

if TYPE_CHECKING:
    from ..interventions.interventions import Intervention
    from .intervention_effects import Baseline


@contextmanager
def baseline_of(
    model: LanguageModel, inputs: TraceInput, rows: Sequence[int], interventions: Sequence[Intervention],
    shown: Collection[str], top_k: int,
) -> Iterator[Baseline | None]:  # fmt: skip
    """Start the pass without interventions and yield a Baseline, or None if there are no interventions."""
    if not interventions:
        yield None
        return
    from .intervention_effects import Baseline

    baseline = Baseline(model, inputs, rows, interventions, shown, top_k)
    with baseline.stream:
        yield baseline


class Asked(NamedTuple):
    """What to trace: the model, its input, the positions `rows` with logits, and the options."""

    model: LanguageModel
    inputs: TraceInput
    rows: Sequence[int]
    options: TraceOptions


class Collector:
    """A hook that keeps every event it receives, and copies of the arrays of the events in `keep`."""

    def __init__(self, keep: Iterable[str]) -> None:
        self.events: list[TraceEvent] = []
        self.arrays: dict[tuple[Phase, str], Array] = {}
        self._keep = set(keep)

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self.events.append(event)
        if event.name in self._keep:
            self.arrays[event.phase, event.name] = value.copy()


class Observers:
    """The hooks that observe the events `names` of the passes of one trace. The Trace gets the events `shown`
    and the arrays `kept`. `watching` has additional hooks, each with the names of the events to observe, and
    with `parts` of `HookBus.subscription`. The hooks in `watching` are called before the events are
    collected. The interventions of a `baseline` apply in every pass."""

    def __init__(
        self, asked: Asked, names: Collection[str], shown: Collection[str], kept: Sequence[str],
        watching: Sequence[tuple[Hook, Collection[str], bool | Hook]], baseline: Baseline | None,
    ) -> None:  # fmt: skip
        self.asked, self.baseline, self.shown = asked, baseline, frozenset(shown)
        self._model, self._names = asked.model, frozenset(names)
        self.collector, self.checker = Collector(kept), Checker(self._model.plan, self._model.parameter)
        bus = self._model.hooks
        self._editing, self._after = baseline.subscriptions(bus) if baseline is not None else ([], [])
        self._first, self._last = self.checker.observers(bus, *names)
        self._after += [
            bus.subscription(hook, *own, stats=True, parts=parts) for hook, own, parts in watching
        ]
        self._after += [
            bus.subscription(self.collector, *chosen, phases=PHASES, stats=True, parts=parts)
            for chosen, parts in ((self._names.difference(kept), True), (kept, False))
            if chosen
        ]

    def begin(self, keep: bool = True) -> Run:
        """Start the pass over the text. If `keep` is True, the run stores every value that a hook sets, so
        that the run can be repeated."""
        before, after = [self._first, *self._editing], [self._last, *self._after]
        return self._model.hooks.begin(self.asked.options.time, before, after, keep)

    def begin_step(self, number: int, position: int, hook: Hook) -> Run:
        """Start the pass that predicts token `number` of a continuation, and call `hook` for its events."""
        self.checker.where = f"step {number}: "
        if self.baseline is not None:
            self.baseline.editor.start = position
        stepping = Subscription(hook, self._names, ("forward",), stats=True, parts=True)
        before, after = [self._first, *self._editing], [self._last, stepping]
        return self._model.hooks.begin(False, before, after, keep=False)

    def forward_events(self) -> list[TraceEvent]:
        """Return the events of the forward pass over the text."""
        return [event for event in self.collector.events if event.phase == "forward"]

    def trace(
        self, inputs: TraceInput, predictions: Predictions, loss: float | None, checks: Sequence[Check],
        insights: Iterable[Insight], **own: Any,
    ) -> Trace:  # fmt: skip
        """Build the Trace of the passes. `own` has the Trace fields that not every trace has. Raises
        InputError if none of the events to show was emitted."""
        events = tuple(event for event in self.collector.events if event.name in self.shown)
        if not events and self.shown.isdisjoint(self._model.plan):
            chosen = ", ".join(self.asked.options.names or ())
            raise InputError(f"{chosen}: parameters have no forward event, only a gradient (--backward)")
        if not events:
            missing = "none of the chosen events is computed in this run"
            raise InputError(f"{missing}: the last position has no loss")
        return Trace(
            model=self._model.describe(),
            input=inputs,
            events=events,
            predictions=predictions,
            loss=loss,
            chance_loss=math.log(self._model.config.vocab_size),
            checks=(self.checker.finite(), *checks),
            insights=tuple(insights),
            arrays=self.collector.arrays,
            specs=self._model.hooks.specs,
            intervened=self.baseline.result(self.shown, loss) if self.baseline is not None else None,
            traced_model=self._model,
            **own,
        )
