"""Shorten values to one line, for error messages and reprs."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

LINE = 160  # largest number of characters of a repr


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40

    def repr_ndarray(self, value: Any, level: int) -> str:
        return self.repr_list(value[: self.maxlist + 1].tolist(), level)


class _BriefField(_Brief):
    """Shorten a field: numbers to six digits, arrays and tuples of records to their type and size."""

    def repr_ndarray(self, value: Any, level: int) -> str:
        return f"<{value.dtype} {list(value.shape)}>"

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.6g}"

    def repr_tuple(self, value: Any, level: int) -> str:
        if value and is_dataclass(value[0]):
            return f"<{len(value)} {type(value[0]).__name__}>"
        return super().repr_tuple(value, level)

    def repr_dict(self, value: Any, level: int) -> str:
        return f"<{len(value)} items>" if value else "{}"


brief: Callable[[Any], str] = _Brief().repr
_brief_field: Callable[[Any], str] = _BriefField().repr


def one_line(record: Any, **facts: Any) -> str:
    """Return a one-line repr of a record: the name of the class, and `facts` or (by default) all fields."""
    values = facts or {name: getattr(record, name) for name in _fields(record)}
    name = type(record).__name__
    text = ", ".join(f"{key}={_brief_field(value)}" for key, value in values.items())
    if len(name) + len(text) + 2 > LINE:
        text = f"{text[: LINE - len(name) - 5]}..."
    return f"{name}({' '.join(text.split())})" if "\n" in text else f"{name}({text})"


def _fields(record: Any) -> list[str]:
    if isinstance(record, tuple):
        return list(record._fields)  # type: ignore[attr-defined]
    return [field.name for field in fields(record) if field.repr]


def token_list(tokens: Sequence[int] | None) -> str:
    """Return the first 12 token ids as text, and the number of further ids: "[1, 2, … 30 more]"."""
    first = ", ".join(map(str, (tokens or ())[:12]))
    more = len(tokens or ()) - 12
    return f"[{first}{f', … {more} more' if more > 0 else ''}]"
