"""The JSON Schema of a trace document, of one line of its JSON Lines form, and of what `inspect` gives:
the documents that say what a model is."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

from ...architecture.edits import Applied
from ...arrays.stats import TensorStats
from ...decoder.config import OF_SOME, DecoderConfig
from ...hooks.event import TraceEvent
from ...microgpt.parameters import Config
from ...tracing.inspection import Inspection
from ...tracing.result import SCHEMA_ID, Trace
from .schema import (
    COUNT,
    NUMBER,
    closed_object,
    definition_name,
    definitions,
    member_types,
    preamble,
    result_schema,
    schema_of,
)
from .trace import RECORDS, required_and_optional


def document_schema() -> dict[str, Any]:
    """The schema of `microgpt trace --json`."""
    _, optional = required_and_optional()
    body = closed_object({"schema": {"const": SCHEMA_ID}, **_members()}, optional=tuple(optional))
    return {**preamble("A trace", SCHEMA_ID), **body, "$defs": _definitions()}


def line_schema() -> dict[str, Any]:
    """The schema of one line of `microgpt trace --jsonl`: which record it is decides its shape."""
    members, known = _members(), _definitions()
    _, optional = required_and_optional()
    ones = {name: schema for name, schema in members.items() if name not in RECORDS}
    head = {"record": {"const": "trace"}, "schema": {"const": SCHEMA_ID}, **ones}
    records = [closed_object(head, optional=tuple(name for name in optional if name in ones))]
    for name, record in RECORDS.items():
        item = known[members[name]["items"]["$ref"].rpartition("/")[2]]
        properties = {"record": {"const": record}, **item["properties"]}
        records.append({**item, "properties": properties, "required": ["record", *item["required"]]})
    return {**preamble("One record of a trace", f"{SCHEMA_ID}/line"), "oneOf": records, "$defs": known}


def inspection_schema() -> dict[str, Any]:
    """The schema of `microgpt inspect --json`."""
    whole = result_schema(Inspection, "A model inspected")
    whole["properties"]["model"] = {"$ref": "#/$defs/model"}
    whole["$defs"] |= _models()
    return whole


def _types() -> dict[str, Any]:
    """The type of each member of a document, where it is there."""
    required, optional = required_and_optional()
    known = member_types(Trace)
    return {name: known[name] for name in required} | {name: _there(known[name]) for name in optional}


def _there(kind: Any) -> Any:
    """A type without None."""
    kinds = [own for own in get_args(kind) if own is not NoneType]
    return kinds[0] if NoneType in get_args(kind) else kind


def _members() -> dict[str, Any]:
    members = {name: schema_of(kind) for name, kind in _types().items() if name != "model"}
    return {"model": {"$ref": "#/$defs/model"}, **members}


def _definitions() -> dict[str, Any]:
    known = definitions([*_types().values(), Applied]) | _models()
    values = {"$ref": "#/$defs/values"}
    known["values"] = {"anyOf": [NUMBER, {"type": "array", "items": values}]}
    event = known[definition_name(TraceEvent)]["properties"] | {
        "stats": schema_of(TensorStats),
        "seconds": {"type": "number", "minimum": 0},
        "values": values,
    }
    known[definition_name(TraceEvent)] = closed_object(event, optional=("seconds", "values"))
    return known


def _models() -> dict[str, Any]:
    """What models say of themselves."""
    known = definitions([Config, DecoderConfig])
    config = known[definition_name(DecoderConfig)]["properties"]
    known[definition_name(DecoderConfig)] = closed_object(config, optional=tuple(OF_SOME))
    return known | {"model": {"oneOf": [_microgpt(), _decoder()]}}


_OF_ALL = {
    "origin": schema_of(str),
    "parameters": COUNT,
    "dtype": schema_of(str),
    "assumed": schema_of(tuple[str, ...]),
}


def _microgpt() -> dict[str, Any]:
    """What a microGPT says of itself."""
    vocabulary = {"chars": schema_of(str), "bos": COUNT, "convention": schema_of(str)}
    return closed_object(
        {
            **_OF_ALL,
            "family": {"const": "microgpt"},
            "config": schema_of(Config),
            "vocabulary": closed_object(vocabulary),
            "trained_steps": COUNT,
        }
    )


def _decoder() -> dict[str, Any]:
    """What a production model says of itself."""
    stored = closed_object({"type": schema_of(str), "tensors": COUNT, "bytes": COUNT})
    return closed_object(
        {
            **_OF_ALL,
            "family": {"const": "decoder"},
            "format": schema_of(str),
            "config": schema_of(DecoderConfig),
            "encodings": {"type": "array", "items": stored},
            "layer": schema_of(tuple[str, ...]),
            "vocabulary": schema_of(str | None),
        }
    )
