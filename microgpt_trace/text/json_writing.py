"""Turn results into plain data (fields and marked properties) and into JSON (RFC 8259). Knows no result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from .wording import unnumbered


def result_json(result: Any) -> str:
    """Return the JSON document of a result: a dataclass with a SCHEMA, or an object whose `document` is one.
    The schema id and the marked properties come first."""
    document = getattr(result, "document", result)
    kind: Any = type(document)
    values = plain(document)
    first = {name: values[name] for name in marked(kind)}
    return to_text({"schema": document.SCHEMA, **first, **values})


def to_text(members: dict[str, Any]) -> str:
    """Return a JSON object with a line for each member, and a line for each item of a list."""
    return "{\n" + ",\n".join(_member(key, value) for key, value in members.items()) + "\n}\n"


def _member(key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        items = ",\n    ".join(map(dump, value))
        return f"  {dump(key)}: [\n    {items}\n  ]"
    return f"  {dump(key)}: {dump(value)}"


def plain(value: Any) -> Any:
    """Turn dataclasses into dictionaries of their members, recursively."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    kind: Any = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in members(kind)}
    return value


def dump(value: Any, indent: int | None = None) -> str:
    """Return JSON text in ASCII, which every terminal and pipe passes on. Numbers that JSON lacks become the
    strings "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_with_names(value), indent=indent, allow_nan=False)


def _with_names(value: Any) -> Any:
    """Replace numbers that JSON lacks by their names, recursively."""
    if isinstance(value, float) and not math.isfinite(value):
        return unnumbered(value)
    if isinstance(value, dict):
        return {key: _with_names(item) for key, item in value.items()}
    return [*map(_with_names, value)] if isinstance(value, list | tuple) else value


Getter = TypeVar("Getter", bound=Callable[..., object])
_marked = set[object]()


def in_document(getter: Getter) -> Getter:
    """Mark a property for JSON documents. Stands beneath @property."""
    _marked.add(getter)
    return getter


@cache
def marked(kind: type) -> tuple[str, ...]:
    """Return the names of the marked properties of a class."""
    items = (item for base in reversed(kind.__mro__) for item in vars(base).items())
    return tuple(name for name, value in items if isinstance(value, property) and value.fget in _marked)


@cache
def members(kind: type) -> tuple[str, ...]:
    """Return the names that a dataclass has in a document: its fields and its marked properties."""
    return *(field.name for field in fields(kind)), *marked(kind)
