"""SurveyReport: the results of a survey as plain data. The JSON document of a survey has the same content."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul

import numpy as np

from ..arrays.stats import Array
from ..grouping import grouped
from ..measuring.channels import ChannelStatistics, quantiles
from ..measuring.definitions import MASSIVE
from ..measuring.expert_choices import entropy
from ..measuring.streams import STREAMS
from ..plans.plan import layer_of
from ..text.frozen import frozen
from ..text.printable import shown_token
from ..text.wording import counted, fixed, value_and_limit
from ..tracing.anomalies import FAR, GROWTH, TURN, can_vary, constant, nonfinite, odd_layer, too_few_layers
from ..tracing.findings import Anomaly, Insight
from ..tracing.layer_insights import TITLES, growth, sinks, turn
from .report_heads import HeadLooks, SurveyedHead, looks_of, surveyed_heads
from .state import Survey, SurveyExample
from .surveyed_predictions import Overfitting, SurveyedPart, overfitting, surveyed_parts

NORM = "the norm of a row, relative to layer 0 (geometric mean),"
MOST_CHANNELS = 10  # largest number of channels of an event that a report names
LONG_TEXTS = 16  # in texts of fewer tokens, the massive activations of position 0 dominate means


@frozen
class OutlierChannel:
    """A channel whose RMS is many times the median RMS of its event's channels."""

    channel: int
    rms: float
    times_median: float


@frozen
class SurveyedEvent:
    """The statistics of an event over all channels, positions and documents.

    `count` is the number of finite values, and `zeros` is the share of finite values that are 0. `dead` lists
    the first dead channels (always 0) or dead units of an MLP (always within ±0.01). `outliers` lists the
    first channels whose RMS is at least 6 times the median RMS. `quantiles` has quantiles of the magnitudes,
    or is None if the magnitudes were not counted.
    """

    name: str
    kind: str
    layer: int | None
    channels: int
    count: int
    nonfinite: int
    mean: float | None
    std: float | None
    rms: float | None
    least: float | None
    largest: float | None
    zeros: float | None
    dead_count: int
    dead: tuple[int, ...]
    outlier_count: int
    outliers: tuple[OutlierChannel, ...]
    quantiles: dict[str, float] | None


@frozen
class SurveyedLayer:
    """The effect of a layer on all rows of the residual stream.

    The layer multiplies the norm of a row by `growth` (a geometric mean). `cosine` is the mean cosine between
    the rows before and after the layer. `massive` counts documents with a massive activation, which is an
    element of at least 1,000 times the median magnitude of its document. `farthest` is the element with the
    largest ratio of magnitude to median magnitude.
    """

    layer: int
    event: str
    rows: int
    growth: float | None
    cosine: float | None
    documents: int
    massive: int
    farthest: SurveyExample | None

    @property
    def massive_share(self) -> float | None:
        """The share of documents with a massive activation, or None without documents."""
        return self.massive / self.documents if self.documents else None


@frozen
class SurveyedRouter:
    """The choices of experts in a layer. The event `event` has the logits of the router, and the router's
    probabilities are their softmax over all experts.

    For each expert, `load` counts the tokens that chose the expert, `shares` has the expert's share of all
    choices, and `routing` has the mean probability. `never` lists the experts that no token chose. Entropies
    are in bits: `load_entropy` of the shares, `routing_entropy` of the mean probabilities, and
    `token_entropy` of the probabilities for one token, as a mean. Equal shares have `most_entropy`.
    """

    layer: int
    event: str
    tokens: int
    load: tuple[int, ...]
    shares: tuple[float, ...]
    routing: tuple[float, ...]
    never: tuple[int, ...]
    load_entropy: float
    routing_entropy: float
    token_entropy: float
    most_entropy: float


@frozen
class UnitExamples:
    """The places of a corpus where a unit of an MLP is most active."""

    event: str
    unit: int
    examples: tuple[SurveyExample, ...]


@frozen
class LeftOut:
    """A count of rows or texts that were skipped or cut for one reason, and the place of the first case."""

    reason: str
    count: int
    first: str


@frozen(slots=False)
class SurveyReport:
    """The results of a survey. `texts` and `tokens` count the texts and tokens that the model has run.
    `whole` is True if the model has run all documents of the corpus. `documents` is None until the corpus was
    read to its end. `looks` is empty if an older version of this program surveyed a part of the corpus."""

    SCHEMA = "microgpt.survey/1"

    whole: bool
    model: str
    family: str
    fingerprint: str
    sources: tuple[str, ...]
    documents: int | None
    corpus_fingerprint: str | None
    texts: int
    tokens: int
    arithmetic: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    parts: tuple[SurveyedPart, ...]
    overfitting: Overfitting | None
    layers: tuple[SurveyedLayer, ...]
    heads: tuple[SurveyedHead, ...]
    looks: tuple[HeadLooks, ...]
    routers: tuple[SurveyedRouter, ...]
    insights: tuple[Insight, ...]
    anomalies: tuple[Anomaly, ...]
    events: tuple[SurveyedEvent, ...]
    units: tuple[UnitExamples, ...]


