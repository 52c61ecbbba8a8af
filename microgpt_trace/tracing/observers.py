"""Observers: who looks on while a decoder runs over a prompt and its continuation, and in which order.

Knows neither how the passes are run nor what a Trace makes of what was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..decoder.model import Decoder
from ..hooks.bus import Run
from ..hooks.event import TraceEvent
from .anomalies import Steps
from .checks import Checker
from .collector import Collector
from .layer_measures import Overview

if TYPE_CHECKING:
    from .intervention_effects import Baseline
    from .lens import Lens


class Observers:
    """Who observes a pass of the model, and what of it. The interventions of a `baseline` take part in every
    pass."""

    def __init__(
        self, model: Decoder, names: Sequence[str], kept: Sequence[str], tokens: Sequence[int],
        lens: Lens | None, baseline: Baseline | None,
    ) -> None:  # fmt: skip
        self.collector, self.lens = Collector(kept), lens
        self.steps = Collector(())  # of the step of a continuation that goes on
        self.stepped = Steps()
        self.checker = Checker(model.plan, model.parameter)
        self.overview = Overview(model.plan, model.parameter, tokens)
        self._bus = bus = model.hooks
        self.baseline, self._length = baseline, len(tokens)
        self._editing, self._comparing = baseline.subscriptions(bus) if baseline is not None else ([], [])
        self._first, self._last = self.checker.observers(bus, *names)
        self._overviewing = bus.subscription(self.overview, *self.overview.names, stats=True)
        self._through_lens = [bus.subscription(lens, *lens.names)] if lens is not None else []
        self._stepping = bus.subscription(self.steps, *names, stats=True, parts=True)
        self._collecting = [
            bus.subscription(self.collector, *chosen, stats=True, parts=parts)
            for chosen, parts in (([name for name in names if name not in kept], True), (kept, False))
            if chosen
        ]

    def begin(self, time: bool, keep: bool) -> Run:
        """Start the pass over the prompt; only a run that is checked again must keep replacements."""
        after = [
            self._last, *self._comparing, self._overviewing, *self._through_lens, *self._collecting,
        ]  # fmt: skip
        return self._bus.begin(time, [self._first, *self._editing], after, keep)

    @property
    def put(self) -> set[str]:
        """The events that interventions change."""
        return self.baseline.editor.names if self.baseline is not None else set()

    def begin_step(self, number: int) -> Run:
        """Start the pass that predicts token `number` of a continuation."""
        self.checker.where = f"step {number}: "
        if self.baseline is not None:
            self.baseline.editor.start = self._length + number - 2
        return self._bus.begin(False, [self._first, *self._editing], [self._last, self._stepping], False)

    def end_step(self, shown: Collection[str]) -> tuple[TraceEvent, ...]:
        """The events of the step that are to be shown; of the others only what is not finite is kept."""
        events, self.steps.events = self.steps.events, []
        self.stepped.add(events)
        return tuple(event for event in events if event.name in shown)
