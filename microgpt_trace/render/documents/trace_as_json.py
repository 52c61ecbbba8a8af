"""Write a Trace as JSON: as one document, or as one record per line. The schema of both forms is in
schema.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any

from ...arrays.stats import Array
from ...text.json_writing import dump, marked, plain, to_text
from ...tracing.result import SCHEMA_ID, Trace

# The lists of a document. In JSON Lines, each item of a list is a record with this name.
RECORDS = {
    "events": "event", "layers": "layer", "experts": "experts", "predictions": "prediction", "lens": "lens",
    "lens_target": "lens_target", "generation": "token", "parameters": "parameter", "insights": "insight",
    "anomalies": "anomaly", "checks": "check", "more_gradients": "gradients",
}  # fmt: skip


def required_and_optional() -> tuple[list[str], list[str]]:
    """Return the members that every document has, and the members that are left out if empty."""
    members = [field for field in fields(Trace) if field.repr]
    required = [field.name for field in members if field.default is MISSING]
    return [*required, *marked(Trace)], [field.name for field in members if field.name not in required]


def trace_json(trace: Trace, values: bool = False) -> str:
    """Return the document as text. Each member of the document and each item of a list starts a line."""
    return to_text(document(trace, values))


def trace_json_lines(trace: Trace, values: bool = False) -> Iterator[str]:
    """Return the document as one record per line. The member `record` is the kind of the record."""
    members = document(trace, values)
    yield dump({"record": "trace", **{k: v for k, v in members.items() if k not in RECORDS}}) + "\n"
    for key, record in RECORDS.items():
        for item in members.get(key, ()):
            yield dump({"record": record, **item}) + "\n"


def document(trace: Trace, values: bool = False) -> dict[str, Any]:
    """Return the trace as plain data. If `values` is set, the data include the arrays that the trace kept."""
    required, optional = required_and_optional()
    result: dict[str, Any] = {"schema": SCHEMA_ID}
    for name in [*required, *optional]:
        value = getattr(trace, name)
        if value or name in required or (name == "generation_end" and trace.generation):
            result[name] = plain(value)
    if values:
        _add_values(result["events"], [trace.arrays.get((e.phase, e.name)) for e in trace])
        more = zip(result.get("more_gradients", ()), trace.more_gradients, trace.more_arrays, strict=False)
        for record, own, arrays in more:
            _add_values(record["events"], [arrays.get(event.name) for event in own.events])
    for part in (result, *result.get("more_gradients", ()), *result.get("generation", ())):
        for record in part["events"]:
            if record["seconds"] is None:  # not measured
                del record["seconds"]
    return result


def _add_values(records: list[dict[str, Any]], arrays: Iterable[Array | None]) -> None:
    for record, array in zip(records, arrays, strict=True):
        if array is not None:
            record["values"] = array.tolist()
