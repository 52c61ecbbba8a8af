"""Rows of the reports of two surveys, in pairs with a distance, as plain data. Shows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import astuple
from typing import TypeVar

import numpy as np

from ..arrays.stats import NOT_FINITE, Array
from ..text.brief import frozen
from ..text.json_writing import in_document
from .predictions import SurveyedPart, SurveyedToken
from .report import SurveyedEvent, SurveyedHead, SurveyedLayer
from .state import Survey

FLAT = 1e-9  # a variance below this share of the mean square is what rounding leaves of sums in float64
Row = TypeVar("Row")


@frozen
class ChangedChannels:
    """The dead channels, or the outliers, that B has and A has not, and those that A alone has."""

    appeared: tuple[int, ...]
    vanished: tuple[int, ...]


@frozen
class EventPair:
    """An event in two surveys. `same` says that all that both know of it is the same, bit for bit.

    `rms_change` is ||rms_B - rms_A|| / ||rms_A|| over channels and `mean_change` ||mean_B - mean_A|| /
    ||rms_A||; None where no channel has a value on both sides. The distance is the larger of the two, and
    infinite where one side has more finite values than the other.

    `kl` is KL(A || B) in nats of normal distributions with each channel's mean and variance over the corpus:
    the mean over the channels that vary on both sides. `largest_kl` is that of `channel`, the farthest one.
    `one_sided` channels vary on one side alone, where the divergence is infinite.
    """

    a: SurveyedEvent
    b: SurveyedEvent
    distance: float
    same: bool
    mean_change: float | None
    rms_change: float | None
    kl: float | None
    largest_kl: float | None
    channel: int | None
    one_sided: int
    dead: ChangedChannels
    outliers: ChangedChannels

    @property
    def name(self) -> str:
        return self.a.name


@frozen
class LayerPair:
    """A layer in two surveys. `kl` and `rms_change` are those of the stream that leaves it, and `kl_before`
    that of the stream that enters. `farthest` is the event within the layer whose KL is largest. The distance
    is the larger one of the relative change of growth and the change of cosine."""

    a: SurveyedLayer
    b: SurveyedLayer
    distance: float
    kl_before: float | None
    kl: float | None
    rms_change: float | None
    farthest: str | None
    farthest_kl: float | None

    @property
    def name(self) -> str:
        return f"layer{self.a.layer}"

    @property
    @in_document
    def added(self) -> float | None:
        """How much larger the KL is of the stream that leaves than of the one that enters."""
        return _difference(self.kl_before, self.kl)


@frozen
class HeadPair:
    """A head in two surveys. The distance is the largest change of a share of attention, or of the entropy as
    a share of the entropy that attention spread evenly has."""

    a: SurveyedHead
    b: SurveyedHead
    distance: float

    @property
    def name(self) -> str:
        return f"layer{self.a.layer} head {self.a.head}"


@frozen
class TokenPair:
    """A token that follows as often on both sides, and how many nats B loses more on it in all."""

    a: SurveyedToken
    b: SurveyedToken
    lost: float


@frozen(slots=False)
class PartPair:
    """The predictions of one part of a corpus in two surveys.

    `perplexity_ratio` is e to the difference of the mean losses by token. `difference` is that of the means
    by text, and `error` the standard error that it would have if the texts of the two sides were unrelated:
    they are the same, but surveys keep no pairs. The distance is the relative change of the loss, and
    infinite where other tokens have one.
    """

    a: SurveyedPart
    b: SurveyedPart
    distance: float
    perplexity_ratio: float | None
    difference: float | None
    error: float | None

    @property
    def name(self) -> str:
        return self.a.part or "all texts"

    @property
    def tokens(self) -> list[TokenPair]:
        """The tokens that follow as often on both sides, those on which B loses most first."""
        pairs = paired(self.a.by_token, self.b.by_token, lambda token: (token.token, token.count))
        found = [TokenPair(a, b, a.count * (b.loss - a.loss)) for a, b in pairs]
        return sorted(found, key=lambda pair: (-pair.lost, pair.a.token))


def paired(a: Iterable[Row], b: Iterable[Row], key: Callable[[Row], Hashable]) -> list[tuple[Row, Row]]:
    """The rows of two lists that have one key, in the order of A."""
    of_b = {key(row): row for row in b}
    return [(row, of_b[key(row)]) for row in a if key(row) in of_b]


def event_pair(one: SurveyedEvent, two: SurveyedEvent, a: Survey, b: Survey, same: bool) -> EventPair:
    own_a, own_b = a.channels(one.name), b.channels(one.name)
    known = (own_a.count > 0) & (own_b.count > 0)
    mean_change = rms_change = None
    if known.any():
        rms = own_a.rms[known]
        mean_change = relative_distance(own_a.mean[known], own_b.mean[known], rms)
        rms_change = relative_distance(rms, own_b.rms[known], rms)
    alike = (one.count, one.nonfinite) == (two.count, two.nonfinite)
    distance = max(mean_change or 0.0, rms_change or 0.0) if alike else math.inf
    vary_a, vary_b = (own.variance > FLAT * own.mean_square for own in (own_a, own_b))
    both = np.flatnonzero(vary_a & vary_b)
    kl = normal_divergence(own_a.mean[both], own_a.variance[both], own_b.mean[both], own_b.variance[both])
    return EventPair(
        one, two, distance, same, mean_change, rms_change,
        math.fsum(kl.tolist()) / len(kl) if kl.size else None, float(kl.max()) if kl.size else None,
        int(both[kl.argmax()]) if kl.size else None, int(np.count_nonzero(vary_a != vary_b)),
        _changed(own_a.dead, own_b.dead, known), _changed(own_a.outliers, own_b.outliers, known),
    )  # fmt: skip


@NOT_FINITE
def relative_distance(a: Array, b: Array, scale: Array) -> float:
    """||b - a|| / ||scale||, over channels: [C] each. 0 where nothing differs, be the scale 0 or not."""
    differs, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(scale))
    if not differs:
        return 0.0
    return differs / size if size else math.inf


@NOT_FINITE
def normal_divergence(mean_a: Array, variance_a: Array, mean_b: Array, variance_b: Array) -> Array:
    """KL(N_a || N_b) in nats of the normal distributions with these means and variances: [C] each, [C].

    log(s_b / s_a) + (s_a^2 + (m_a - m_b)^2) / 2 s_b^2 - 1/2; variances must be above 0.
    """
    ratio = variance_a / variance_b
    return 0.5 * (ratio - 1 - np.log(ratio) + np.square(mean_a - mean_b) / variance_b)


def _changed(a: Array, b: Array, known: Array) -> ChangedChannels:
    """The channels, of those that both sides know, that are in one list alone."""
    of_a, of_b = ({*own[known[own]].tolist()} for own in (a, b))
    return ChangedChannels(tuple(sorted(of_b - of_a)), tuple(sorted(of_a - of_b)))


def layer_pair(
    a: SurveyedLayer, b: SurveyedLayer, entering: str | None, events: Mapping[str, EventPair]
) -> LayerPair:
    leaving, before = events[a.event], events.get(entering or "")
    within = [pair for pair in events.values() if pair.a.layer == a.layer and pair is not leaving]
    known = [pair for pair in within if pair.kl is not None]
    farthest = max(known, key=lambda pair: pair.kl or 0.0, default=None)
    distance = abs(_difference(a.cosine, b.cosine) or 0.0)
    if a.growth and b.growth:
        distance = max(distance, abs(b.growth / a.growth - 1))
    return LayerPair(
        a, b, distance, before.kl if before else None, leaving.kl, leaving.rms_change,
        farthest.a.name if farthest else None, farthest.kl if farthest else None,
    )  # fmt: skip


def head_pair(a: SurveyedHead, b: SurveyedHead) -> HeadPair:
    shares = zip(astuple(a.attention), astuple(b.attention), strict=True)
    changes = [abs(_difference(*pair) or 0.0) for pair in shares]
    even = max(a.even_entropy, b.even_entropy)
    return HeadPair(a, b, max([*changes, abs(b.entropy - a.entropy) / even if even else 0.0]))


def part_pair(a: SurveyedPart, b: SurveyedPart) -> PartPair:
    change = _difference(a.loss, b.loss)
    distance, ratio, error = 0.0, None, None
    if change is not None:
        distance = abs(change) / a.loss if a.loss else math.inf if change else 0.0
        ratio = math.exp(change) if change < math.log(1e300) else math.inf
    if (a.documents, a.tokens) != (b.documents, b.tokens):
        distance = math.inf
    if a.spread is not None and b.spread is not None:
        error = math.hypot(a.spread / math.sqrt(a.documents), b.spread / math.sqrt(b.documents))
    return PartPair(a, b, distance, ratio, _difference(a.document_loss, b.document_loss), error)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a
