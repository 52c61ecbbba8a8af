"""Collector: a hook that keeps what a Trace shows of a run. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..architecture.model import LanguageModel, TraceInput
from ..arrays.stats import Array
from ..hooks.event import Phase, TraceEvent


class Collector:
    """An observer that keeps events with statistics, and copies of the arrays that are wanted."""

    def __init__(self, keep: Iterable[str]) -> None:
        self.events: list[TraceEvent] = []
        self.arrays: dict[tuple[Phase, str], Array] = {}
        self._keep = set(keep)

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self.events.append(event)
        if event.name in self._keep:
            self.arrays[event.phase, event.name] = value.copy()


def kept_events(
    model: LanguageModel, names: bool | Sequence[str], inputs: TraceInput, rows: Sequence[int]
) -> list[str]:
    """The events whose arrays are kept: those of the names, of which a part may be meant. `rows` are the
    positions that have logits. Raises InputError where there is no such event or part."""
    if not names or names is True:
        return []
    from ..running.parts import events_named

    return events_named(model, names, len(inputs.tokens), rows)
