"""Results as plain data, fields and marked properties alike, and as JSON text (RFC 8259). Knows no result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar


def result_json(result: Any) -> str:
    """The document of a result: a dataclass that names its SCHEMA, or what has such a one as its `document`.
    What it says as a whole comes first."""
    own = getattr(result, "document", result)
    kind: Any = type(own)
    whole = plain(own)
    first = {name: whole[name] for name in marked(kind)}
    return to_text({"schema": own.SCHEMA, **first, **whole})


def to_text(members: dict[str, Any]) -> str:
    """A JSON object over several lines, each item of its lists on one."""
    return "{\n" + ",\n".join(_member(key, value) for key, value in members.items()) + "\n}\n"


def _member(key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        items = ",\n    ".join(map(dump, value))
        return f"  {dump(key)}: [\n    {items}\n  ]"
    return f"  {dump(key)}: {dump(value)}"


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries of their members, all the way down."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    kind: Any = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in members(kind)}
    return value


def dump(value: Any, indent: int | None = None) -> str:
    """JSON text in ASCII, which no terminal or pipe can spoil. Numbers that JSON lacks become the
    strings "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_spelled_out(value), indent=indent, allow_nan=False)


def _spelled_out(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spelled_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled_out(item) for item in value]
    return value


Getter = TypeVar("Getter", bound=Callable[..., object])
_marked = set[object]()


def in_document(getter: Getter) -> Getter:
    """Marks a property, from beneath @property, to stand in JSON documents too."""
    _marked.add(getter)
    return getter


@cache
def marked(kind: type) -> tuple[str, ...]:
    """The names of a class's properties that do."""
    own = (item for base in reversed(kind.__mro__) for item in vars(base).items())
    return tuple(name for name, value in own if isinstance(value, property) and value.fget in _marked)


@cache
def members(kind: type) -> tuple[str, ...]:
    """The names of all that a document has of a dataclass."""
    return *(field.name for field in fields(kind)), *marked(kind)
