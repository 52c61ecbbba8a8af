"""SurveyReport: all that a survey found, as plain data, and its document. Shows nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np

from ..architecture.plans.plan import layer_of
from ..arrays.stats import Array
from ..grouping import grouped
from ..measuring.channels import ChannelStatistics, quantiles
from ..measuring.definitions import MASSIVE, Attention, RoleName, role_of
from ..measuring.heads import COUNTS, EVENLY, SUMS, mean_shares
from ..measuring.streams import STREAMS
from ..text.brief import frozen
from ..text.printable import shown_token
from ..text.wording import counted, fixed, told_apart
from ..tracing.anomalies import FAR, GROWTH, TURN, constant, nonfinite, odd_layer, too_few_layers
from ..tracing.decoder_insights import TITLES, growth, sinks, turn
from ..tracing.findings import Anomaly, Insight
from .predictions import Overfitting, SurveyedPart, overfitting, surveyed_parts
from .state import Survey, SurveyExample

NORM = "the norm of a row, as a multiple of that after layer 0 and in the geometric mean,"
MOST_CHANNELS = 10  # of an event that are named
LONG_TEXTS = 16  # tokens on average: the massive activations of position 0 rule the means of shorter texts


@frozen
class OutlierChannel:
    """A channel whose RMS is many times the median one of its event."""

    channel: int
    rms: float
    times_median: float


@frozen
class SurveyedEvent:
    """An event over all channels, positions and documents, and the channels that stand out.

    `count` is of finite values; `zeros` is the share of them that is 0. `dead` are the first of `dead_count`
    channels that are always 0, or units of an MLP that never leave +-0.01, `outliers` the first of
    `outlier_count` whose RMS is 6 times the median or more. `quantiles` are of magnitudes, where these were
    counted.
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
    """A layer over all rows of the stream: how many times longer it leaves them, as a geometric mean, and the
    mean cosine between before and after. `massive` of `documents` have an element 1,000 times the median
    magnitude or more; `farthest` is the one that is most."""

    layer: int
    event: str
    rows: int
    growth: float | None
    cosine: float | None
    documents: int
    massive: int
    farthest: SurveyExample | None


@frozen
class SurveyedHead:
    """A head over all queries from position 1 on: its shares of attention, those of attention spread evenly,
    the mean entropies of both in nats, and the role that stands out."""

    layer: int
    head: int
    event: str
    window: int | None
    attention: Attention
    even: Attention
    entropy: float
    even_entropy: float
    role: RoleName


@frozen
class UnitExamples:
    """Where a unit is most active."""

    event: str
    unit: int
    examples: tuple[SurveyExample, ...]


@frozen
class LeftOut:
    """Rows that were no documents, texts that did not fit the model, or texts that were cut: how many, and
    the first."""

    reason: str
    count: int
    first: str


@frozen(slots=False)
class SurveyReport:
    """What a survey found. `texts` and `tokens` were run; `documents` is None where the corpus was not read
    to its end, and `whole` says whether all of it was run."""

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
    insights: tuple[Insight, ...]
    anomalies: tuple[Anomaly, ...]
    events: tuple[SurveyedEvent, ...]
    units: tuple[UnitExamples, ...]


def report_of(survey: Survey) -> SurveyReport:
    """What a survey found so far."""
    texts, tokens = survey.read
    parts, layers, heads = surveyed_parts(survey), surveyed_layers(survey), surveyed_heads(survey)
    events = surveyed_events(survey)
    skipped: list[Any] = [(reason, *found) for reason, found in survey.corpus.skipped.items()]
    unfit = [(reason, found.texts, found.place) for reason, found in sorted(survey.unfit.items())]
    model, corpus = survey.model, survey.corpus
    return SurveyReport(
        survey.whole, model.origin, model.family, model.fingerprint, corpus.sources, corpus.documents,
        corpus.fingerprint, texts, tokens, survey.arithmetic,
        tuple(LeftOut(*found) for found in [*skipped, *unfit]), tuple(parts), overfitting(survey, parts),
        tuple(layers), tuple(heads), tuple(insights_of(layers, heads)),
        tuple(anomalies_of(events, layers)), tuple(events), tuple(unit_examples(survey)),
    )  # fmt: skip


