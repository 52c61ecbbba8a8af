"""Collector: a hook that keeps what a Trace shows of a run. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable

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
