"""A comparison of two surveys as sections: the verdict, predictions, layers, events, channels and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from ...surveying.comparison import SurveyComparison
from ...surveying.report import SurveyedEvent
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

FEW = 40  # a longer table is shortened without --verbose
MOST = 8  # number of rows of a shortened table
NAMED = 4  # largest number of channels that a cell names
KL_IS = (
    "KL: KL(A || B) in nats, as the mean over the channels; each channel is treated as a normal distribution "
    "with its mean and variance over the corpus; values are not compared token by token"
)
Pair = TypeVar("Pair")


def survey_comparison_sections(result: SurveyComparison, *, verbose: bool = False) -> list[Section]:
    """Describe a comparison: unless `verbose`, only tokens, events, channels and heads that differ most."""
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
    same_bits = "only equal bits; --rtol allows differences"
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
        return Section([*_differences(result), *_largest_distances(result)], title, style=style)
    counts = {"event": result.events, "head": result.heads}
    compared = [counted(len(pairs), noun) for noun, pairs in counts.items() if pairs]
    compared += ["predictions"] * bool(result.parts)
    lines = [indented(f"compared: {', '.join(compared)}"), *_largest_distances(result)]
    return Section(lines, title, style=style)


def _adding_most(result: SurveyComparison) -> LayerPair | None:
    """Return the layer that adds most to the difference, or None if no layer has a known contribution."""
    layers = [layer for layer in result.layers if layer.added is not None]
    return max(layers, key=lambda layer: layer.added or 0.0, default=None)


def _kl_before_layers(result: SurveyComparison) -> float:
    """Return the KL of the residual stream before the first layer."""
    return next((layer.kl_before or 0.0 for layer in result.layers if layer.a.layer == 0), 0.0)


def _title(result: SurveyComparison) -> str:
    if result.same:
        return "The surveys are equal, bit for bit"
    if result.agree:
        return f"The surveys agree: no distance is above {result.rtol:g}"
    most = _adding_most(result)
    if most and (most.added or 0.0) > max(0.0, _kl_before_layers(result)):
        count = len(result.layers)
        adds = f"most of {count} layers" if count > 1 else distance(most.added or 0.0)
        return f"Layer {most.a.layer} adds {adds} to the difference"
    if most and _kl_before_layers(result):
        return "The residual stream before the first layer differs by more than any layer adds"
    return f"The surveys differ, first in {result.first}" if result.first else "The surveys differ"


def _differences(result: SurveyComparison) -> Iterator[Words]:
    """Describe the layer that adds most, the change of the losses, and the first difference."""
    most = _adding_most(result)
    if before := _kl_before_layers(result):
        yield indented(f"KL of the residual stream before the first layer: {distance(before)} nats")
    if most:
        course = f"{distance(most.kl_before)} nats before layer {most.a.layer}, {distance(most.kl)} after"
        yield indented(f"KL of the residual stream: {course}")
        if most.farthest is not None:
            yield indented(f"largest KL within the layer: {distance(most.farthest_kl)} in {most.farthest}")
    for part in result.parts:
        yield indented(_loss_change(part))
    if result.first is not None:
        differs = "differs" if result.rtol is None else f"differs by more than {result.rtol:g}"
        yield indented(f"first event that {differs}: {result.first}")


def _loss_change(part: PartPair) -> str:
    name = f" ({part.a.part})" if part.a.part else ""
    if part.a.loss is None or part.b.loss is None:
        return f"loss{name}: one side has no loss"
    one, two = two_apart(part.a.loss, part.b.loss)
    change, times = signed(part.b.loss - part.a.loss, 4), significant(part.perplexity_ratio)
    return f"loss{name}: {one} in A, {two} in B ({change} nats per token, perplexity × {times})"


def _largest_distances(result: SurveyComparison) -> Iterator[Words]:
    """Describe the largest distance of each kind of row if --rtol is set."""
    kinds: dict[str, Sequence[Any]] = {
        "channels": result.events, "growth or cosine": result.layers, "attention": result.heads,
        "loss": result.parts,
    }  # fmt: skip
    for kind, pairs in kinds.items():
        if pairs and result.rtol is not None:
            largest = max(pairs, key=lambda pair: pair.distance)
            yield indented(f"largest distance of {kind}: {distance(largest.distance)} ({largest.name})")


# --- Cells and rows ---------------------------------------------------------------------------


def _both(form: Callable[[Any], str], paths: Mapping[str, str], **options: Any) -> list[Column]:
    """Return columns that show the values of both sides, or one value if both values have the same text."""

    def cell(values: tuple[Any, Any]) -> str:
        one, two = map(form, values)
        return one if one == two else f"{one} → {two}"

    return fields(cell, {title: f"a.{path} b.{path}" for title, path in paths.items()}, **options)


def _shown(
    pairs: Sequence[Pair], verbose: bool, size: Callable[[Pair], float]
) -> tuple[Sequence[Pair], list[Block]]:
    """Return all pairs, or the MOST pairs that differ most if there are many. Add a note on omitted pairs."""
    if verbose or len(pairs) <= FEW:
        return pairs, []
    largest = sorted(pairs, key=size, reverse=True)[:MOST]
    return largest, [words(f"the {MOST} largest of {len(pairs):,} changes are shown; --verbose shows all")]


# --- Predictions ------------------------------------------------------------------------------


def _predictions(parts: Sequence[PartPair], verbose: bool) -> Iterator[Section]:
    """Describe the losses of every part of the corpus, and the tokens that B predicts worse than A."""
    columns = [
        Column("", name_of, whole=True),
        *_both("{:,}".format, {"texts": "documents", "tokens": "tokens"}),
        *_both(four_decimals, {"loss": "loss"}),
        *_both(percent, {"accuracy": "accuracy"}),
        Column("by text", _by_text, right=True),
    ]
    legend = (
        "by text: change of the mean loss over texts ± standard error; the standard error treats the texts "
        "of both sides as unrelated, because a survey does not store the loss of each text"
    )
    aside = "loss: mean -log P of the next token, in nats"
    yield from table_section("Predictions", columns, parts, legend, aside=aside)
    for part in parts:
        yield from _tokens(part, verbose)


def _by_text(pair: PartPair) -> str:
    if pair.difference is None:
        return "–"
    return f"{signed(pair.difference, 4)} ± {'?' if pair.error is None else four_decimals(pair.error)}"


def _tokens(part: PartPair, verbose: bool) -> list[Section]:
    tokens = part.tokens
    worse = [pair for pair in tokens if pair.lost > 0]
    columns = [
        Column("token", lambda pair: shown_token(pair.a.label), right=True),
        *fields("{:,}".format, {"times": "a.count"}),
        *_both(four_decimals, {"loss": "loss"}),
        *_both(percent, {"accuracy": "accuracy"}),
        Column("in all", lambda pair: signed(pair.lost, 2), right=True),
    ]
    total = counted(len(tokens), "token")
    legend = f"in all: number of occurrences × change of the loss; B is worse on {len(worse):,} of {total}"
    title, shown = ("Tokens", tokens) if verbose else ("Tokens on which B is worst", worse[:MOST])
    return table_section(title, columns, shown, legend, aside=part.a.part)


# --- Layers, events, channels and heads -------------------------------------------------------


def _layers(layers: Sequence[LayerPair]) -> list[Section]:
    columns = [
        *fields(str, {"layer": "a.layer"}),
        *fields(distance, {"KL": "kl"}),
        Column("added", lambda pair: "–" if pair.added is None else f"{pair.added:+.2g}", right=True),
        *fields(distance, {"RMS": "rms_change"}),
        Column("largest within", lambda pair: pair.farthest or "–", whole=True),
        *fields(distance, {"its KL": "farthest_kl"}),
        *_both("{:,}".format, {"massive": "massive"}),
        *_both(ratio, {"growth": "growth"}, from_width=WIDE),
        *_both(three_decimals, {"cosine": "cosine"}, from_width=WIDE),
    ]
    legend = (
        f"{KL_IS}; added: KL after minus KL before the layer; RMS: ||rms_B - rms_A|| / ||rms_A|| over "
        "channels; largest within: the event of the layer with the largest KL; massive: texts with an "
        "element of 1,000 times the median magnitude or more"
    )
    wide = "growth: norm of a row after the layer divided by the norm before; cosine: between the two rows"
    about, aside = attrgetter("a.event"), "the residual stream after each layer"
    return table_section("Layers", columns, layers, legend, wide, about=about, aside=aside)


def _events(events: Sequence[EventPair], verbose: bool) -> list[Section]:
    differing = [pair for pair in events if not pair.same]
    shown, more = _shown(differing, verbose, lambda pair: pair.kl or 0.0)
    columns = [
        Column("event", name_of, whole=True),
        *fields(distance, {"mean": "mean_change", "RMS": "rms_change", "KL": "kl"}),
        Column("largest KL", _largest_kl, right=True),
    ]
    legend = "mean, RMS: ||B - A|| / ||rms_A|| over channels; largest KL: the largest KL of a channel"
    return table_section("Events that differ", columns, shown, legend, about=name_of, more=more)


def _largest_kl(pair: EventPair) -> str:
    if pair.largest_kl is None:
        return "–"
    more = f", {pair.one_sided:,} infinite" if pair.one_sided else ""
    return f"{distance(pair.largest_kl)} in {pair.channel}{more}"


def _channels(events: Sequence[EventPair], verbose: bool) -> Iterator[Section]:
    def count(pair: EventPair) -> int:
        return sum(len(own.appeared) + len(own.vanished) for own in (pair.dead, pair.outliers))

    def finite(event: SurveyedEvent) -> tuple[int, int]:
        return event.count, event.nonfinite

    unequal = [pair.name for pair in events if finite(pair.a) != finite(pair.b)]
    shown, more = _shown([pair for pair in events if count(pair)], verbose, count)
    columns = [
        Column("event", name_of, whole=True),
        *fields(_channel_names, {"dead": "dead", "outliers": "outliers"}, right=False, wrap=True),
    ]
    blocks: list[Block] = [Table(columns, shown, about=name_of), *more] if shown else []
    if unequal:
        blocks.append(words(f"the numbers of finite values differ in {abridged(unequal)}", "bold red"))
    legend = (
        "+ only in B, - only in A; dead: a unit of an MLP that never leaves ±0.01, or another channel that "
        "is always 0; outliers: RMS of 6 times the median or more"
    )
    if blocks:
        yield Section([*blocks, words(legend, "dim")], "Dead and outlier channels that changed")


def _channel_names(changed: ChangedChannels) -> str:
    signs = {"+": changed.appeared, "-": changed.vanished}
    return "; ".join(f"{sign} {abridged([*map(str, own)], NAMED)}" for sign, own in signs.items() if own)


def _heads(heads: Sequence[HeadPair], verbose: bool) -> list[Section]:
    shown, more = _shown(heads, verbose, lambda pair: pair.distance)
    columns = [
        Column("head", name_of, whole=True),
        *fields(distance, {"change": "distance"}),
        *_both(figure, {"entropy": "entropy", "position 0": "attention.first"}),
        *_both(figure, {"previous": "attention.previous", "repeat": "attention.repeat"}, from_width=WIDE),
        *_both(ROLE_WORDS.__getitem__, {"role": "role"}, right=False),
    ]
    changed = sum(pair.a.role != pair.b.role for pair in heads)
    legend = "change: largest change of a share of attention, or of the entropy relative to uniform attention"
    roles = words(f"the role changes in {changed:,} of {counted(len(heads), 'head')}")
    return table_section("Heads", columns, shown, legend, about=attrgetter("a.event"), more=[*more, roles])
