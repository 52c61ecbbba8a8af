"""The timeline of a training run, as plain data: curves over its traced steps.

A curve has one entry per traced step. An entry is None if the value is null in the log or missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError, naming
from ..hooks.names import select_names
from ..microgpt.forward_backward import event_specs
from ..microgpt.parameters import Config
from ..notebook import in_notebook
from ..text.frozen import frozen

_LAYER = re.compile(r"^layer[0-9]+\.")
Curve = tuple[float | None, ...]
Counts = tuple[int | None, ...]
HeadWeights = tuple[tuple[tuple[float, ...], ...], ...]  # indices: head, query, visible key


@frozen
class EventCurve:
    """An event in the traces of the watched name. `l2` is the L2 norm of its finite elements, `zeros` the
    share of its elements that are 0, `nonfinite` the number of elements that are not finite, and `gradient`
    the L2 norm of the gradient of the name's loss."""

    name: str
    l2: Curve
    zeros: Curve
    nonfinite: Counts
    gradient: Curve


@frozen
class ParameterCurve:
    """A parameter: its L2 norm after each traced step, the L2 norm of the gradient of the watched name's
    loss, the L2 norm of the update of the step, and |update| / |parameter before the step|. The curve of the
    update has no value at step 0."""

    name: str
    l2: Curve
    gradient: Curve
    update: Curve
    update_ratio: Curve


@frozen
class LikelyToken:
    label: str
    p: float


@frozen
class AttentionCurve:
    """The attention weights of all heads of a layer for the watched name, to 6 digits, as in the log."""

    name: str
    weights: tuple[HeadWeights | None, ...]


@frozen
class PositionCurve:
    """The predictions at one position of the watched name.

    From the traced step `learned` on, the target always has rank 1. From the traced step `halfway` on,
    P(target) stays above the mean of the first and the last P(target). `learned` and `halfway` are None if
    there is no such step. `top` has the most likely tokens with their P.
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


@frozen
class DeadUnit:
    """A ReLU unit that is zero at every position of every held-out name from the traced step `since` on."""

    unit: int
    since: int


@frozen
class ReturnedUnit:
    """A unit that is alive at the end but was dead from the traced step `died` until `returned`."""

    unit: int
    died: int
    returned: int


@frozen
class LayerUnits:
    """The ReLU units of a layer. `dead_count` counts dead units at each traced step, `dead` lists the units
    that are dead at the end, and `returned` lists the units that were dead but are alive at the end."""

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


@frozen
class RunStart:
    """The start of a run, or of its continuation. `step` is the last step before the start, and
    `held_out_loss` the loss after this step."""

    step: int
    held_out_loss: float | None


@frozen
class FailedCheck:
    step: int
    id: str
    detail: str


@frozen
class TrainingPlan:
    steps: int
    batch_size: int
    lr: float
    seed: int


@frozen
class Timeline:
    """The contents of a log. `absent` lists missing values with reasons, and `notes` problems of the file."""

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
    """Return the timeline with only the events and parameters that `names` selects: names, globs or apr's
    stage names. Without `names`, keep the overview's events and all parameters. Raises InputError if a name
    matches nothing."""
    logged = [event.name for event in timeline.events] + [row.name for row in timeline.parameters]
    if names and not logged:
        raise InputError(f"{timeline.log}: expected events, found none in the log")
    with naming(timeline.log):
        chosen = set(select_names(names, logged))
    if not names:
        one_layer = replace(timeline.config, n_layer=1, n_head=1)  # a damaged log may claim a million layers
        hidden = {spec.name for spec in event_specs(one_layer) if not spec.overview}
        chosen = {name for name in logged if _LAYER.sub("layer0.", name) not in hidden}
    events = tuple(event for event in timeline.events if event.name in chosen)
    parameters = tuple(row for row in timeline.parameters if row.name in chosen)
    return replace(timeline, events=events, parameters=parameters)
