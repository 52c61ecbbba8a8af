"""A part of a trace: some of its events in some of their phases."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..hooks.event import PHASES, Phase
from .result import Trace


def narrowed(
    trace: Trace, names: Collection[str], kept: Collection[str], phases: Collection[Phase] = PHASES
) -> Trace:
    """The trace with these events of these phases alone, and the arrays of what is to be kept."""
    events = [e for e in trace.events if e.name in names and e.phase in phases]
    steps = [
        replace(step, events=tuple(e for e in step.events if e.name in names)) for step in trace.generation
    ]
    intervened = trace.intervened
    if intervened is not None:
        changes = tuple(change for change in intervened.changes if change.name in names)
        intervened = replace(intervened, changes=changes)
    rows = [row for row in trace.parameters if row.name in names and "backward" in phases]
    if "update" not in phases:
        rows = [replace(row, update_l2=None, update_nonfinite=0) for row in rows]
    return replace(
        trace,
        events=tuple(events),
        generation=tuple(steps),
        intervened=intervened,
        parameters=tuple(rows),
        step=trace.step if "update" in phases else None,
        arrays={
            (phase, name): array
            for (phase, name), array in trace.arrays.items()
            if name in kept and phase in phases
        },
    )
