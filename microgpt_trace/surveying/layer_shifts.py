"""How layers and heads differ between two surveys, as plain data. Shows nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple

from ..attribution.results import Attention, RoleName
from ..text.brief import frozen
from ..text.document_fields import in_document
from .channel_shifts import EventShift
from .state import Survey
from .summary import SurveyedHead, SurveyedLayer, surveyed_heads, surveyed_layers


@frozen
class LayerShift:
    """A layer in two surveys. `event` is the stream that leaves it; `kl` is the mean of its KL(A || B) over
    channels, in nats, and `rms_change` as EventShift has it; `kl_before` and `rms_before` are those of the
    stream that enters. `farthest` is the event within the layer whose mean KL is largest.

    Growth, cosine and the numbers of documents with massive activations are those of SurveyedLayer. Each is
    None where one of the surveys has not measured it.
    """

    layer: int
    event: str | None
    kl_before: float | None
    kl: float | None
    rms_before: float | None
    rms_change: float | None
    farthest: str | None
    farthest_kl: float | None
    farthest_rms_change: float | None
    growth_a: float | None
    growth_b: float | None
    cosine_a: float | None
    cosine_b: float | None
    massive_a: int | None
    massive_b: int | None

    @property
    @in_document
    def added(self) -> float | None:
        """How much larger KL is of the stream that leaves than of the one that enters."""
        return None if self.kl is None or self.kl_before is None else self.kl - self.kl_before

    @property
    def rms_added(self) -> float | None:
        """The same of the change of RMS."""
        known = self.rms_change is not None and self.rms_before is not None
        return (self.rms_change or 0.0) - (self.rms_before or 0.0) if known else None

    @property
    def distance(self) -> float:
        """What is held against a tolerance: how far apart growth, relatively, and cosine are."""
        found = 0.0
        if self.growth_a and self.growth_b:
            found = abs(self.growth_b / self.growth_a - 1)
        if self.cosine_a is not None and self.cosine_b is not None:
            found = max(found, abs(self.cosine_b - self.cosine_a))
        return found


@frozen
class HeadShift:
    """A head in two surveys: its roles, mean entropies in nats, and shares of attention. `change` is the
    largest difference of a share, or that of the entropies as a share of the one that attention spread evenly
    has."""

    layer: int
    head: int
    event: str
    role_a: RoleName
    role_b: RoleName
    entropy_a: float
    entropy_b: float
    attention_a: Attention
    attention_b: Attention
    change: float

    @property
    def distance(self) -> float:
        """What is held against a tolerance."""
        return self.change


def layer_shifts(a: Survey, b: Survey, events: Sequence[EventShift]) -> list[LayerShift]:
    """The layers of which events are compared."""
    of = {shift.name: shift for shift in events}
    surveyed = [{row.layer: row for row in surveyed_layers(survey)} for survey in (a, b)]
    found = []
    for layer in sorted({shift.layer for shift in events if shift.layer is not None}):
        entering, leaving = (_stream(a, b, at, of) for at in (layer, layer + 1))
        within = [shift for shift in events if shift.layer == layer and shift is not leaving]
        courses = [rows.get(layer) for rows in surveyed] if leaving else [None, None]
        found.append(_layer_shift(layer, entering, leaving, within, courses))
    return found


def _layer_shift(
    layer: int, entering: EventShift | None, leaving: EventShift | None, within: Sequence[EventShift],
    courses: Sequence[SurveyedLayer | None],
) -> LayerShift:  # fmt: skip
    kl, rms = (leaving.kl.mean, leaving.rms_change) if leaving else (None, None)
    kl_before, rms_before = (entering.kl.mean, entering.rms_change) if entering else (None, None)
    known = [shift for shift in within if shift.kl.mean is not None]
    farthest = max(known, key=lambda shift: shift.kl.mean or 0.0, default=None)
    one, two = courses if None not in courses else (None, None)
    return LayerShift(
        layer, leaving.name if leaving else None, kl_before, kl, rms_before, rms,
        farthest.name if farthest else None, farthest.kl.mean if farthest else None,
        farthest.rms_change if farthest else None,
        one.growth if one else None, two.growth if two else None, one.cosine if one else None,
        two.cosine if two else None, one.massive if one else None, two.massive if two else None,
    )  # fmt: skip


def _stream(a: Survey, b: Survey, at: int, of: dict[str, EventShift]) -> EventShift | None:
    """The stream that enters a layer of that number, where both models call it the same."""
    names = {survey.model.streams[at] if at < len(survey.model.streams) else None for survey in (a, b)}
    return of.get(next(iter(names)) or "") if len(names) == 1 else None


def entering_kl(a: Survey, b: Survey, events: Sequence[EventShift]) -> float | None:
    """KL of the stream that enters the first layer."""
    shift = _stream(a, b, 0, {event.name: event for event in events})
    return shift.kl.mean if shift else None


def head_shifts(a: Survey, b: Survey, events: Collection[str]) -> list[HeadShift]:
    """The heads of these events that both surveys measured."""
    of_b = {(head.event, head.head): head for head in surveyed_heads(b)}
    return [
        _head_shift(head, of_b[head.event, head.head])
        for head in surveyed_heads(a)
        if head.event in events and (head.event, head.head) in of_b
    ]


def _head_shift(a: SurveyedHead, b: SurveyedHead) -> HeadShift:
    pairs = zip(astuple(a.attention), astuple(b.attention), strict=True)
    changes = [abs(two - one) for one, two in pairs if one is not None and two is not None]
    even = max(a.even_entropy, b.even_entropy)
    change = max([*changes, abs(b.entropy - a.entropy) / even if even else 0.0])
    return HeadShift(
        a.layer, a.head, a.event, a.role, b.role, a.entropy, b.entropy, a.attention, b.attention, change
    )
