"""The decorator `frozen`, which turns a class into a dataclass whose instances cannot change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .brief import one_line

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Any = None, *, slots: bool = True, eq: bool = True, kw_only: bool = False) -> Any:
    """Turn a class into a frozen dataclass whose repr is one short line.

    Use `slots=False` for classes with cached properties and `eq=False` for classes that contain arrays. The
    classes share all methods but `__init__`, because `dataclass(frozen=True)` would compile six methods for
    each class, which takes 20 ms of each start.

    >>> @frozen
    ... class Point:
    ...     x: int
    >>> Point(3)
    Point(x=3)
    """

    def decorate(kind: Any) -> Any:
        shared: dict[str, Any] = {"__repr__": one_line, "__setattr__": _refuse, "__delattr__": _refuse}
        shared |= {"__eq__": _equal, "__hash__": _hash} if eq else {}
        shared |= {"__getstate__": _state, "__setstate__": _restore} if slots else {}
        own: Any = vars(kind)
        made: Any = dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(kind)
        for name, method in {"__init__": _initializer(made), **shared}.items():
            if name not in own:
                setattr(made, name, method)
        return made

    return decorate if cls is None else decorate(cls)


def _initializer(kind: Any) -> Callable[..., None]:
    """Compile the method that sets the fields from its arguments."""
    places: dict[str, Any] = {"set_field": object.__setattr__, "MISSING": MISSING}
    parameters, body = ["self"], []
    for each in sorted(fields(kind), key=lambda own: bool(own.kw_only)):
        name, value = each.name, each.name
        if each.kw_only and "*" not in parameters:
            parameters.append("*")
        if each.default_factory is not MISSING:
            places[f"make_{name}"] = each.default_factory
            parameters.append(f"{name}=MISSING")
            value = f"make_{name}() if {name} is MISSING else {name}"
        elif each.default is not MISSING:
            places[f"default_{name}"] = each.default
            parameters.append(f"{name}=default_{name}")
        else:
            parameters.append(name)
        body.append(f"set_field(self, {name!r}, {value})")
    if hasattr(kind, "__post_init__"):
        body.append("self.__post_init__()")
    code = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"])
    exec(code, places)
    made: Callable[..., None] = places["__init__"]
    made.__qualname__ = f"{kind.__qualname__}.__init__"
    made.__annotations__ = {each.name: each.type for each in fields(kind)} | {"return": None}
    return made


class _Names(NamedTuple):
    """The names of all fields of a class, of the fields that `==` compares, and of the fields to hash."""

    all: tuple[str, ...]
    compared: tuple[str, ...]
    hashed: tuple[str, ...]


@cache
def _names_of(kind: Any) -> _Names:
    own = fields(kind)
    hashed = (each.name for each in own if (each.compare if each.hash is None else each.hash))
    return _Names(tuple(f.name for f in own), tuple(f.name for f in own if f.compare), tuple(hashed))


def _names(record: Any) -> _Names:
    kind: Any = type(record)
    return _names_of(kind)


def _values(record: Any, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in names)


def _state(self: Any) -> tuple[Any, ...]:
    return _values(self, _names(self).all)


def _restore(self: Any, state: tuple[Any, ...]) -> None:
    for name, value in zip(_names(self).all, state, strict=True):
        object.__setattr__(self, name, value)


def _equal(self: Any, other: Any) -> bool:
    if type(other) is not type(self):
        return NotImplemented
    compared = _names(self).compared
    return _values(self, compared) == _values(other, compared)


def _hash(self: Any) -> int:
    return hash(_values(self, _names(self).hashed))


def _refuse(self: object, name: str, *value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")