def surveyed_events(survey: Survey) -> list[SurveyedEvent]:
    """Every event that was measured."""
    return [_event(survey, name, survey.channels(name)) for name in survey.order.events]


def _event(survey: Survey, name: str, own: ChannelStatistics) -> SurveyedEvent:
    count, bins = int(own.count.sum()), survey.tallies.get(f"{name}/magnitudes")
    mean = _over_all(own.mean, own.count)
    square = _over_all(own.mean_square, own.count)
    std = None if mean is None or square is None else math.sqrt(max(square - mean * mean, 0.0))
    most = max(map(abs, own.least.tolist() + own.largest.tolist()), default=0.0)
    found = None if bins is None else quantiles(bins.values())
    return SurveyedEvent(
        name, survey.model.kinds[name], layer_of(name), len(own.count), count, int(own.nonfinite.sum()),
        mean, std, None if square is None else math.sqrt(square), _known(own.least, np.nanmin),
        _known(own.largest, np.nanmax), own.zeros.sum() / count if count else None, len(own.dead),
        tuple(own.dead[:MOST_CHANNELS].tolist()), len(own.outliers),
        tuple(
            OutlierChannel(channel, float(own.rms[channel]), float(own.times_median[channel]))
            for channel in own.outliers[:MOST_CHANNELS].tolist()
        ),
        None if found is None else {f"{100 * q:g}%": min(value, most) for q, value in found.items()},
    )  # fmt: skip


def _over_all(of_channels: Array, count: Array) -> float | None:
    """The mean over all channels, each with its weight."""
    there = count > 0
    total = int(count.sum())
    return math.fsum((of_channels[there] * count[there]).tolist()) / total if total else None


def _known(values: Array, of: Any) -> float | None:
    return float(of(values)) if np.isfinite(values).any() else None


def surveyed_layers(survey: Survey) -> list[SurveyedLayer]:
    """Every layer, where the residual stream was measured."""
    if f"{STREAMS}/rows" not in survey.tallies:
        return []
    keys = ("rows", "growth", "cosine", "documents", "massive")
    sums = [survey.tallies[f"{STREAMS}/{key}"].values().tolist() for key in keys]
    top, found = survey.tallies[f"{STREAMS}/farthest"], []
    for layer, (rows, grown, cosines, documents, massive) in enumerate(zip(*sums, strict=True)):
        mean_growth, cosine = (math.exp(grown / rows), cosines / rows) if rows else (None, None)
        farthest = next(iter(survey.corpus.examples(top, layer)), None)
        event = survey.model.streams[layer + 1]
        found.append(SurveyedLayer(layer, event, rows, mean_growth, cosine, documents, massive, farthest))
    return found


def surveyed_heads(survey: Survey) -> list[SurveyedHead]:
    """Every head whose weights were measured, where a text has two tokens or more and they are numbers."""
    found = []
    for event in survey.order.events:
        counts = survey.tallies.get(f"{event}/queries")
        if counts is None or not counts.values()[0]:
            continue
        layer = layer_of(event)
        assert layer is not None  # weights belong to a layer
        window = survey.model.windows[layer]
        (even, even_entropy), *_ = _shares(survey, f"{EVENLY}.{window or 'all'}", EVENLY)
        for head, (attention, entropy) in enumerate(_shares(survey, event, event)):
            role = role_of(attention, even)
            found.append(
                SurveyedHead(layer, head, event, window, attention, even, entropy, even_entropy, role)
            )
    return found


def _shares(survey: Survey, name: str, counted: str) -> list[tuple[Attention, float]]:
    """The mean shares of each head, and its mean entropy, over the queries that were counted."""
    counts = [int(survey.tallies[f"{counted}/{key}"].values()[0]) for key in COUNTS]
    sums = {key: survey.tallies[f"{name}/{key}"].values() for key in SUMS}
    return mean_shares(sums, *counts)


def unit_examples(survey: Survey) -> list[UnitExamples]:
    """The examples of every unit that was ever active, of the units that were asked for."""
    tops = {event: survey.tallies[f"{event}/top"] for event in survey.order.units}
    return [
        UnitExamples(event, unit, examples)
        for event, top in tops.items()
        for unit in range(top.units)
        if (examples := survey.corpus.examples(top, unit))
    ]


# --- What it reveals: the predicates of a trace, over all texts --------------------------------


