"""Two surveys compared, as sections: the layer that adds most to the difference on top, then predictions,
layers, events, channels, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from ...surveying.comparison import SurveyComparison
from ...surveying.report_pairs import ChangedChannels, EventPair, HeadPair, LayerPair, PartPair
from ...text.printable import shown_token
from ...text.wording import abridged, counted
from ..numbers import (
    distance,
    figure,
    four_decimals,
    percent,
    ratio,
    signed,
    significant,
    three_decimals,
    two_apart,
)
from ..sections import (
    WIDE,
    Block,
    Column,
    Labelled,
    Section,
    Table,
    Words,
    facts,
    fields,
    indented,
    name_of,
    table_section,
    words,
)
from .attribution import ROLE_WORDS

FEW = 40  # rows that are all shown without --verbose
MOST = 8  # rows that are shown of more
NAMED = 4  # channels that a table names
KL_IS = (
    "KL: KL(A || B) in nats of normal distributions with each channel's mean and variance over the corpus, "
    "mean over channels; values are not compared token by token"
)
Pair = TypeVar("Pair")


def survey_comparison_sections(result: SurveyComparison, *, verbose: bool = False) -> list[Section]:
    """The whole comparison; without `verbose` of tokens, events, channels and heads those that differ
    most."""
    sections = [_header(result), _verdict(result)]
    if not result.same:
        sections += _predictions(result.parts, verbose)
        sections += [*_layers(result.layers), *_events(result.events, verbose)]
        sections += [*_channels(result.events, verbose), *_heads(result.heads, verbose)]
    if result.not_compared:
        lines = [words(f"{abridged(left.names)}: {left.reason}") for left in result.not_compared]
        sections.append(Section(lines, "Not compared"))
    return sections


def _header(result: SurveyComparison) -> Section:
    run = f"{counted(result.a.texts, 'text')}, {counted(result.a.tokens, 'token')}"
    same_bits = "the same bits alone; --rtol allows more"
    allowed = same_bits if result.rtol is None else f"distances up to {result.rtol:g}"
    pairs = [
        ("A", f"{result.a.file}, of {result.a.model}"),
        ("B", f"{result.b.file}, of {result.b.model}"),
        ("corpus", f"{', '.join(result.sources)}: {run}"),
        *facts("note", result.notes),
        ("allowed", allowed),
    ]
    return Section([Labelled(pairs)])


# --- The verdict ------------------------------------------------------------------------------


def _verdict(result: SurveyComparison) -> Section:
    title, style = _title(result), "bold green" if result.agree else "bold red"
    if not result.agree:
        return Section([*_departure(result), *_farthest(result)], title, style=style)
    counts = {"event": result.events, "head": result.heads}
    compared = [counted(len(of), what) for what, of in counts.items() if of]
    said = "compared: " + ", ".join([*compared, *["predictions"] * bool(result.parts)])
    return Section([indented(said), *_farthest(result)], title, style=style)


def _adding_most(result: SurveyComparison) -> LayerPair | None:
    """The layer that adds most to the difference, if it is known what any adds."""
    known = [layer for layer in result.layers if layer.added is not None]
    return max(known, key=lambda layer: layer.added or 0.0, default=None)


def _entering(result: SurveyComparison) -> float:
    """The KL of the stream that enters the first layer."""
    return next((layer.kl_before or 0.0 for layer in result.layers if layer.a.layer == 0), 0.0)


def _title(result: SurveyComparison) -> str:
    if result.same:
        return "The same, bit for bit"
    if result.agree:
        return f"They agree: no distance is above {result.rtol:g}"
    most = _adding_most(result)
    if most and (most.added or 0.0) > max(0.0, _entering(result)):
        count = len(result.layers)
        adds = f"most of {count} layers" if count > 1 else distance(most.added or 0.0)
        return f"Layer {most.a.layer} adds {adds} to the difference"
    if most and _entering(result):
        return "The stream differs before the first layer more than any layer adds"
    return f"They differ, first in {result.first}" if result.first else "They differ"


def _departure(result: SurveyComparison) -> Iterator[Words]:
    """What the layer that adds most adds, what became of the losses, and where the first difference is."""
    most = _adding_most(result)
    if _entering(result):
        yield indented(f"KL of the stream that enters the first layer: {distance(_entering(result))} nats")
    if most:
        before, after = distance(most.kl_before), distance(most.kl)
        yield indented(f"KL of the stream: {before} nats before layer {most.a.layer}, {after} after it")
        if most.farthest is not None:
            yield indented(f"farthest in it: {most.farthest}, KL {distance(most.farthest_kl)}")
    for part in result.parts:
        yield indented(_loss_course(part))
    if result.first is not None:
        differs = "differs" if result.rtol is None else "is beyond"
        yield indented(f"first event that {differs}: {result.first}")


def _loss_course(part: PartPair) -> str:
    """What became of the loss, in a line."""
    name = f" ({part.a.part})" if part.a.part else ""
    if part.a.loss is None or part.b.loss is None:
        return f"loss{name}: none on one side"
    one, two = two_apart(part.a.loss, part.b.loss)
    change, times = signed(part.b.loss - part.a.loss, 4), significant(part.perplexity_ratio)
    return f"loss{name}: {one} in A, {two} in B ({change} nats a token, perplexity × {times})"


def _farthest(result: SurveyComparison) -> Iterator[Words]:
    """What has the largest distance of its sort, where a tolerance was asked for."""
    sorts: dict[str, Sequence[Any]] = {
        "channels": result.events, "growth or cosine": result.layers, "attention": result.heads,
        "loss": result.parts,
    }  # fmt: skip
    for what, pairs in sorts.items():
        if pairs and result.rtol is not None:
            own = max(pairs, key=lambda pair: pair.distance)
            yield indented(f"largest distance of {what}: {distance(own.distance)} ({own.name})")


# --- Cells and rows ---------------------------------------------------------------------------


def _both(form: Callable[[Any], str], paths: Mapping[str, str], **options: Any) -> list[Column]:
    """Columns of what both rows of a pair have, or of the one that both are as printed."""

    def cell(both: tuple[Any, Any]) -> str:
        one, two = map(form, both)
        return one if one == two else f"{one} → {two}"

    return fields(cell, {title: f"a.{path} b.{path}" for title, path in paths.items()}, **options)


def _shown(
    pairs: Sequence[Pair], verbose: bool, size: Callable[[Pair], float]
) -> tuple[Sequence[Pair], list[Block]]:
    """All pairs where they are few or `verbose` asks for them, else those of the largest size, and a line
    that says so."""
    if verbose or len(pairs) <= FEW:
        return pairs, []
    largest = sorted(pairs, key=size, reverse=True)[:MOST]
    return largest, [words(f"those that changed most of {len(pairs):,}; --verbose: all")]


# --- Predictions ------------------------------------------------------------------------------


def _predictions(parts: Sequence[PartPair], verbose: bool) -> Iterator[Section]:
    """The losses of every part, how sure that is, and the tokens on which B loses most."""
    columns = [
        Column("", name_of, whole=True),
        *_both("{:,}".format, {"texts": "documents", "tokens": "tokens"}),
        *_both(four_decimals, {"loss": "loss"}),
        *_both(percent, {"right": "accuracy"}),
        Column("by text", _by_text, right=True),
    ]
    said = (
        "by text: change of the mean of the texts' losses ± its standard error, as if the texts of the two "
        "sides were unrelated: surveys keep no differences text by text"
    )
    aside = "loss: mean -log P of what follows, in nats"
    yield from table_section("Predictions", columns, parts, said, aside=aside)
    for part in parts:
        yield from _tokens(part, verbose)


def _by_text(pair: PartPair) -> str:
    if pair.difference is None:
        return "–"
    return f"{signed(pair.difference, 4)} ± {'?' if pair.error is None else four_decimals(pair.error)}"


def _tokens(part: PartPair, verbose: bool) -> list[Section]:
    every = part.tokens
    worse = [pair for pair in every if pair.lost > 0]
    shown = every if verbose else worse[:MOST]
    columns = [
        Column("token", lambda pair: shown_token(pair.a.label), right=True),
        *fields("{:,}".format, {"times": "a.count"}),
        *_both(four_decimals, {"loss": "loss"}),
        *_both(percent, {"right": "accuracy"}),
        Column("in all", lambda pair: signed(pair.lost, 2), right=True),
    ]
    said = f"in all: times × change of the loss; worse: {len(worse):,} of {counted(len(every), 'token')}"
    title = "Tokens" if verbose else "Tokens on which B loses most"
    return table_section(title, columns, shown, said, aside=part.a.part)


# --- Layers, events, channels and heads -------------------------------------------------------


def _layers(layers: Sequence[LayerPair]) -> list[Section]:
    columns = [
        *fields(str, {"layer": "a.layer"}),
        *fields(distance, {"KL": "kl"}),
        Column("added", lambda pair: "–" if pair.added is None else f"{pair.added:+.2g}", right=True),
        *fields(distance, {"RMS": "rms_change"}),
        Column("farthest event", lambda pair: pair.farthest or "–", whole=True),
        *fields(distance, {"its KL": "farthest_kl"}),
        *_both("{:,}".format, {"massive": "massive"}),
        *_both(ratio, {"growth": "growth"}, from_width=WIDE),
        *_both(three_decimals, {"cosine": "cosine"}, from_width=WIDE),
    ]
    said = (
        f"{KL_IS}; added: to that of the stream that enters; RMS: ||rms_B - rms_A|| / ||rms_A|| over "
        "channels; massive: texts with an element 1,000 times the median or more"
    )
    wide = "growth: how many times longer a layer leaves a row; cosine: between before and after"
    aside = "the stream that leaves each"
    return table_section("Layers", columns, layers, said, wide, about=attrgetter("a.event"), aside=aside)


def _events(events: Sequence[EventPair], verbose: bool) -> list[Section]:
    differing = [pair for pair in events if not pair.same]
    shown, more = _shown(differing, verbose, lambda pair: pair.kl or 0.0)
    columns = [
        Column("event", name_of, whole=True),
        *fields(distance, {"mean": "mean_change", "RMS": "rms_change", "KL": "kl"}),
        Column("most", _most, right=True),
    ]
    said = "mean, RMS: ||B - A|| / ||rms_A|| over channels; most: the largest KL of a channel"
    return table_section("Events that differ", columns, shown, said, about=name_of, more=more)


def _most(pair: EventPair) -> str:
    if pair.largest_kl is None:
        return "–"
    more = f", {pair.one_sided:,} infinite" if pair.one_sided else ""
    return f"{distance(pair.largest_kl)} in {pair.channel}{more}"


def _channels(events: Sequence[EventPair], verbose: bool) -> Iterator[Section]:
    def count(pair: EventPair) -> int:
        return sum(len(own.appeared) + len(own.vanished) for own in (pair.dead, pair.outliers))

    changed = [pair for pair in events if count(pair)]
    other = [
        pair.a.name for pair in events if (pair.a.count, pair.a.nonfinite) != (pair.b.count, pair.b.nonfinite)
    ]
    shown, more = _shown(changed, verbose, count)
    columns = [
        Column("event", name_of, whole=True),
        Column("dead", lambda pair: _channel_names(pair.dead), wrap=True),
        Column("outliers", lambda pair: _channel_names(pair.outliers), wrap=True),
    ]
    blocks: list[Block] = [Table(columns, shown, about=name_of), *more] if shown else []
    if other:
        blocks.append(words(f"as many finite values on one side alone: {abridged(other)}", "bold red"))
    said = (
        "+ in B alone, - in A alone; dead: a unit never beyond ±0.01, another channel always 0; outliers: "
        "RMS 6 times the median one or more"
    )
    if blocks:
        yield Section([*blocks, words(said, "dim")], "Dead and outlier channels that changed")


def _channel_names(changed: ChangedChannels) -> str:
    said = []
    for sign, channels in (("+", changed.appeared), ("-", changed.vanished)):
        if channels:
            more = f" and {len(channels) - NAMED:,} more" if len(channels) > NAMED else ""
            said.append(f"{sign} {', '.join(map(str, channels[:NAMED]))}{more}")
    return "; ".join(said)


def _heads(heads: Sequence[HeadPair], verbose: bool) -> list[Section]:
    shown, more = _shown(heads, verbose, lambda pair: pair.distance)
    columns = [
        Column("head", name_of, whole=True),
        *fields(distance, {"change": "distance"}),
        *_both(figure, {"entropy": "entropy", "position 0": "attention.first"}),
        *_both(figure, {"previous": "attention.previous", "repeat": "attention.repeat"}, from_width=WIDE),
        *_both(ROLE_WORDS.__getitem__, {"role": "role"}, right=False),
    ]
    turned = sum(pair.a.role != pair.b.role for pair in heads)
    said = "change: the largest of a share, or of the entropy as a share of that of attention spread evenly"
    roles = words(f"another role: {turned:,} of {counted(len(heads), 'head')}")
    return table_section("Heads", columns, shown, said, about=attrgetter("a.event"), more=[*more, roles])
