"""JSON Schemas (draft 2020-12) of dataclasses, and of the documents that describe a model: a trace, a line of
a trace in JSON Lines, and the output of `inspect`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ...arrays.stats import TensorStats
from ...decoder.catalogue import architecture_named, families
from ...decoder.config import OMITTED_DEFAULTS, DecoderConfig
from ...hooks.event import TraceEvent
from ...interventions.applied import Applied
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
    """Return the schema of a result's document. `kind` is a dataclass with the attribute SCHEMA."""
    body = closed_object({"schema": {"const": kind.SCHEMA}, **record(kind)["properties"]})
    return {**preamble(title, kind.SCHEMA), **body, "$defs": definitions(member_types(kind).values())}


def definitions(kinds: Iterable[Any]) -> dict[str, Any]:
    """Return the schemas of all dataclasses in the types `kinds` and in their members, by name."""
    return {definition_name(kind): record(kind) for kind in dict.fromkeys(_dataclasses(kinds))}


def _dataclasses(kinds: Iterable[Any]) -> Iterator[type]:
    for kind in kinds:
        if is_dataclass(kind):
            yield kind  # type: ignore[misc]
            yield from _dataclasses(member_types(kind).values())
        else:
            yield from _dataclasses(get_args(kind) if get_origin(kind) is not Literal else ())


def member_types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's members in a document, which are the fields and marked properties."""
    hints = get_type_hints(kind)
    types = {field.name: hints[field.name] for field in fields(kind)}
    return types | {name: get_type_hints(getattr(kind, name).fget)["return"] for name in marked(kind)}


def definition_name(kind: type) -> str:
    """Return the name of a dataclass in definitions, such as layer_row for LayerRow."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a value of type `kind`. A dataclass becomes a reference to its definition. Plain
    data can describe a type too: a dictionary of types describes an object, [type] describes a list, and a
    text describes a constant."""
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
        assert arguments[-1] is ... or len({*arguments}) == 1, kind  # the items must have one type
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    assert origin is UnionType, kind  # a failure means that _PLAIN lacks a type
    return {"anyOf": [schema_of(argument) for argument in arguments]}


def record(kind: type) -> dict[str, Any]:
    """Return the schema of a dataclass with all its members."""
    return schema_of(member_types(kind))


def closed_object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of an object with exactly `properties`. Only `optional` properties may be missing."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def preamble(title: str, identifier: str) -> dict[str, str]:
    """Return the first members of every schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, "title": title}


def document_schema() -> dict[str, Any]:
    """Return the schema of `microgpt trace --json`."""
    _, optional = required_and_optional()
    body = closed_object({"schema": {"const": SCHEMA_ID}, **_members()}, optional=tuple(optional))
    return {**preamble("A trace", SCHEMA_ID), **body, "$defs": _definitions()}


def line_schema() -> dict[str, Any]:
    """Return the schema of a line of `microgpt trace --jsonl`. Its `record` determines its other members."""
    members, schemas = _members(), _definitions()
    _, optional = required_and_optional()
    single = {name: schema for name, schema in members.items() if name not in RECORDS}
    head = {"record": {"const": "trace"}, "schema": {"const": SCHEMA_ID}, **single}
    records = [closed_object(head, optional=tuple(name for name in optional if name in single))]
    for name, record in RECORDS.items():
        item = schemas[members[name]["items"]["$ref"].rpartition("/")[2]]
        properties = {"record": {"const": record}, **item["properties"]}
        records.append({**item, "properties": properties, "required": ["record", *item["required"]]})
    return {**preamble("One record of a trace", f"{SCHEMA_ID}/line"), "oneOf": records, "$defs": schemas}


def inspection_schema() -> dict[str, Any]:
    """Return the schema of `microgpt inspect --json`."""
    schema = result_schema(Inspection, "Inspection of a model")
    schema["properties"]["model"] = {"$ref": "#/$defs/model"}
    schema["$defs"] |= _models()
    return schema


def _types() -> dict[str, Any]:
    """Return the type of each member of a trace's document. An optional member is never None."""
    required, optional = required_and_optional()
    types = member_types(Trace)
    return {name: types[name] for name in required} | {name: _without_none(types[name]) for name in optional}


def _without_none(kind: Any) -> Any:
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return kinds[0] if NoneType in get_args(kind) else kind


def _members() -> dict[str, Any]:
    members = {name: schema_of(kind) for name, kind in _types().items() if name != "model"}
    return {"model": {"$ref": "#/$defs/model"}, **members}


def _definitions() -> dict[str, Any]:
    schemas = definitions([*_types().values(), Applied]) | _models()
    values = {"$ref": "#/$defs/values"}
    schemas["values"] = {"anyOf": [NUMBER, {"type": "array", "items": values}]}
    more = {"stats": schema_of(TensorStats), "seconds": {"type": "number", "minimum": 0}, "values": values}
    event = schemas[definition_name(TraceEvent)]["properties"] | more
    schemas[definition_name(TraceEvent)] = closed_object(event, optional=("seconds", "values"))
    return schemas


# Types of the members that describe a model: members of all models, then members of each family.
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


# Members that only some decoders have: RoPE and rows that differ from layer to layer.
_OF_SOME = {
    "rope": [{"theta": float, "scaling": str, "factor": float, "channels": int, "layers": [int]}],
    "sizes": [
        {
            "head_width": int,
            "key_value_heads": int,
            "inner": int | None,
            "keys_of": int | None,
            "layers": [int],
        }
    ],
    "layers_differ": bool,
}


def _models() -> dict[str, Any]:
    """Return the schemas that describe a model, by name. The options that only some architectures have are
    optional in the config of a decoder."""
    configs = dict.fromkeys(architecture_named(name).config for name in families())
    schemas = definitions([Config, DecoderConfig, *configs])
    named = [schemas.pop(definition_name(kind))["properties"] for kind in configs]
    usual = schemas[definition_name(DecoderConfig)]["properties"]
    every = {name: schema for own in named for name, schema in own.items()} | usual
    optional = (*OMITTED_DEFAULTS, *(every.keys() - usual))
    schemas[definition_name(DecoderConfig)] = closed_object(every, optional=optional)
    models = [schema_of({**_OF_ALL, "family": family, **members}) for family, members in _OF_FAMILIES.items()]
    models[-1]["properties"] |= {name: schema_of(kind) for name, kind in _OF_SOME.items()}
    return schemas | {"model": {"oneOf": models}}
