"""A trace that was written with --json: its events with their statistics, and arrays where it has them."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..events import PHASES, TraceEvent
from ..readers.conventions import brief
from ..readers.safetensors import read_json
from ..stats import Array, TensorStats
from ..traces import SCHEMA_ID
from .event_names import is_event
from .recording import OWN, Leftover, Recorded, Recording

_SPELLED = ("NaN", "Infinity", "-Infinity")  # numbers that JSON lacks
_COUNTS = ("count", "zero_count", "nan_count", "inf_count")


def open_document(path: Path) -> Recording:
    """The forward events of a document, and the arrays that `--values` put there.

    Raises FileFormatError where the file is no such document.
    """
    document = read_json(path)
    if document.get("schema") != SCHEMA_ID:
        raise FileFormatError(
            f"{path}: expected the schema {SCHEMA_ID}, found {brief(document.get('schema'))}"
        )
    statistics: dict[str, TraceEvent] = {}
    tensors: dict[str, Recorded] = {}
    leftovers: list[Leftover] = []
    for i, record in enumerate(_list(path, document, "events")):
        event = _event(f"{path}: event {i}", record)
        if event.phase != "forward":
            continue
        if event.name in statistics:
            raise FileFormatError(f"{path}: {brief(event.name)} is there twice")
        statistics[event.name] = event
        if "values" in record:
            values = _values(f"{path}: {event.name}", record["values"], event)
            recorded = Recorded(event.name, event.shape, partial(np.asarray, values), OWN)
            if is_event(event.name):
                tensors[event.name] = recorded
            else:
                leftovers.append(Leftover(recorded, "no event has that name"))
    kind = "statistics and arrays of a trace" if tensors else "statistics of a trace"
    tokens, positions = _tokens(path, document), _positions(path, document)
    return Recording(str(path), kind, tensors, tokens, positions, statistics, tuple(leftovers))


def _list(path: Path, document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise FileFormatError(f"{path}: {key}: expected a list, found {brief(value)}")
    return value


def _tokens(path: Path, document: dict[str, Any]) -> tuple[int, ...]:
    said = document.get("input")
    tokens = said.get("tokens") if isinstance(said, dict) else None
    if not isinstance(tokens, list) or not all(map(_is_count, tokens)):
        raise FileFormatError(f"{path}: input: expected a list of tokens, found {brief(tokens)}")
    return tuple(tokens)


def _positions(path: Path, document: dict[str, Any]) -> tuple[int, ...]:
    predictions = _list(path, document, "predictions")
    found: list[Any] = [p.get("position") if isinstance(p, dict) else p for p in predictions]
    if not all(map(_is_count, found)):
        raise FileFormatError(f"{path}: predictions: expected positions, found {brief(found)}")
    return tuple(found)


def _event(where: str, record: Any) -> TraceEvent:
    if not isinstance(record, dict):
        raise FileFormatError(f"{where}: expected an object, found {brief(record)}")
    said: dict[str, Any] = {field.name: record.get(field.name) for field in fields(TraceEvent)}
    shape, layer, seconds = said["shape"], said["layer"], said["seconds"]
    fits = {
        "seq": _is_count(said["seq"]),
        "phase": said["phase"] in PHASES,
        "layer": layer is None or _is_count(layer),
        "shape": isinstance(shape, list) and all(map(_is_count, shape)),
        "seconds": seconds is None or type(seconds) in (int, float),
        **{key: isinstance(said[key], str) for key in ("stage", "name", "expr", "dtype")},
    }
    for key, fit in fits.items():
        if not fit:
            raise FileFormatError(f"{where}: {key} cannot be {brief(said[key])}")
    said["stats"] = None if said["stats"] is None else _stats(where, said["stats"])
    return TraceEvent(**said | {"shape": tuple(said["shape"])})


def _stats(where: str, record: Any) -> TensorStats:
    names = [field.name for field in fields(TensorStats)]
    if not isinstance(record, dict) or record.keys() != set(names):
        raise FileFormatError(f"{where}: expected the statistics {', '.join(names)}, found {brief(record)}")
    values: dict[str, Any] = {}
    for name, value in record.items():
        number = value is None or value in _SPELLED or type(value) in (int, float)
        if not (_is_count(value) if name in _COUNTS else number):
            raise FileFormatError(f"{where}: {name} cannot be {brief(value)}")
        try:
            values[name] = value if value is None or name in _COUNTS else float(value)
        except OverflowError as error:
            raise FileFormatError(f"{where}: {name} cannot be {brief(value)}") from error
    return TensorStats(**values)


def _values(where: str, nested: Any, event: TraceEvent) -> Array:
    """Nested lists as the array of that event."""
    if event.dtype not in ("float32", "float64"):
        raise FileFormatError(f"{where}: values of type {brief(event.dtype)}, which no event has")
    try:
        with np.errstate(over="ignore"):
            array = np.array(nested, np.float64).astype(event.dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"{where}: expected numbers, found {brief(nested)}") from error
    if array.shape != event.shape:
        raise FileFormatError(f"{where}: expected values {list(event.shape)}, found {list(array.shape)}")
    return array


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
