"""Events: their specification, their record in a run, and their replacement by hooks."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..text.frozen import frozen

Phase = Literal["forward", "backward", "update"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "update")


@frozen
class EventSpec:
    """The specification of an event, which is known before the model runs."""

    name: str
    stage: str
    layer: int | None
    expr: str  # the operation as a formula
    parameter: str = ""  # the parameter that the event shows: "w_fc1 = layer0.mlp_fc1.T"
    causal: bool = False  # [H, T, T]: statistics cover the entries on and below the diagonal
    overview: bool = True  # shown and saved without --verbose
    extra: bool = False  # needs an extra computation, and is shown only if requested by name


@frozen
class TraceEvent:
    """A tensor of a run: its place in the computation, its shape and its statistics.

    `seq` counts the events of a run. In phase "backward" the tensor is the total derivative of the loss with
    respect to the activation or parameter of that name. In phase "update" the tensor is the change that the
    optimizer adds to the parameter. `stats` and `seconds` are None if they were not requested.
    """

    seq: int
    phase: Phase
    stage: str
    layer: int | None
    name: str
    expr: str
    shape: tuple[int, ...]
    dtype: str
    stats: TensorStats | None = None
    seconds: float | None = None

    def with_stats(self, stats: TensorStats) -> TraceEvent:
        """Return this event with statistics. (`replace` takes 20 us, for each event of a generated token.)"""
        about = self.seq, self.phase, self.stage, self.layer, self.name, self.expr, self.shape, self.dtype
        return TraceEvent(*about, stats, self.seconds)


class Replacement(NamedTuple):
    """The result of a hook whose new value depends on the value that it replaces. `slope` is d replacement /
    d value for each element, and may broadcast. The slope is 0 for a constant and 1 for an unchanged value. A
    hook that returns an array without a slope replaces the value by a constant."""

    value: Array
    slope: Array


def differs(used: Array, computed: Array) -> bool:
    """Return True if the value that a tap returned differs from the computed value."""
    return used is not computed and not np.array_equal(used, computed, equal_nan=True)


class ReadOnly:
    """A context with a view of a value that cannot be made writeable, because the underlying array is
    read-only meanwhile. (`contextmanager` takes 2 us more, for each event of a generated token.)"""

    __slots__ = "_before", "_owner", "_value"

    def __init__(self, value: Array) -> None:
        self._value, self._owner = value, value.base if isinstance(value.base, np.ndarray) else value
        self._before = self._owner.flags.writeable

    def __enter__(self) -> Array:
        self._owner.flags.writeable = False
        view = self._value.view()
        view.flags.writeable = False
        return view

    def __exit__(self, *error: object) -> None:
        self._owner.flags.writeable = self._before


def checked_replacement(hook: object, event: TraceEvent, value: Array, result: Any) -> Array:
    """Return a copy of the array that a hook returned. If the shape or dtype differs from the value's, raise
    an InputError that names the hook and the event."""
    if isinstance(result, np.generic):  # arithmetic on a 0-d array returns a scalar
        result = np.asarray(result)
    who = getattr(hook, "__name__", type(hook).__name__)
    if not isinstance(result, np.ndarray):
        found = type(result).__name__
    elif result.shape != value.shape or result.dtype != value.dtype:
        found = f"{result.dtype} {list(result.shape)}"
    else:
        return np.array(result)
    expected = f"None or an array {value.dtype} {list(value.shape)}"
    raise InputError(f"hook {who!r} on {event.name}: expected {expected}, found {found}")