def insights_of(layers: Sequence[SurveyedLayer], heads: Sequence[SurveyedHead]) -> Iterator[Insight]:
    """Evaluate what the layers and heads that were measured can tell."""
    measured = bool(layers) and all(row.growth and row.cosine is not None for row in layers)
    if measured:
        growths = [row.growth or 1.0 for row in layers]
        found = growth([*accumulate([1.0, *growths[1:]], mul)], NORM)
        yield Insight("growth", TITLES["growth"], *found, layers[-1].event)
        yield _massive(layers)
    if heads:
        yield _sinks(heads)
    if measured:
        stillest = max(layers, key=lambda row: row.cosine or 0.0)
        cosines = {row.layer: row.cosine or 0.0 for row in layers}
        yield Insight("turn", TITLES["turn"], *turn(cosines, "mean cosine"), stillest.event)


def _massive(layers: Sequence[SurveyedLayer]) -> Insight:
    title, measured = "Massive activations", [row for row in layers if row.farthest is not None]
    if not measured:
        return Insight("massive", title, None, "Not evaluated: the median magnitude is 0.")
    top = max(measured, key=lambda row: row.farthest.value if row.farthest else 0.0)
    far, massive = top.farthest, [row for row in layers if row.massive]
    assert far is not None
    ratio, limit = told_apart(far.value, MASSIVE, fixed, 0 if far.value >= 100 else 1)
    place = (
        f"farthest out is an element of {ratio} times the median magnitude of its text, after layer "
        f"{top.layer}, channel {far.channel} at position {far.position} "
        f"({shown_token(far.token)}) of {far.place}"
    )
    numbers: dict[str, float | None] = {"times_median": far.value, "layers": float(len(massive))}
    if not massive:
        text = f"None: {place}; massive would be {limit} times or more."
        return Insight("massive", title, False, text, numbers, top.event)
    most = max(massive, key=lambda row: row.massive / row.documents)
    text = (
        f"After {len(massive)} of {counted(len(layers), 'layer')} texts have an element of {limit} times the "
        f"median or more, most often after layer {most.layer} ({most.massive / most.documents:.0%} of the "
        f"texts); {place}."
    )
    return Insight("massive", title, True, text, numbers, top.event)


def _sinks(heads: Sequence[SurveyedHead]) -> Insight:
    """By the mean over the heads of each layer without a window."""
    of = grouped((head for head in heads if head.window is None), lambda head: head.layer)
    shares = {layer: math.fsum(h.attention.first for h in own) / len(own) for layer, own in of.items()}
    even = next((head.even.first for own in of.values() for head in own), 0.0)
    top = of[max(shares, key=lambda layer: shares[layer])][0].event if shares else heads[0].event
    windowed = any(head.window is not None for head in heads)
    return Insight("sinks", TITLES["sinks"], *sinks(shares, even, windowed, "no head was measured"), top)


# --- What is odd, by the rules of a trace ------------------------------------------------------


def anomalies_of(events: Sequence[SurveyedEvent], layers: Sequence[SurveyedLayer]) -> Iterator[Anomaly]:
    """Evaluate those rules of a trace for which a survey has the numbers: means over all texts."""
    if events:
        yield nonfinite([(event.name, event.nonfinite) for event in events], len(events))
        several = [event for event in events if event.count > 1]
        yield constant([event.name for event in several if event.least == event.largest], len(several))
    if not layers:
        return
    rows, texts = layers[0].rows, layers[0].documents
    growths = [row.growth for row in layers[1:] if row.growth is not None]
    turns = [1 + row.cosine for row in layers if row.cosine is not None]
    reason = too_few_layers(len(layers))
    if not reason and rows < LONG_TEXTS * texts:
        reason = f"needs {LONG_TEXTS} tokens a text on average, found {rows / texts:.1f}"
    if not reason and (len(growths), len(turns)) != (len(layers) - 1, len(layers)):
        reason = "a layer's stream is zero or not finite in every text"
    where = f", the mean of {rows:,} rows of {texts:,} texts"
    for rule, values in ((GROWTH, growths), (TURN, turns)):
        if reason:
            yield Anomaly(rule.id, rule.title, None, None, FAR, "other layers", reason)
        else:
            yield odd_layer(rule, values, len(layers), where)
