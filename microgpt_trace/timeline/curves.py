"""The timeline of a training run, as plain data: curves over its traced steps. Knows no log file and no
screen.

A curve has one entry per traced step. An entry is None if the log has null or no value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InputError
from ..hooks.names import select_names
from ..microgpt.forward_backward import event_specs
from ..microgpt.parameters import Config
from ..notebook import in_notebook
from ..text.brief import frozen

_LAYER = re.compile(r"^layer[0-9]+\.")
Curve = tuple[float | None, ...]
Counts = tuple[int | None, ...]
HeadWeights = tuple[tuple[tuple[float, ...], ...], ...]  # by head, query and visible key


@frozen
class EventCurve:
    """An event in the traces of the watched name: the L2 norm of its finite elements, the share of zeros,
    the number of elements that are not finite, and the L2 norm of the gradient of the name's loss."""

    name: str
    l2: Curve
    zeros: Curve
    nonfinite: Counts
    gradient: Curve


@frozen
class ParameterCurve:
    """The L2 norms of a parameter after the step, of the gradient of the watched name's loss there, and of
    the update that the step made; and |update| / |parameter before it|. Step 0 has no update."""

    name: str
    l2: Curve
    gradient: Curve
    update: Curve
    update_ratio: Curve


@dataclass(frozen=True, slots=True)
class LikelyToken:
    label: str
    p: float


@frozen
class AttentionCurve:
    """The attention weights of all heads of a layer over the watched name, with the 6 digits of the log."""

    name: str
    weights: tuple[HeadWeights | None, ...]


@frozen
class PositionCurve:
    """The predictions at one position of the watched name.

    From the traced step `learned` to the end, the target has rank 1. From the step `halfway` to the end,
    P(target) is above the middle between its first and its last value. Each is None if there is no such
    step, and `halfway` also if P did not rise. `top` has the most likely tokens with their P.
    """

    position: int
    seen: str
    target: str
    p: Curve
    loss: Curve
    rank: Counts
    predicted: tuple[str | None, ...]
    top: tuple[tuple[LikelyToken, ...] | None, ...]
    learned: int | None
    halfway: int | None


@dataclass(frozen=True, slots=True)
class DeadUnit:
    """A ReLU unit that is zero at every position of every held-out name from this traced step to the end."""

    unit: int
    since: int


@dataclass(frozen=True, slots=True)
class ReturnedUnit:
    """A unit that is alive in the end but was dead before, for the last time between these two traced
    steps."""

    unit: int
    died: int
    returned: int


@frozen
class LayerUnits:
    """The ReLU units of a layer: the number of dead ones by traced step, those dead at the end, those
    returned."""

    layer: int
    units: int
    dead_count: Counts
    dead: tuple[DeadUnit, ...]
    returned: tuple[ReturnedUnit, ...]


@frozen
class LossCurve:
    """The loss of every logged training step."""

    steps: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunStart:
    """The start of a run, or of a part that resumed it: the step before it, and the held-out loss there."""

    step: int
    held_out_loss: float | None


@frozen
class FailedCheck:
    step: int
    id: str
    detail: str


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    steps: int
    batch_size: int
    lr: float
    seed: int


@frozen
class Timeline:
    """The contents of a log, by traced step. `absent` lists the values that the log lacks, with the reasons,
    and `notes` the problems of the file."""

    SCHEMA = "microgpt.timeline/1"

    log: str
    watched: str
    config: Config
    plan: TrainingPlan
    runs: tuple[RunStart, ...]
    steps: tuple[int, ...]
    positions: tuple[PositionCurve, ...]
    attention: tuple[AttentionCurve, ...]
    layers: tuple[LayerUnits, ...]
    events: tuple[EventCurve, ...]
    parameters: tuple[ParameterCurve, ...]
    failed_checks: tuple[FailedCheck, ...]
    loss: LossCurve
    absent: tuple[str, ...]
    notes: tuple[str, ...]
    _repr_html_ = in_notebook


def selected(timeline: Timeline, names: Sequence[str]) -> Timeline:
    """Return the timeline with only these events and parameters (names, globs, apr's stage names), or
    without names with the events of the overview and all parameters. Raises InputError if a name matches
    nothing."""
    logged = [event.name for event in timeline.events] + [row.name for row in timeline.parameters]
    if names and not logged:
        raise InputError(f"{timeline.log}: expected events, found none in the log")
    try:
        chosen = set(select_names(names, logged))
    except InputError as error:
        raise InputError(f"{timeline.log}: {error}") from error
    if not names:
        one_layer = replace(timeline.config, n_layer=1, n_head=1)  # a damaged log may name a million layers
        hidden = {spec.name for spec in event_specs(one_layer) if not spec.overview}
        chosen = {name for name in logged if _LAYER.sub("layer0.", name) not in hidden}
    events = tuple(event for event in timeline.events if event.name in chosen)
    parameters = tuple(row for row in timeline.parameters if row.name in chosen)
    return replace(timeline, events=events, parameters=parameters)
