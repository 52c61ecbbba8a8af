"""Turn results into JSON (RFC 8259) or plain data, with all fields and all marked properties."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from .wording import nonfinite_name

_LEAVES = frozenset({float, int, str, bool, type(None)})


def result_json(result: Any) -> str:
    """Return the JSON document of a result, with the schema id and the marked properties first. `result` is a
    dataclass with a SCHEMA, or an object whose `document` is a dataclass with a SCHEMA."""
    document = getattr(result, "document", result)
    kind: Any = type(document)
    values = plain(document)
    first = {name: values[name] for name in marked(kind)}
    return to_text({"schema": document.SCHEMA, **first, **values})


def to_text(members: dict[str, Any]) -> str:
    """Return a JSON object as text. Each member of the object and each item of a list starts a line."""
    return "{\n" + ",\n".join(_member(key, value) for key, value in members.items()) + "\n}\n"


def _member(key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        items = ",\n    ".join(map(dump, value))
        return f"  {dump(key)}: [\n    {items}\n  ]"
    return f"  {dump(key)}: {dump(value)}"


def plain(value: Any) -> Any:
    """Turn dataclasses into dictionaries of their fields and marked properties, recursively."""
    kind: Any = type(value)
    if kind in _LEAVES:  # first, because a document has hundreds of thousands
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if hasattr(kind, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in members(kind)}
    return value


def dump(value: Any, indent: int | None = None) -> str:
    """Return JSON text in ASCII, which every terminal can print. Numbers that are not finite become the
    strings "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_with_names(value), indent=indent, allow_nan=False)


def _with_names(value: Any) -> Any:
    """Replace numbers that are not finite by their names, recursively."""
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite_name(value)
    if isinstance(value, dict):
        return {key: _with_names(item) for key, item in value.items()}
    return [*map(_with_names, value)] if isinstance(value, list | tuple) else value


Getter = TypeVar("Getter", bound=Callable[..., object])
_marked = set[object]()


def in_document(getter: Getter) -> Getter:
    """Mark a property as part of JSON documents. Write this decorator below @property."""
    _marked.add(getter)
    return getter


@cache
def marked(kind: type) -> tuple[str, ...]:
    """Return the names of the marked properties of a class."""
    items = (item for base in reversed(kind.__mro__) for item in vars(base).items())
    return tuple(name for name, value in items if isinstance(value, property) and value.fget in _marked)


@cache
def members(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's members in JSON: its fields and its marked properties."""
    return *(field.name for field in fields(kind)), *marked(kind)
