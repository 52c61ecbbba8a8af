"""The decorator `frozen`, which turns a class into a dataclass whose instances cannot change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

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


@cache
def _fields_of(kind: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the names of all fields, of the fields to compare, and of the fields to hash."""
    own = fields(kind)
    compared = [each for each in own if each.compare]
    hashed = [each for each in compared if each.hash is not False]
    return tuple(f.name for f in own), tuple(f.name for f in compared), tuple(f.name for f in hashed)


def _values(record: Any, which: int) -> tuple[Any, ...]:
    kind: Any = type(record)
    return tuple(getattr(record, name) for name in _fields_of(kind)[which])


def _state(self: Any) -> tuple[Any, ...]:
    return _values(self, 0)


def _restore(self: Any, state: tuple[Any, ...]) -> None:
    kind: Any = type(self)
    for name, value in zip(_fields_of(kind)[0], state, strict=True):
        object.__setattr__(self, name, value)


def _equal(self: Any, other: Any) -> bool:
    return _values(self, 1) == _values(other, 1) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self, 2))


def _refuse(self: object, name: str, *value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")
