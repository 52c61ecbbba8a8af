"""The findings of a run as plain data: checks, insights, anomalies and the gradients of further targets.
Other modules compute findings."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from ..hooks.event import TraceEvent
from ..models.language_model import Scalar
from ..text.frozen import frozen

FEWEST_TOKENS = 4  # with fewer positions, the massive activations of a single token decide a median
TOO_FEW = f"fewer than {FEWEST_TOKENS} positions are without massive activations"


@frozen
class Check:
    """An invariant, and the run's largest deviation from this invariant. `detail` names the place of the
    largest deviation. If the check was impossible, `holds` is None, and `detail` gives the reason."""

    id: str
    claim: str
    holds: bool | None
    deviation: float | None
    tolerance: float
    detail: str = ""


def agreement_check(detail: str, allowed: float, deviation: float | None = None) -> Check:
    """Return the check of a gradient. If the gradient was not checked, `detail` is the reason."""
    holds = None if deviation is None else deviation <= allowed
    return Check("gradient", "gradients agree with finite differences", holds, deviation, allowed, detail)


@frozen
class Insight:
    """A predicate, and its outcome in one run. `holds` is None if the predicate was not evaluated. `about`
    names the event that shows the insight."""

    id: str
    title: str
    holds: bool | None
    text: str
    numbers: dict[str, float | None] = field(default_factory=dict)
    about: str = ""


Numbers = dict[str, float | None]
Outcome = tuple[bool | None, str, Numbers]  # whether a predicate holds, a sentence about it, and its numbers


def unknown(reason: str) -> Outcome:
    """Return the outcome of a predicate that could not be evaluated."""
    return None, f"Not evaluated: {reason}.", {}


@frozen
class Anomaly:
    """An anomaly rule, and its outcome in one run. `detail` names the worst place, and `layer` is the layer
    of this place. If the rule was not evaluated, `found` is None, and `detail` gives the reason. `seen`
    describes the judged values, and `unseen` describes the values that were left out."""

    id: str
    title: str
    found: bool | None
    value: float | None
    threshold: float | None
    source: Literal["invariant", "other layers"]
    detail: str = ""
    seen: str = ""
    unseen: str = ""
    layer: int | None = None


@frozen
class TargetGradients:
    """The gradients of one scalar with respect to the events of a trace."""

    scalar: Scalar
    events: tuple[TraceEvent, ...]
