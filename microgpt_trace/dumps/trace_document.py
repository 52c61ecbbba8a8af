"""A trace that was written with --json: its events with their statistics, and arrays where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array, TensorStats
from ..errors import FileFormatError, InputError
from ..hooks.event import PHASES, TraceEvent
from ..readers.conventions import is_count
from ..text.brief import brief
from ..text.json_reading import MANY_VALUES
from ..tracing.result import SCHEMA_ID
from ..untrusted_files import read_json
from .event_names import is_event
from .layouts import OWN, Leftover, Recorded, a_list, readable, whole_numbers
from .recording import Recording
from .stored_arrays import check_name

_INFINITE = ("Infinity", "-Infinity")  # JSON lacks them; the norm of finite numbers may be so large
_COUNTS = ("count", "zero_count", "nan_count", "inf_count")
_MOMENTS = ("mean", "std", "l2_norm", "min", "max", "max_abs")
_MAX_DIMS = 8


def open_document(path: Path) -> Recording:
    """The forward events of a document, and the arrays that `--values` put there. What has a name that no
    event has is left over.

    Raises FileFormatError where the file is no such document.
    """
    document = read_json(path, MANY_VALUES)
    if document.get("schema") != SCHEMA_ID:
        raise FileFormatError(
            f"{path}: expected the schema {SCHEMA_ID}, found {brief(document.get('schema'))}"
        )
    statistics, tensors, leftovers = dict[str, TraceEvent](), dict[str, Recorded](), dict[str, Leftover]()
    for i, record in enumerate(a_list(path, document, "events")):
        event = _event(f"{path}: event {i}", record)
        if event.phase != "forward":
            continue
        if event.name in statistics or event.name in leftovers:
            raise FileFormatError(f"{path}: {brief(event.name)} is there twice")
        there = "values" in record
        recorded = Recorded(event.name, event.shape, _reading(path, event, record), OWN)
        if not is_event(event.name):
            leftovers[event.name] = Leftover(recorded, "no event has that name", there)
            continue
        statistics[event.name] = event
        if there:
            tensors[event.name] = recorded
    kind = "statistics and arrays of a trace" if tensors else "statistics of a trace"
    said, predictions = document.get("input"), a_list(path, document, "predictions")
    tokens = whole_numbers(f"{path}: input: tokens", said.get("tokens") if isinstance(said, dict) else None)
    at = [one.get("position") if isinstance(one, dict) else one for one in predictions]
    positions = whole_numbers(f"{path}: predictions", at)
    return Recording(str(path), kind, tensors, tokens, positions, statistics, tuple(leftovers.values()))


def _reading(path: Path, event: TraceEvent, record: Mapping[str, Any]) -> Callable[[], Array]:
    """What gives the array of an event; it refuses where the document has its statistics alone."""
    where = f"{path}: {readable(event.name)}"
    if "values" in record:
        return partial(np.asarray, _values(where, record["values"], event))

    def refuse() -> Array:
        raise InputError(f"{where}: there are statistics and no values of it")

    return refuse


def _event(where: str, record: Any) -> TraceEvent:
    if not isinstance(record, dict):
        raise FileFormatError(f"{where}: expected an object, found {brief(record)}")
    said: dict[str, Any] = {field.name: record.get(field.name) for field in fields(TraceEvent)}
    shape, layer, seconds = said["shape"], said["layer"], said["seconds"]
    fits = {
        "seq": is_count(said["seq"]),
        "phase": said["phase"] in PHASES,
        "layer": layer is None or is_count(layer),
        "shape": isinstance(shape, list) and len(shape) <= _MAX_DIMS and all(map(is_count, shape)),
        "seconds": seconds is None or type(seconds) in (int, float),
        **{key: isinstance(said[key], str) for key in ("stage", "name", "expr", "dtype")},
    }
    for key, fit in fits.items():
        if not fit:
            raise FileFormatError(f"{where}: {key} cannot be {brief(said[key])}")
    check_name(where, said["name"])
    if said["stats"] is not None:
        said["stats"] = _stats(f"{where}, {readable(said['name'])}", said["stats"], math.prod(shape))
    return TraceEvent(**said | {"shape": tuple(shape)})


def _stats(where: str, record: Any, size: int) -> TensorStats:
    """The statistics of `size` elements, or of some of them (of the keys that a query may see)."""
    names = [field.name for field in fields(TensorStats)]
    if not isinstance(record, dict) or record.keys() != set(names):
        raise FileFormatError(f"{where}: expected the statistics {', '.join(names)}, found {brief(record)}")

    def fail(name: str, expected: str) -> FileFormatError:
        return FileFormatError(f"{where}: {name}: expected {expected}, found {brief(record[name])}")

    most = {"count": size}
    for name in _COUNTS:
        if type(record[name]) is not int or not 0 <= record[name] <= most.get(name, record["count"]):
            raise fail(name, f"a whole number up to {most.get(name, record['count']):,}")
    count = record["count"]
    finite = count - record["nan_count"] - record["inf_count"]
    if record["zero_count"] > finite:
        raise fail("nan_count", f"with zero_count and inf_count at most {count:,}")
    said = dict(record)
    for name in _MOMENTS:
        value = record[name]
        known = type(value) in (int, float) or value in _INFINITE
        number = float(value) if known else math.nan  # of finite elements it is no NaN
        if not finite and value is not None:
            raise fail(name, "null, as no element is finite")
        if finite and not number >= (0 if name in ("std", "l2_norm", "max_abs") else -math.inf):
            raise fail(name, f"a number, as {finite:,} elements are finite")
        said[name] = number if finite else None
    return TensorStats(**said)


def _values(where: str, nested: Any, event: TraceEvent) -> Array:
    """Nested lists as the array of that event."""
    if event.dtype not in ("float32", "float64"):
        raise FileFormatError(f"{where}: values of type {brief(event.dtype)}, which no event has")
    try:
        with np.errstate(over="ignore"):
            array = np.array(nested, np.float64).astype(event.dtype)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: expected numbers, found {brief(nested)}") from error
    if array.shape != event.shape:
        raise FileFormatError(f"{where}: expected values {list(event.shape)}, found {list(array.shape)}")
    return array
