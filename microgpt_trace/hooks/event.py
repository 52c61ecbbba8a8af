"""What an event is: what is known of it before a run, and what a run tells of it; and what a
hook may put in its place. Knows no bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..text.brief import frozen

Phase = Literal["forward", "backward", "update"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "update")


@frozen
class EventSpec:
    """What is known of an event before the model runs."""

    name: str
    stage: str
    layer: int | None
    expr: str  # the operation as a person would write it
    parameter: str = ""  # the parameter behind it: "w_fc1 = layer0.mlp_fc1.T"
    causal: bool = False  # [H, T, T]: statistics cover the entries on and below the diagonal
    overview: bool = True  # shown, serialised and saved without --verbose
    extra: bool = False  # costs a computation of its own: shown only when asked for by name


@frozen
class TraceEvent:
    """One tensor of a run: where it stands in the computation, its shape and its summary.

    `seq` counts the events of a run. In phase "backward" the tensor is the total derivative of the
    loss with respect to the activation or parameter of that name; in phase "update" it is what the
    optimizer adds to the parameter. `stats` and `seconds` are None where nobody asked for them.
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


@contextmanager
def read_only(value: Array) -> Iterator[Array]:
    """A view that cannot be made writeable, because the array behind it is not for the time being."""
    owner = value.base if isinstance(value.base, np.ndarray) else value
    before = owner.flags.writeable
    owner.flags.writeable = False
    view = value.view()
    view.flags.writeable = False
    try:
        yield view
    finally:
        owner.flags.writeable = before


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
