"""As much of a value as one line has room for: of what a file holds in an error message, of what a run
gave in a repr. And `frozen`, the dataclass of all plain data, whose repr is such a line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


Class = TypeVar("Class", bound=type)
LINE = 160  # characters of a repr


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40

    def repr_ndarray(self, value: Any, level: int) -> str:
        return self.repr_list(value[: self.maxlist + 1].tolist(), level)


class _BriefField(_Brief):
    """A field among others: six digits, and of arrays and of many records what they are, not what they
    hold."""

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
    """The repr of a record: its class with these facts, or with its fields, on one short line."""
    shown = facts or {name: getattr(record, name) for name in _fields(record)}
    name, said = type(record).__name__, ""
    for key, value in shown.items():
        said += f", {key}={_brief_field(value)}" if said else f"{key}={_brief_field(value)}"
        if len(name) + len(said) + 2 > LINE:
            said = f"{said[: LINE - len(name) - 5]}..."
            break
    return f"{name}({' '.join(said.split())})" if "\n" in said else f"{name}({said})"


@overload
def frozen(cls: Class) -> Class: ...


@overload
def frozen(*, slots: bool = True, eq: bool = True) -> Callable[[Class], Class]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Any = None, *, slots: bool = True, eq: bool = True) -> Any:
    """Make a class a frozen dataclass whose repr is one short line.

    `slots=False` is for classes that cache what they derive, `eq=False` for those that hold arrays.

    >>> @frozen
    ... class Point:
    ...     x: int
    >>> Point(3)
    Point(x=3)
    """

    def decorate(own: Class) -> Class:
        own.__repr__ = one_line  # type: ignore[assignment]
        return dataclass(frozen=True, slots=slots, eq=eq, repr=False)(own)  # type: ignore[return-value]

    return decorate if cls is None else decorate(cls)


def _fields(record: Any) -> list[str]:
    if isinstance(record, tuple):
        return list(record._fields)  # type: ignore[attr-defined]
    return [field.name for field in fields(record) if field.repr]


def token_list(tokens: Sequence[int] | None) -> str:
    """The first of some token ids, and how many more there are."""
    shown = ", ".join(map(str, (tokens or ())[:12]))
    more = len(tokens or ()) - 12
    return f"[{shown}{f', … {more} more' if more > 0 else ''}]"
