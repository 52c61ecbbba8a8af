"""The timeline of a training run, as plain data: curves over its traced steps.

A curve has one entry per traced step. An entry is None if the value is null in the log or missing.
"""

from __future__ import annotations

from ..microgpt.parameters import Config
from ..notebook import in_notebook
from ..text.frozen import frozen

Curve = tuple[float | None, ...]
Counts = tuple[int | None, ...]
HeadWeights = tuple[tuple[tuple[float, ...], ...], ...]  # indices: head, query, visible key


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

    SCHEMA = "microgpt.timeline/2"

    log: str
    watched: str
    config: Config
    plan: TrainingPlan
    runs: tuple[RunStart, ...]
    steps: tuple[int, ...]
    positions: tuple[PositionCurve, ...]
    attention: tuple[AttentionCurve, ...]
    layers: tuple[LayerUnits, ...]
    failed_checks: tuple[FailedCheck, ...]
    loss: LossCurve
    absent: tuple[str, ...]
    notes: tuple[str, ...]
    _repr_html_ = in_notebook
