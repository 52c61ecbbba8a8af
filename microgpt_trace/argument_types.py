"""Names the argument of a public function that has a wrong type, if the function fails because of it."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable
from functools import WRAPPER_ASSIGNMENTS, wraps
from inspect import isgeneratorfunction, signature, unwrap
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .errors import InputError, MicrogptError
from .text.brief import brief

PLAIN = (NoneType, str, bytes, Real, list, tuple, set, dict)  # never a model, a path or a result
# NumPy's numbers are Integral or Real
KINDS: dict[Any, type] = {int: Integral, float: Real, str: str, NoneType: NoneType}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises InputError if `function` fails with an error of Python and a value
    contradicts the annotation of its argument. Arguments of a generator are checked before it starts."""

    @wraps(function, (*WRAPPER_ASSIGNMENTS, "__kwdefaults__"))
    def call(*args: Any, **named: Any) -> Any:
        if isgeneratorfunction(function):
            _check(function, args, named)
        try:
            return function(*args, **named)
        except Exception as error:
            if not isinstance(error, MicrogptError):
                _check(function, args, named)
            raise

    return call


def _check(function: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise InputError for the first argument whose value contradicts the annotation."""
    try:
        given = signature(function).bind(*args, **named).arguments
    except TypeError:  # an argument is missing or unknown, as the error of Python says
        return
    for name, value in given.items():
        expected = function.__annotations__[name]
        unknown = dict.fromkeys(re.findall(r"\w+", expected), object)  # names that only type checkers import
        kind = eval(expected, unknown | vars(builtins) | unwrap(function).__globals__)
        if not _fits(value, kind):
            shown = expected if isinstance(kind, type) or not expected.isidentifier() else kind
            raise InputError(f"{name}: expected {shown}, found {brief(value)}")


def _fits(value: Any, kind: Any) -> bool:
    """Return False if a value contradicts a type. A value that is not PLAIN fits every other class."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, own) for own in args)
    if origin is Literal:
        return value in args
    if kind in KINDS:
        return isinstance(value, KINDS[kind])
    if origin is not None and issubclass(origin, Iterable) and isinstance(value, Iterable):
        return not isinstance(value, str | bytes) and all(_fits(item, args[0]) for item in value)
    return kind is Any or not isinstance(value, PLAIN) or type(value) is kind
