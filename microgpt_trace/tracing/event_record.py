"""An event as documents and logs have it."""

from __future__ import annotations

from typing import Any

from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..text.json_writing import plain


def event_record(event: TraceEvent, values: Array | None = None) -> dict[str, Any]:
    """An event as plain data. Times are left out where none were taken, values where none were kept."""
    record = plain(event)
    if event.seconds is None:
        del record["seconds"]
    if values is not None:
        record["values"] = values.tolist()
    return record
