"""What a hook may put in the place of a value, and how the value is kept from being written to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from .event import TraceEvent


class Replacement(NamedTuple):
    """What a hook returns for a value that goes on depending on the one it replaces.

    `slope` is d replacement / d value, element by element (or broadcast to them): 0 where the
    replacement is a constant, 1 where the value stays as it is. A bare array is a constant.
    """

    value: Array
    slope: Array


def differs(used: Array, computed: Array) -> bool:
    """Whether what a tap gave back is another value than it was given; a copy is none."""
    return used is not computed and not np.array_equal(used, computed, equal_nan=True)


class ReadOnly:
    """A view that cannot be made writeable, because the array behind it is not for the time being."""

    __slots__ = ("_before", "_owner", "_value")

    def __init__(self, value: Array) -> None:
        self._value = value
        self._owner = value if not isinstance(value.base, np.ndarray) else value.base

    def __enter__(self) -> Array:
        self._before = self._owner.flags.writeable
        self._owner.flags.writeable = False
        view = self._value.view()
        view.flags.writeable = False
        return view

    def __exit__(self, *unused: object) -> None:
        self._owner.flags.writeable = self._before


def checked_replacement(hook: object, event: TraceEvent, value: Array, result: Any) -> Array:
    """A copy of what a hook returned, of the value's shape and dtype. Raises InputError, naming hook and
    event, for anything else."""
    if isinstance(result, np.generic):  # arithmetic on a 0-d array gives a scalar
        result = np.asarray(result)
    who = getattr(hook, "__name__", type(hook).__name__)
    if not isinstance(result, np.ndarray):
        found = type(result).__name__
    elif result.shape != value.shape or result.dtype != value.dtype:
        found = f"{result.dtype} {list(result.shape)}"
    else:
        return np.array(result)
    wanted = f"{value.dtype} {list(value.shape)}"
    raise InputError(f"hook {who!r} on {event.name}: expected None or an array {wanted}, found {found}")
