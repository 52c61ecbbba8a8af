"""A Trace as JSON: one document, or one record a line. RFC 8259; see schema.py for the shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..tracing.result import SCHEMA_ID, Trace


def to_json(trace: Trace, values: bool = False) -> str:
    """The document, with a line for each member and for each item of its lists."""
    return to_text(document(trace, values))


def to_text(members: dict[str, Any]) -> str:
    """A JSON object over several lines, each item of its lists on one."""
    return "{\n" + ",\n".join(_member(key, value) for key, value in members.items()) + "\n}\n"


def _member(key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        items = ",\n    ".join(map(dump, value))
        return f"  {dump(key)}: [\n    {items}\n  ]"
    return f"  {dump(key)}: {dump(value)}"


def to_json_lines(trace: Trace, values: bool = False) -> Iterator[str]:
    """The same facts, one record a line; `record` says which."""
    whole = document(trace, values)
    lists = {
        "events": "event", "layers": "layer", "predictions": "prediction", "lens": "lens",
        "generation": "token", "parameters": "parameter", "insights": "insight", "anomalies": "anomaly",
        "checks": "check",
    }  # fmt: skip
    yield dump({"record": "trace", **{k: v for k, v in whole.items() if k not in lists}}) + "\n"
    for key, record in lists.items():
        for item in whole.get(key, ()):
            yield dump({"record": record, **item}) + "\n"


def document(trace: Trace, values: bool = False) -> dict[str, Any]:
    """The trace as plain data; `values` adds the arrays that the trace kept."""
    result: dict[str, Any] = {
        "schema": SCHEMA_ID,
        "model": trace.model,
        "input": plain(trace.input),
        "loss": trace.loss,
        "chance_loss": trace.chance_loss,
        "events": [event_record(e, trace.arrays.get((e.phase, e.name)) if values else None) for e in trace],
        "predictions": plain(trace.predictions),
        "insights": plain(trace.insights),
        "checks": plain(trace.checks),
    }
    if trace.layers:
        result["layers"] = plain(trace.layers)
        result["anomalies"] = plain(trace.anomalies)
    if trace.lens:
        result["lens"] = plain(trace.lens)
    if trace.generation:
        result["generation"] = [
            plain(token) | {"events": [event_record(event) for event in token.events]}
            for token in trace.generation
        ]
        result["generation_end"] = trace.generation_end
    if trace.parameters:
        result["parameters"] = [
            plain(row) | {"gradient_ratio": row.gradient_ratio, "update_ratio": row.update_ratio}
            for row in trace.parameters
        ]
    if trace.intervened is not None:
        result["intervened"] = plain(trace.intervened)
    if trace.step is not None:
        result["step"] = plain(trace.step)
    return result


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, all the way down: what dataclasses.asdict gives, in a tenth of the
    time, because nothing is copied."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def event_record(event: TraceEvent, values: Array | None = None) -> dict[str, Any]:
    """An event as plain data. Times are left out where none were taken, values where none were kept."""
    record = plain(event)
    if event.seconds is None:
        del record["seconds"]
    if values is not None:
        record["values"] = values.tolist()
    return record


def dump(value: Any, indent: int | None = None) -> str:
    """JSON text in ASCII, which no terminal or pipe can spoil. Numbers that JSON lacks become the
    strings "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_spelled_out(value), indent=indent, allow_nan=False)


def _spelled_out(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spelled_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled_out(item) for item in value]
    return value
