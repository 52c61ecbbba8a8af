"""What an event is: what is known of it before a run, and what a run tells of it. Knows no bus."""

from __future__ import annotations

from typing import Literal

from ..arrays.stats import TensorStats
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
