"""An attribution as plain data: parts, sums, roles. Knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..arrays.logits import LogitDifference
from ..measuring.definitions import Attention, RoleName
from ..notebook import in_notebook
from ..text.brief import frozen, one_line
from ..text.json_writing import in_document

Kind = Literal["embedding", "head", "mlp", "bias", "hook"]


def size(value: float | None) -> float:
    """A magnitude to sort by: what is not a number comes before all, what there is none of after."""
    return -1.0 if value is None else abs(value) if value == value else math.inf


@frozen
class Contribution:
    """What one component writes towards two logits, and the change of the loss without it.

    `name` is that of its event, of a bias that of the parameter. A part of kind "hook" is what a hook
    added to that event; nobody removes it, so it has no `loss_change`.
    """

    name: str
    kind: Kind
    layer: int | None
    target: float
    against: float
    difference: float  # target - against
    loss_change: float | None


@dataclass(frozen=True, slots=True)
class LogitSum:
    """A logit as traced beside the sum of its parts.

    `deviation` is their distance over `magnitude`, the sum of the parts' magnitudes; `holds` is None
    where a number is not finite.
    """

    p: float
    logit: float
    total: float
    magnitude: float
    deviation: float
    tolerance: float
    holds: bool | None


@frozen
class PositionAttribution:
    """The parts of one prediction, in order of computation; `loss` is -log P(target)."""

    contrast: LogitDifference
    loss: float
    target: LogitSum
    against: LogitSum
    parts: tuple[Contribution, ...]

    def by_difference(self) -> list[Contribution]:
        """The parts, the largest difference first (what is not finite before all)."""
        return sorted(self.parts, key=lambda part: size(part.difference), reverse=True)


@frozen
class Removal:
    """How the mean loss over the asked positions changes without a part."""

    name: str
    kind: Kind
    layer: int | None
    loss_change: float


@frozen
class Look:
    """The position that an explained position looks at most, and the share of attention that it gives it."""

    position: int
    most_at: int
    share: float


@frozen
class HeadRole:
    """What a head looks at, beside uniform attention over all that it can see; `role` is what stands out, and
    `looks` tells of each explained position by itself."""

    name: str
    layer: int
    head: int
    window: int | None
    attention: Attention
    uniform: Attention
    role: RoleName
    looks: tuple[Look, ...]


@dataclass(frozen=True, slots=True, repr=False)
class AttributionResult:
    """The attribution of a text's predictions, with the roles that its heads have over it.

    `mean_loss` and `removals` are over the positions asked for; without ablation there are no removals.
    `roles` are empty for a single token, which has nothing to look back at.
    """

    SCHEMA = "microgpt.attribution/1"

    model: str
    family: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    ablation: bool
    mean_loss: float
    positions: tuple[PositionAttribution, ...]
    removals: tuple[Removal, ...]
    roles: tuple[HeadRole, ...]

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"model": self.model, "text": self.text, "positions": len(self.positions)}
        return one_line(self, **about, mean_loss=self.mean_loss, ok=self.ok)

    @property
    @in_document
    def ok(self) -> bool:
        """Every sum of parts is its logit; one that is not finite is not."""
        return all(s.holds is True for p in self.positions for s in (p.target, p.against))