def report_of(survey: Survey) -> SurveyReport:
    texts, tokens = survey.read
    parts, layers, heads = surveyed_parts(survey), [*surveyed_layers(survey)], [*surveyed_heads(survey)]
    events = [_event(survey, name, survey.channels(name)) for name in survey.order.events]
    model, corpus = survey.model, survey.corpus
    left_out = [LeftOut(reason, *skipped) for reason, skipped in corpus.skipped.items()]
    left_out += [LeftOut(reason, own.texts, own.place) for reason, own in sorted(survey.unfit.items())]
    return SurveyReport(
        survey.whole, model.origin, model.family, model.fingerprint, corpus.sources, corpus.documents,
        corpus.fingerprint, texts, tokens, survey.arithmetic, tuple(left_out), tuple(parts),
        overfitting(survey, parts), tuple(layers), tuple(heads), tuple(looks_of(survey, heads)),
        tuple(surveyed_routers(survey)), tuple(insights_of(layers, heads)),
        tuple(anomalies_of(events, layers)), tuple(events), tuple(unit_examples(survey)),
    )  # fmt: skip


def _event(survey: Survey, name: str, own: ChannelStatistics) -> SurveyedEvent:
    count, bins = int(own.count.sum()), survey.tallies.get(f"{name}/magnitudes")
    mean = _weighted_mean(own.mean, own.count)
    square = _weighted_mean(own.mean_square, own.count)
    std = None if mean is None or square is None else math.sqrt(max(square - mean * mean, 0.0))
    most = max(map(abs, own.least.tolist() + own.largest.tolist()), default=0.0)
    finite = bool((np.isfinite(own.least) & np.isfinite(own.largest)).any())
    return SurveyedEvent(
        name, survey.model.kinds[name], layer_of(name), len(own.count), count, int(own.nonfinite.sum()),
        mean, std, None if square is None else math.sqrt(square),
        float(np.nanmin(own.least)) if finite else None, float(np.nanmax(own.largest)) if finite else None,
        own.zeros.sum() / count if count else None, len(own.dead),
        tuple(own.dead[:MOST_CHANNELS].tolist()), len(own.outliers),
        tuple(
            OutlierChannel(channel, float(own.rms[channel]), float(own.times_median[channel]))
            for channel in own.outliers[:MOST_CHANNELS].tolist()
        ),
        None if bins is None else {
            f"{100 * q:g}%": min(value, most) for q, value in quantiles(bins.values()).items()
        },
    )  # fmt: skip


def _weighted_mean(values: Array, count: Array) -> float | None:
    """Return the mean of the channels' values, weighted by their counts."""
    counted = count > 0
    total = int(count.sum())
    return math.fsum((values[counted] * count[counted]).tolist()) / total if total else None


def surveyed_layers(survey: Survey) -> Iterator[SurveyedLayer]:
    """Yield the effect of every layer, or nothing if the residual stream was not measured."""
    if f"{STREAMS}/rows" not in survey.tallies:
        return
    keys = ("rows", "growth", "cosine", "documents", "massive")
    sums = [survey.tallies[f"{STREAMS}/{key}"].values().tolist() for key in keys]
    top = survey.tallies[f"{STREAMS}/farthest"]
    for layer, (rows, logs, cosines, documents, massive) in enumerate(zip(*sums, strict=True)):
        mean_growth, cosine = (math.exp(logs / rows), cosines / rows) if rows else (None, None)
        farthest = next(iter(survey.corpus.examples(top, layer)), None)
        event = survey.model.streams[layer + 1]
        yield SurveyedLayer(layer, event, rows, mean_growth, cosine, documents, massive, farthest)


def surveyed_routers(survey: Survey) -> Iterator[SurveyedRouter]:
    """Yield the choices of every layer with experts whose router was measured."""
    for event in survey.order.events:
        routed = survey.tallies.get(f"{event}/routed")
        if routed is None or not (tokens := int(routed.values()[0])):
            continue
        load = survey.tallies[f"{event}/load"].values()
        routing = survey.tallies[f"{event}/routing"].values() / tokens
        total, layer = survey.tallies[f"{event}/routing_entropy"].values(), layer_of(event)
        assert layer is not None  # a router belongs to a layer
        shares = load / max(load.sum(), 1)
        yield SurveyedRouter(
            layer, event, tokens, tuple(load.tolist()), tuple(shares.tolist()), tuple(routing.tolist()),
            tuple((load == 0).nonzero()[0].tolist()), float(entropy(shares)), float(entropy(routing)),
            float(total[0]) / tokens, math.log2(len(load)),
        )  # fmt: skip


