"""What a run says of itself: checks, insights and anomalies, as plain data. Knows no rule that finds them."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from ..text.brief import frozen

FEWEST_TOKENS = 4  # below, what one token draws (massive activations) rules the medians
TOO_FEW = f"fewer than {FEWEST_TOKENS} positions are without massive activations"


@frozen
class Check:
    """An invariant and how far the run strayed from it.

    `holds` is None where it could not be checked; `detail` says why, or where it was farthest off.
    """

    id: str
    claim: str
    holds: bool | None
    deviation: float | None
    tolerance: float
    detail: str = ""


@frozen
class Insight:
    """A predicate and its outcome: `holds` is None where it could not be evaluated. `about` names the event
    to look at, where there is one."""

    id: str
    title: str
    holds: bool | None
    text: str
    numbers: dict[str, float | None] = field(default_factory=dict)
    about: str = ""


Numbers = dict[str, float | None]
Found = tuple[bool | None, str, Numbers]  # whether a predicate holds, in words, and by which numbers


def unknown(reason: str) -> Found:
    """What is found where a predicate could not be evaluated."""
    return None, f"Not evaluated: {reason}.", {}


@frozen
class Anomaly:
    """A rule and its outcome: `found` is None where it could not be evaluated, `detail` says why.

    `seen` says what it looked at, `unseen` what it left out and why; `layer` is that of the worst.
    """

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
