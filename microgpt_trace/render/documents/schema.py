"""JSON Schema (draft 2020-12) of dataclasses: what a document has of them, down to numbers and texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ...text.document_fields import marked

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
    fields = {name: hints[name] for name in kind.__dataclass_fields__}
    return fields | {name: get_type_hints(getattr(kind, name).fget)["return"] for name in marked(kind)}


def definition_name(kind: type) -> str:
    """LayerRow -> layer_row"""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of a value of this type; dataclasses are referred to by their names."""
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
    return closed_object({name: schema_of(member) for name, member in member_types(kind).items()})


def closed_object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A closed object: every property required but the optional ones, no other allowed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def preamble(title: str, identifier: str) -> dict[str, str]:
    """What a schema begins with."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, "title": title}
