"""How a model changed while it was trained, as plain data: curves over the traced steps of a run. Knows
no log file and no screen.

A curve has one entry per traced step: None where the log tells nothing, or says null.
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
HeadWeights = tuple[tuple[tuple[float, ...], ...], ...]  # by head, query, and key that it sees


@frozen
class EventCurve:
    """An event of the watched name's trace: the L2 norm of its finite elements, the share of elements that
    are zero, how many are not finite, and the L2 norm of the gradient of the name's loss."""

    name: str
    l2: Curve
    zeros: Curve
    nonfinite: Counts
    gradient: Curve


@frozen
class ParameterCurve:
    """A parameter after the step, the gradient there of the watched name's loss, the update that the step
    made, and |update| / |parameter before it|. There is no update at step 0."""

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
    """The attention weights of a layer over the watched name, of every head, as logged: in 6 digits."""

    name: str
    weights: tuple[HeadWeights | None, ...]


@frozen
class PositionCurve:
    """What is predicted at one position of the watched name.

    `learned` is the first traced step from which on the target is the first choice (rank 1) to the end,
    `halfway` that from which on P(target) stays above half the way from its first to its last value. Each
    is None where there is no such step; `halfway` also where P is no higher in the end. `top` are the most
    probable tokens with their P.
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
    """A unit that is alive in the end but was dead before: last from one traced step until another."""

    unit: int
    died: int
    returned: int


@frozen
class LayerUnits:
    """The ReLU units of a layer: how many were dead at each traced step, which still are, which returned."""

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
    """Where a run began or went on: after which step, and the mean loss over held-out names there."""

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
    """Everything a log tells, by traced step. `absent` says what it does not tell and why, `notes` what
    is odd about the file."""

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
    """The timeline of these events and parameters (names, globs, apr's stage names); of the overview's
    events and all parameters without any. Raises InputError where one matches nothing."""
    known = [event.name for event in timeline.events] + [row.name for row in timeline.parameters]
    if names and not known:
        raise InputError(f"{timeline.log}: tells of no event")
    try:
        chosen = set(select_names(names, known))
    except InputError as error:
        raise InputError(f"{timeline.log}: {error}") from error
    if not names:
        one_layer = replace(timeline.config, n_layer=1, n_head=1)  # a log may speak of a million
        hidden = {spec.name for spec in event_specs(one_layer) if not spec.overview}
        chosen = {name for name in known if _LAYER.sub("layer0.", name) not in hidden}
    return replace(
        timeline,
        events=tuple(event for event in timeline.events if event.name in chosen),
        parameters=tuple(row for row in timeline.parameters if row.name in chosen),
    )