def unit_examples(survey: Survey) -> list[UnitExamples]:
    """Return the examples of every requested unit that was ever active."""
    tops = {event: survey.tallies[f"{event}/top"] for event in survey.order.units}
    return [
        UnitExamples(event, unit, examples)
        for event, top in tops.items()
        for unit in range(top.units)
        if (examples := survey.corpus.examples(top, unit))
    ]


# --- Insights, by the rules of a trace, over all texts ----------------------------------------


def insights_of(layers: Sequence[SurveyedLayer], heads: Sequence[SurveyedHead]) -> Iterator[Insight]:
    """Yield the insights that the measured layers and heads support."""
    measured = bool(layers) and all(row.growth and row.cosine is not None for row in layers)
    if measured:
        norms = accumulate([1.0, *(row.growth or 1.0 for row in layers[1:])], mul)
        yield Insight("growth", TITLES["growth"], *growth([*norms], NORM), layers[-1].event)
        yield _massive(layers)
    if heads:
        yield _sinks(heads)
    if measured:
        stillest = max(layers, key=lambda row: row.cosine or 0.0)
        cosines = {row.layer: row.cosine or 0.0 for row in layers}
        yield Insight("turn", TITLES["turn"], *turn(cosines, "mean cosine"), stillest.event)


def _massive(layers: Sequence[SurveyedLayer]) -> Insight:
    title, examples = "Massive activations", [(row, row.farthest) for row in layers if row.farthest]
    if not examples:
        return Insight("massive", title, None, "Not evaluated: the median magnitude is 0.")
    top, far = max(examples, key=lambda pair: pair[1].value)
    massive = [row for row in layers if row.massive]
    ratio, limit = value_and_limit(far.value, MASSIVE, fixed, 0 if far.value >= 100 else 1)
    largest = (
        f"The largest element is {ratio} times the median magnitude of the elements of its text. This "
        f"element is in channel {far.channel} after layer {top.layer}, and its token is "
        f"{shown_token(far.token)} (position {far.position} of {far.place})."
    )
    numbers: dict[str, float | None] = {"times_median": far.value, "layers": float(len(massive))}
    if not massive:
        text = f"No element is massive (at least {limit} times the median magnitude). {largest}"
        return Insight("massive", title, False, text, numbers, top.event)
    most = max(massive, key=lambda row: row.massive / row.documents)
    text = (
        f"Some texts have an element of at least {limit} times the median magnitude, after {len(massive)} of "
        f"{counted(len(layers), 'layer')}. Such texts are most frequent after layer {most.layer} "
        f"({most.massive / most.documents:.0%} of the texts). {largest}"
    )
    return Insight("massive", title, True, text, numbers, top.event)


def _sinks(heads: Sequence[SurveyedHead]) -> Insight:
    """Judge attention sinks by the mean share of position 0 over the heads of each layer without window."""
    by_layer = grouped((head for head in heads if head.window is None), lambda head: head.layer)
    shares = {layer: math.fsum(h.attention.first for h in own) / len(own) for layer, own in by_layer.items()}
    even = next((head.even.first for own in by_layer.values() for head in own), 0.0)
    top = by_layer[max(shares, key=lambda layer: shares[layer])][0].event if shares else heads[0].event
    windowed = any(head.window is not None for head in heads)
    return Insight("sinks", TITLES["sinks"], *sinks(shares, even, windowed, "no head was measured"), top)


# --- Anomalies, by the rules of a trace --------------------------------------------------------


def anomalies_of(events: Sequence[SurveyedEvent], layers: Sequence[SurveyedLayer]) -> Iterator[Anomaly]:
    """Evaluate the anomaly rules that need only statistics. Each layer's numbers are means over all texts."""
    if events:
        yield nonfinite([(event.name, event.nonfinite) for event in events], len(events))
        several = [event for event in events if event.count > 1 and can_vary(event.name, event.channels)]
        yield constant([event.name for event in several if event.least == event.largest], len(several))
    if not layers:
        return
    rows, texts = layers[0].rows, layers[0].documents
    growths = [row.growth for row in layers[1:] if row.growth is not None]
    turns = [1 + row.cosine for row in layers if row.cosine is not None]
    reason = too_few_layers(len(layers))
    if not reason and rows < LONG_TEXTS * texts:
        reason = f"needs {LONG_TEXTS} tokens per text on average, found {rows / texts:.1f}"
    if not reason and (len(growths), len(turns)) != (len(layers) - 1, len(layers)):
        reason = "in every text, the residual stream of a layer is zero or not finite"
    where = f", the mean of {rows:,} rows of {texts:,} texts"
    for rule, values in ((GROWTH, growths), (TURN, turns)):
        if reason:
            yield Anomaly(rule.id, rule.title, None, None, FAR, "other layers", reason)
        else:
            yield odd_layer(rule, values, len(layers), where)
