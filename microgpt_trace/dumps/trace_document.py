"""Read a trace that was written with --json: events, statistics of events, and arrays (if any)."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array, TensorStats
from ..errors import FileFormatError, InputError
from ..hooks.event import PHASES, TraceEvent
from ..naming.event_names import is_event
from ..naming.user_map import OWN
from ..text.brief import brief
from ..text.json_reading import MANY_VALUES
from ..tracing.result import SCHEMA_ID
from ..untrusted_files import check_name, is_count, list_at, read_json, readable, whole_numbers
from .layouts import NO_EVENT, Leftover, Recorded
from .recording import Recording

_INFINITE = ("Infinity", "-Infinity")  # written as text, because JSON has no infinity
_COUNTS = ("count", "zero_count", "nan_count", "inf_count")
_MOMENTS = ("mean", "std", "l2_norm", "min", "max", "max_abs")
_MAX_DIMS = 8


def open_document(path: Path) -> Recording:
    """Read the forward events of a document, and the arrays that --values wrote.

    A record with an unknown name becomes a leftover. Raises FileFormatError if the document is not valid.
    """
    document = read_json(path, MANY_VALUES)
    if document.get("schema") != SCHEMA_ID:
        raise FileFormatError(f"{path}: expected schema {SCHEMA_ID}, found {brief(document.get('schema'))}")
    statistics, tensors, leftovers = dict[str, TraceEvent](), dict[str, Recorded](), dict[str, Leftover]()
    for i, record in enumerate(list_at(path, document, "events")):
        event = _event(f"{path}: event {i}", record)
        if event.phase != "forward":
            continue
        if event.name in statistics or event.name in leftovers:
            raise FileFormatError(f"{path}: {brief(event.name)} occurs twice")
        has_values = "values" in record
        where = f"{path}: {readable(event.name)}"
        values = _values(where, record["values"], event) if has_values else None
        recorded = Recorded(event.name, event.shape, partial(_stored, where, values), OWN)
        if not is_event(event.name):
            leftovers[event.name] = Leftover(recorded, NO_EVENT, has_values)
            continue
        statistics[event.name] = event
        if has_values:
            tensors[event.name] = recorded
    kind = "statistics and arrays of a trace" if tensors else "statistics of a trace"
    inputs, predictions = document.get("input"), list_at(path, document, "predictions")
    ids = inputs.get("tokens") if isinstance(inputs, dict) else None
    tokens = whole_numbers(f"{path}: input: tokens", ids)
    rows = [one.get("position") if isinstance(one, dict) else one for one in predictions]
    positions = whole_numbers(f"{path}: predictions", rows)
    return Recording(str(path), kind, tensors, tokens, positions, statistics, tuple(leftovers.values()))


def _stored(where: str, values: Array | None) -> Array:
    if values is None:
        raise InputError(f"{where}: expected values, found only statistics; write the document with --values")
    return values


def _event(where: str, record: Any) -> TraceEvent:
    if not isinstance(record, dict):
        raise FileFormatError(f"{where}: expected an object, found {brief(record)}")
    values: dict[str, Any] = {field.name: record.get(field.name) for field in fields(TraceEvent)}
    shape, layer, seconds = values["shape"], values["layer"], values["seconds"]
    fits = {
        "seq": is_count(values["seq"]),
        "phase": values["phase"] in PHASES,
        "layer": layer is None or is_count(layer),
        "shape": isinstance(shape, list) and len(shape) <= _MAX_DIMS and all(map(is_count, shape)),
        "seconds": seconds is None or type(seconds) in (int, float),
        **{key: isinstance(values[key], str) for key in ("stage", "name", "expr", "dtype")},
    }
    for key, fit in fits.items():
        if not fit:
            raise FileFormatError(f"{where}: expected a valid {key}, found {brief(values[key])}")
    check_name(where, values["name"])
    if values["stats"] is not None:
        values["stats"] = _stats(f"{where}, {readable(values['name'])}", values["stats"], math.prod(shape))
    return TraceEvent(**values | {"shape": tuple(shape)})


def _stats(where: str, record: Any, size: int) -> TensorStats:
    """Return the statistics of at most `size` elements. Masked elements of attention are not counted."""
    names = [field.name for field in fields(TensorStats)]
    if not isinstance(record, dict) or record.keys() != set(names):
        raise FileFormatError(f"{where}: expected the statistics {', '.join(names)}, found {brief(record)}")

    def fail(name: str, expected: str) -> FileFormatError:
        return FileFormatError(f"{where}: {name}: expected {expected}, found {brief(record[name])}")

    for name in _COUNTS:
        most = size if name == "count" else record["count"]
        if type(record[name]) is not int or not 0 <= record[name] <= most:
            raise fail(name, f"a whole number up to {most:,}")
    count = record["count"]
    finite = count - record["nan_count"] - record["inf_count"]
    if record["zero_count"] > finite:
        raise fail("nan_count", f"zero_count + nan_count + inf_count of at most {count:,}")
    values = dict(record)
    for name in _MOMENTS:
        value = record[name]
        is_number = type(value) in (int, float) or value in _INFINITE
        number = float(value) if is_number else math.nan  # statistics of finite elements are never NaN
        if not finite and value is not None:
            raise fail(name, "null, because no element is finite")
        if finite and not number >= (0 if name in ("std", "l2_norm", "max_abs") else -math.inf):
            raise fail(name, f"a number, because {finite:,} elements are finite")
        values[name] = number if finite else None
    return TensorStats(**values)


def _values(where: str, nested: Any, event: TraceEvent) -> Array:
    if event.dtype not in ("float32", "float64"):
        raise FileFormatError(f"{where}: expected values of float32 or float64, found {brief(event.dtype)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(nested, np.float64).astype(event.dtype)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: expected numbers, found {brief(nested)}") from error
    if array.shape != event.shape:
        raise FileFormatError(f"{where}: expected shape {list(event.shape)}, found {list(array.shape)}")
    return array
