"""Results as plain data and as JSON text (RFC 8259). Knows no result."""

from __future__ import annotations

import json
import math
from typing import Any

from .document_fields import marked, members


def result_json(result: Any) -> str:
    """The document of a result: a dataclass that names its SCHEMA. What it says as a whole comes first."""
    kind: Any = type(result)
    whole = plain(result)
    first = {name: whole[name] for name in marked(kind)}
    return to_text({"schema": result.SCHEMA, **first, **whole})


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
