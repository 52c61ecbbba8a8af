"""The decorator `frozen`, which turns a class into a dataclass whose instances cannot change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from functools import cache
from inspect import Parameter, Signature
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
    classes share all methods, because `dataclass(frozen=True)` would compile seven methods for each class,
    which takes 30 ms of each start.

    >>> @frozen
    ... class Point:
    ...     x: int
    >>> Point(3)
    Point(x=3)
    """

    def decorate(kind: Any) -> Any:
        shared: dict[str, Any] = {"__init__": _set_fields, "__signature__": _Signature()}
        shared |= {"__repr__": one_line, "__setattr__": _refuse, "__delattr__": _refuse}
        shared |= {"__eq__": _equal, "__hash__": _hash} if eq else {}
        shared |= {"__getstate__": _state, "__setstate__": _restore} if slots else {}
        own: Any = vars(kind)
        made: Any = dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(kind)
        for name, method in shared.items():
            if name not in own:
                setattr(made, name, method)
        return made

    return decorate if cls is None else decorate(cls)


class _Names(NamedTuple):
    """What the methods of a class need to know of its fields."""

    all: tuple[str, ...]
    by_place: tuple[str, ...]  # fields that an argument without a name can set
    compared: tuple[str, ...]
    hashed: tuple[str, ...]
    defaults: dict[str, Any]
    factories: dict[str, Callable[[], Any]]
    checked: bool  # whether the class has a `__post_init__`


@cache
def _names_of(kind: Any) -> _Names:
    own = fields(kind)
    hashed = (each.name for each in own if (each.compare if each.hash is None else each.hash))
    return _Names(
        all=tuple(each.name for each in own),
        by_place=tuple(each.name for each in own if not each.kw_only),
        compared=tuple(each.name for each in own if each.compare),
        hashed=tuple(hashed),
        defaults={each.name: each.default for each in own if each.default is not MISSING},
        factories={each.name: each.default_factory for each in own if each.default_factory is not MISSING},
        checked=hasattr(kind, "__post_init__"),
    )


def _names(record: Any) -> _Names:
    kind: Any = type(record)
    return _names_of(kind)


class _Signature:
    """Return the parameters of a class when `inspect.signature` asks for them."""

    def __get__(self, record: Any, kind: Any) -> Any:
        def parameter(each: Any) -> Parameter:
            way = Parameter.KEYWORD_ONLY if each.kw_only else Parameter.POSITIONAL_OR_KEYWORD
            default = each.default if each.default_factory is MISSING else each.default_factory
            default = Parameter.empty if default is MISSING else default
            return Parameter(each.name, way, default=default, annotation=each.type)

        own = sorted(fields(kind), key=lambda each: bool(each.kw_only))
        return Signature([parameter(each) for each in own])


def _set_fields(self: Any, *values: Any, **named: Any) -> None:
    own = _names(self)
    given = own.defaults | dict(zip(own.by_place, values, strict=False)) | named
    for name, make in own.factories.items():
        if name not in given:
            given[name] = make()
    twice = named.keys() & own.by_place[: len(values)]
    if twice or len(values) > len(own.by_place) or given.keys() != {*own.all}:
        type(self).__signature__.bind(*values, **named)  # raises the TypeError that says what is wrong
    for name in own.all:
        object.__setattr__(self, name, given[name])
    if own.checked:
        self.__post_init__()


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
