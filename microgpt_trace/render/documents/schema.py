"""JSON Schema (draft 2020-12) of dataclasses, and of the documents that say what a model is: a trace, a line
of its JSON Lines form, and what `inspect` gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ...architecture.edits import Applied
from ...arrays.stats import TensorStats
from ...decoder.config import OF_SOME, DecoderConfig
from ...hooks.event import TraceEvent
from ...microgpt.parameters import Config
from ...text.json_writing import marked
from ...tracing.inspection import Inspection
from ...tracing.result import SCHEMA_ID, Trace
from .trace_as_json import RECORDS, required_and_optional

COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: COUNT,
    bool: {"type": "boolean"},
    float: NUMBER,
    NoneType: {"type": "null"},
    Any: {},
}


def result_schema(kind: Any, title: str) -> dict[str, Any]:
    """The schema of the document of a result: a dataclass that names its SCHEMA."""
    body = closed_object({"schema": {"const": kind.SCHEMA}, **record(kind)["properties"]})
    return {**preamble(title, kind.SCHEMA), **body, "$defs": definitions(member_types(kind).values())}


def definitions(kinds: Iterable[Any]) -> dict[str, Any]:
    """The schemas of all dataclasses in these types and in their members, by the names that refer to them."""
    return {definition_name(kind): record(kind) for kind in dict.fromkeys(_dataclasses(kinds))}


def _dataclasses(kinds: Iterable[Any]) -> Iterator[type]:
    for kind in kinds:
        if is_dataclass(kind):
            yield kind  # type: ignore[misc]
            yield from _dataclasses(member_types(kind).values())
        else:
            yield from _dataclasses(get_args(kind) if get_origin(kind) is not Literal else ())


def member_types(kind: Any) -> dict[str, Any]:
    """The types of what a document has of a dataclass."""
    hints = get_type_hints(kind)
    own = {field.name: hints[field.name] for field in fields(kind)}
    return own | {name: get_type_hints(getattr(kind, name).fget)["return"] for name in marked(kind)}


def definition_name(kind: type) -> str:
    """LayerRow -> layer_row"""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of a value of this type; dataclasses are referred to by their names. A dictionary of types
    is a record without a class, [type] is a list of such, and a text stands for itself."""
    if isinstance(kind, dict):
        return closed_object({name: schema_of(member) for name, member in kind.items()})
    if isinstance(kind, list):
        return {"type": "array", "items": schema_of(kind[0])}
    if isinstance(kind, str):
        return {"const": kind}
    if kind in _PLAIN:
        return _PLAIN[kind]
    if is_dataclass(kind):
        return {"$ref": f"#/$defs/{definition_name(kind)}"}  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        assert arguments[-1] is ... or len({*arguments}) == 1, kind  # all items of one type
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    assert origin is UnionType, kind  # a type that the table above does not know
    return {"anyOf": [schema_of(argument) for argument in arguments]}


def record(kind: type) -> dict[str, Any]:
    """The schema of a dataclass, with all its members."""
    return schema_of(member_types(kind))


def closed_object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A closed object: every property required but the optional ones, no other allowed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def preamble(title: str, identifier: str) -> dict[str, str]:
    """What a schema begins with."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, "title": title}


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


# What models say of themselves, by the types of the members: all of them, and those of each family.
_OF_ALL = {"origin": str, "parameters": int, "dtype": str, "assumed": tuple[str, ...]}
_OF_FAMILIES: dict[str, dict[str, Any]] = {
    "microgpt": {
        "config": Config,
        "vocabulary": {"chars": str, "bos": int, "convention": str},
        "trained_steps": int,
    },
    "decoder": {
        "format": str,
        "config": DecoderConfig,
        "encodings": [{"type": str, "tensors": int, "bytes": int}],
        "layer": tuple[str, ...],
        "vocabulary": str | None,
    },
}


def _models() -> dict[str, Any]:
    """What models say of themselves."""
    known = definitions([Config, DecoderConfig])
    config = known[definition_name(DecoderConfig)]["properties"]
    known[definition_name(DecoderConfig)] = closed_object(config, optional=tuple(OF_SOME))
    models = [schema_of({**_OF_ALL, "family": family, **own}) for family, own in _OF_FAMILIES.items()]
    return known | {"model": {"oneOf": models}}
