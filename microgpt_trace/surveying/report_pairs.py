"""Pair the rows of two survey reports and measure the distance of each pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import astuple
from typing import TypeVar

import numpy as np

from ..arrays.stats import NOT_FINITE, Array
from ..text.frozen import frozen
from ..text.json_writing import in_document
from .predictions import SurveyedPart, SurveyedToken
from .report import SurveyedEvent, SurveyedLayer
from .report_heads import SurveyedHead
from .state import Survey

FLAT = 1e-9  # a smaller ratio of variance to mean square may be a rounding error of float64 sums
Row = TypeVar("Row")


@frozen
class ChangedChannels:
    """The changes between two lists of dead or outlier channels. `appeared` has the channels only in B's
    list, and `vanished` the channels only in A's list."""

    appeared: tuple[int, ...]
    vanished: tuple[int, ...]


@frozen
class EventPair:
    """An event that is in two surveys, and the event's changes from survey A to survey B. `same` is True if
    all tallies that are in both surveys are equal, bit for bit.

    `rms_change` is ||rms_B - rms_A|| / ||rms_A|| over channels, and `mean_change` is ||mean_B - mean_A|| /
    ||rms_A||. `rms_change` and `mean_change` are None if no channel has finite values in both surveys.
    `distance` is the larger of both changes, or infinite if A and B differ in the number of finite or
    non-finite values.

    The divergence of a channel is KL(A || B) in nats between normal distributions with the means and
    variances of the channel. `kl` is the mean divergence over the channels that vary in both surveys.
    `channel` is the channel with the largest divergence, `largest_kl`. `one_sided` counts the channels that
    vary in only one survey and therefore have infinite divergence.
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
    """A layer in two surveys.

    `kl` and `rms_change` compare the residual stream after the layer, and `kl_before` compares the residual
    stream before the layer. `farthest` is the event with the largest KL within the layer. `distance` is the
    larger of the relative change of `growth` and the change of `cosine`.
    """

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
        """The KL after the layer minus the KL before the layer."""
        return _difference(self.kl_before, self.kl)


@frozen
class HeadPair:
    """An attention head in two surveys. `distance` is the largest change of a share of attention or of the
    relative entropy, which is the entropy divided by the entropy of uniform attention."""

    a: SurveyedHead
    b: SurveyedHead
    distance: float

    @property
    def name(self) -> str:
        return f"layer{self.a.layer} head {self.a.head}"


@frozen
class TokenPair:
    """A token that is the next token equally often in both surveys. `lost` is the token's loss in B minus the
    token's loss in A, in nats, summed over all places."""

    a: SurveyedToken
    b: SurveyedToken
    lost: float


@frozen(slots=False)
class PartPair:
    """The predictions of one part of a corpus in two surveys.

    `perplexity_ratio` is the perplexity of B divided by the perplexity of A. `difference` is the mean loss
    per text in B minus the mean loss per text in A. `error` is the standard error of `difference`. The losses
    in A and B are treated as independent, because a survey does not store the loss of each text. `distance`
    is the relative change of the loss, or infinite if the numbers of documents or tokens differ.
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
        """The tokens that are the next token equally often in both surveys, largest `lost` first."""
        pairs = paired(self.a.by_token, self.b.by_token, lambda token: (token.token, token.count))
        tokens = [TokenPair(a, b, a.count * (b.loss - a.loss)) for a, b in pairs]
        return sorted(tokens, key=lambda pair: (-pair.lost, pair.a.token))


def paired(a: Iterable[Row], b: Iterable[Row], key: Callable[[Row], Hashable]) -> list[tuple[Row, Row]]:
    """Pair the rows of two lists by equal keys, in the order of `a`."""
    by_key = {key(row): row for row in b}
    return [(row, by_key[key(row)]) for row in a if key(row) in by_key]


def event_pair(one: SurveyedEvent, two: SurveyedEvent, a: Survey, b: Survey, same: bool) -> EventPair:
    own_a, own_b = a.channels(one.name), b.channels(one.name)
    counted = (own_a.count > 0) & (own_b.count > 0)
    mean_change = rms_change = None
    if counted.any():
        rms = own_a.rms[counted]
        mean_change = relative_distance(own_a.mean[counted], own_b.mean[counted], rms)
        rms_change = relative_distance(rms, own_b.rms[counted], rms)
    comparable = (one.count, one.nonfinite) == (two.count, two.nonfinite)
    distance = max(mean_change or 0.0, rms_change or 0.0) if comparable else math.inf
    vary_a, vary_b = (own.variance > FLAT * own.mean_square for own in (own_a, own_b))
    both = np.flatnonzero(vary_a & vary_b)
    kl = normal_divergence(own_a.mean[both], own_a.variance[both], own_b.mean[both], own_b.variance[both])
    return EventPair(
        one, two, distance, same, mean_change, rms_change,
        math.fsum(kl.tolist()) / len(kl) if kl.size else None, float(kl.max()) if kl.size else None,
        int(both[kl.argmax()]) if kl.size else None, int(np.count_nonzero(vary_a != vary_b)),
        _changed(own_a.dead, own_b.dead, counted), _changed(own_a.outliers, own_b.outliers, counted),
    )  # fmt: skip


@NOT_FINITE
def relative_distance(a: Array, b: Array, scale: Array) -> float:
    """Return ||b - a|| / ||scale||, or 0 if a and b are equal: [C] each -> one number."""
    difference, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(scale))
    return 0.0 if not difference else difference / size if size else math.inf


@NOT_FINITE
def normal_divergence(mean_a: Array, variance_a: Array, mean_b: Array, variance_b: Array) -> Array:
    """Return KL(N_a || N_b) in nats, where N_a and N_b are normal distributions: [C] each -> [C]. log(s_b /
    s_a) + (s_a^2 + (m_a - m_b)^2) / 2 s_b^2 - 1/2. Variances must be above 0."""
    ratio = variance_a / variance_b
    return 0.5 * (ratio - 1 - np.log(ratio) + np.square(mean_a - mean_b) / variance_b)


def _changed(a: Array, b: Array, counted: Array) -> ChangedChannels:
    """Return the channels that only one of `a` and `b` lists, among those with values in both surveys."""
    in_a, in_b = ({*channels[counted[channels]].tolist()} for channels in (a, b))
    return ChangedChannels(tuple(sorted(in_b - in_a)), tuple(sorted(in_a - in_b)))


def layer_pair(
    a: SurveyedLayer, b: SurveyedLayer, entering: str, events: Mapping[str, EventPair]
) -> LayerPair:
    """Pair a layer. `entering` is the event of the residual stream before it, or "" if A and B differ."""
    leaving, before = events[a.event], events.get(entering)
    inside = (pair for pair in events.values() if pair.a.layer == a.layer and pair is not leaving)
    compared = (pair for pair in inside if pair.kl is not None)
    farthest = max(compared, key=lambda pair: pair.kl or 0.0, default=None)
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
