"""A survey as sections (predictions, layers, heads, channels, examples), and an importance matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from ...measuring.definitions import ROLES
from ...measuring.head_tokens import TOKENS
from ...plans.kinds import window_words
from ...surveying.figures import FIGURES, Unit
from ...surveying.imatrix import ImatrixReport
from ...surveying.report import (
    SurveyedEvent,
    SurveyedLayer,
    SurveyedRouter,
    SurveyReport,
    UnitExamples,
    report_of,
)
from ...surveying.report_heads import OFTEN, HeadLooks, SurveyedHead, SurveyedLook
from ...surveying.state import CUT, Survey, SurveyExample
from ...surveying.surveyed_predictions import SurveyedPart
from ...text.printable import shown_token
from ...text.wording import counted
from ..numbers import figure, four_decimals, percent, ratio, significant, three_decimals
from ..sections import Column, Labelled, Section, Table, facts, fields, name_of, table_section, words
from ..trace.whole_trace import anomalies_section, insights_section
from .attribution_sections import ROLE_WORDS, most_of_each_role, roles_of_all

FEW_LAYERS = 2  # for a model with at most this many layers, all events and heads are shown
HARDEST = 8  # number of hardest tokens to show
EXAMPLES, UNITS = 5, 8  # largest number of examples and units that are shown without --verbose
ODDEST = 10  # largest number of events with dead channels, and of events with outliers, to show
NAMED = 4  # largest number of channels that a cell names
MOST_LOOKS = 3  # largest number of a head's tokens and examples, or of experts, shown without --verbose
LOOKS = "What does this head do?"
OLDER = "not measured, because an older version surveyed a part of the corpus; run the survey again"
HEAD = Column("head", lambda head: f"layer{head.layer} head {head.head}", whole=True)

FORMS: dict[Unit, Callable[[Any], str]] = {
    "count": "{:,}".format, "nats": four_decimals, "percent": percent, "share": figure,
    "few percent": lambda share: "0" if share == 0 else percent(share), "mean": three_decimals,
    "growth": lambda growth: f"× {ratio(growth)}", "bits": "{:.2f}".format, "value": significant,
}  # fmt: skip


def _figures(kind: str) -> Iterator[Column]:
    """Yield the columns of a report's figures, for one kind of row."""
    for own in FIGURES[kind]:
        if own.unit is not None:
            yield from fields(FORMS[own.unit], {own.title or own.name: own.path}, from_width=own.from_width)


def survey_sections(
    report: SurveyReport, *, verbose: bool = False, file: Path | None = None
) -> list[Section]:
    """Describe a survey: unless `verbose`, only the most striking tokens, texts, heads, events and units."""
    sections = [_header(report, file), *_predictions(report, verbose)]
    if report.insights:
        sections.append(insights_section(report.insights, "What the survey reveals"))
    if report.anomalies:
        sections.append(anomalies_section(report.anomalies))
    sections += [*_layers(report.layers), *_heads(report, verbose), *_experts(report.routers, verbose)]
    return [*sections, *_events(report, verbose), *_units(report.units, verbose)]


def sections_of_survey(survey: Survey) -> list[Section]:
    """Describe a survey for a notebook."""
    return survey_sections(report_of(survey))


def _header(report: SurveyReport, file: Path | None) -> Section:
    run = f"{counted(report.texts, 'text')}, {counted(report.tokens, 'token')}"
    if report.documents is None:
        run += "; the survey is unfinished: continue it with --resume"
    elif not report.whole:
        run += f"; part of a corpus of {counted(report.documents, 'document')}"
    pairs = [("model", report.model), ("corpus", ", ".join(report.sources)), ("run", run)]
    for title, cut in (("left out", False), ("in part", True)):
        reasons = (left for left in report.left_out if (left.reason == CUT) == cut)
        pairs += facts(title, (f"{left.count:,} {left.reason} (first: {left.first})" for left in reasons))
    pairs += [("file", str(file))] if file else []
    return Section([Labelled(pairs)])


def _predictions(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    columns = [Column("", lambda part: part.part or "all", whole=True), *_figures("prediction")]
    more = []
    if lost := sum(part.nonfinite for part in report.parts):
        verb = "has" if lost == 1 else "have"
        more.append(words(f"{counted(lost, 'more token')} {verb} a loss that is not finite", "bold red"))
    if report.overfitting is not None:
        more.append(words(report.overfitting.text, "bold red" if report.overfitting.holds else ""))
    legend = (
        "loss: mean of -log P of the next token, in nats; by text: mean of the texts' means; spread: "
        "standard deviation of these means; accuracy: how often the next token is the most likely token"
    )
    yield from table_section("Predictions", columns, report.parts, legend, more=more)
    for part in report.parts:
        yield from _part(part, verbose)


def _part(part: SurveyedPart, verbose: bool) -> Iterator[Section]:
    often = [token for token in part.by_token if token.count >= OFTEN or verbose]
    hardest = sorted(often, key=lambda token: -token.loss)[: None if verbose else HARDEST]
    columns = [
        Column("token", lambda token: shown_token(token.label), right=True),
        *_figures("token"),
    ]
    yield from table_section("Hardest to predict", columns, hardest, aside=part.part)
    most = None if verbose else EXAMPLES
    columns = [
        *fields(four_decimals, {"loss": "value"}),
        Column("where", lambda example: example.place, whole=True),
        Column("text", lambda example: example.before, elastic=10),
    ]
    yield from table_section("Texts predicted worst", columns, part.worst[:most], aside=part.part)
    if part.documents > EXAMPLES:
        yield from table_section("Texts predicted best", columns, part.best[:most], aside=part.part)


def _layers(layers: Sequence[SurveyedLayer]) -> list[Section]:
    columns = [
        *fields(str, {"layer": "layer"}),
        *_figures("layer"),
        Column("largest element", lambda row: _largest(row.farthest), wrap=True),
    ]
    legend = (
        "growth: norm of a row after the layer / norm before the layer (geometric mean); cosine: between the "
        "rows before and after the layer (mean); massive: texts with an element of at least 1,000 times the "
        "median magnitude; largest element: multiple of the median, channel, @position, token and text"
    )
    return table_section("Residual stream", columns, layers, legend, about=attrgetter("event"))


def _largest(example: SurveyExample | None) -> str:
    if example is None:
        return "–"
    token = shown_token(example.token or example.before)
    where = f'channel {example.channel} @{example.position} "{token}" {example.place}'
    return f"× {example.value:,.0f} {where}"


def _heads(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    heads = report.heads
    few = all(head.layer < FEW_LAYERS for head in heads)
    clearest = most_of_each_role(heads)
    shown = heads if verbose or few else [head for head in heads if head in clearest]
    columns = [
        HEAD,
        *_figures("head"),
        Column("role", lambda head: ROLE_WORDS[head.role], style="cyan"),
    ]
    legend = (
        f"uniform attention would have: {_even_attention(shown)}; repeat: attention on earlier occurrences "
        "of the query's token, as the mean over queries with a token that occurred earlier"
    )
    title, aside = "What heads look at", "mean of all queries from position 1 on"
    more, event = roles_of_all(heads, shown), attrgetter("event")
    yield from table_section(title, columns, shown, legend, about=event, aside=aside, more=more)
    places = {(head.event, head.head) for head in shown}
    looks = [own for own in report.looks if (own.event, own.head) in places]
    yield from _looks(looks, verbose) if report.looks or not heads else [Section([words(OLDER)], LOOKS)]


def _looks(heads: Sequence[HeadLooks], verbose: bool) -> Iterator[Section]:
    """Describe the tokens that heads look from and to, and then the places where heads look most."""
    most = None if verbose else MOST_LOOKS

    def cell(looks: Sequence[SurveyedLook]) -> str:
        texts = (f"{'→'.join(map(shown_token, own.tokens))} ×{ratio(own.times_even)}" for own in looks)
        return " · ".join(islice(texts, most))

    lists = {"looks from": "looks_from", "looks to": "looks_to", "from→to": "pairs"}
    columns = [HEAD, *fields(cell, lists, right=False, wrap=True)]
    legend = (
        "looks from: queries with this token, for heads that attend more than uniformly to position 0 and "
        "the query; looks to: keys with this token; from→to: pairs of both; ×: attention as a multiple of "
        f"uniform attention, for tokens and pairs that occur at least {OFTEN} times; only ids below "
        f"{TOKENS:,} are counted"
    )
    aside = "keys between position 0 and the query"
    if not any(own.looks_from or own.looks_to or own.pairs for own in heads):
        yield Section([words(f"no token with an id below {TOKENS:,} occurs at least {OFTEN} times")], LOOKS)
    else:
        yield from table_section(LOOKS, columns, heads, legend, about=attrgetter("event"), aside=aside)
    columns = [
        Column("head", lambda row: HEAD.cell(row[0]), whole=True),
        Column("× even", lambda row: ratio(row[1].times_even), right=True),
        Column("weight", lambda row: figure(row[1].weight), right=True),
        Column("where", lambda row: row[1].place, whole=True),
        Column("from→to", lambda row: f"@{row[1].query}→@{row[1].key}", right=True),
        Column("text up to the query", lambda row: row[1].text, elastic=10),
    ]
    rows = [(own, example) for own in heads for example in own.examples[:most]]
    legend = "the largest multiples on keys after position 0, one of each text: ‹ › is the key, [ ] the query"
    yield from table_section("Where heads look most", columns, rows, legend, about=lambda row: row[0].event)


def _experts(routers: Sequence[SurveyedRouter], verbose: bool) -> list[Section]:
    most = None if verbose else MOST_LOOKS

    def loads(own: SurveyedRouter) -> str:
        order = sorted(range(len(own.load)), key=lambda expert: -own.load[expert])
        return ", ".join(f"{expert} {own.shares[expert]:.1%}" for expert in order[:most])

    def never(own: SurveyedRouter) -> str:
        names = ", ".join(map(str, own.never[:most])) + ", …" * (len(own.never) > len(own.never[:most]))
        return f"{len(own.never)} of {len(own.load)}" + f": {names}" * bool(own.never)

    columns = [
        *fields(str, {"layer": "layer"}),
        Column("largest loads", loads, wrap=True),
        Column("never used", never, wrap=True),
        *_figures("router"),
    ]
    legend = (
        "largest loads: experts with their shares of all choices. Entropies in bits: load: of these shares; "
        "router: of the router's mean probabilities; token: of its probabilities for one token, as a mean; "
        "equal: of equal shares, the largest possible entropy"
    )
    return table_section("Experts", columns, routers, legend, about=attrgetter("event"))


def _even_attention(heads: Sequence[SurveyedHead]) -> str:
    """Describe uniform attention, once for each attention window."""
    by_window = {head.window: head for head in heads}
    lines = []
    for window, head in sorted(by_window.items(), key=lambda own: own[0] or math.inf):
        shares = ", ".join(f"{ROLE_WORDS[role]} {figure(getattr(head.even, role))}" for role in ROLES)
        where = "" if len(by_window) == 1 else f" ({window_words(window) if window else 'no window'})"
        lines.append(f"entropy {figure(head.even_entropy)}, {shares}{where}")
    return "; ".join(lines)


def _events(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    few = len(report.layers) <= FEW_LAYERS
    shown = list(report.events) if verbose or few else _oddest(report.events)
    if not shown:
        return
    columns = [Column("event", name_of, whole=True), *_figures("event")]
    more = []
    if len(shown) < len(report.events):
        which = "with dead channels or with the largest outliers; --verbose shows all"
        more.append(words(f"{len(shown):,} of {counted(len(report.events), 'event')} {which}"))
    yield from table_section("Channels", columns, shown, about=name_of, more=more)
    yield _odd_channels([event for event in shown if _oddities(event)])
    yield from _quantiles([event for event in report.events if event.quantiles])


def _odd_channels(events: Sequence[SurveyedEvent]) -> Section:
    legend = (
        "dead: a unit of an MLP that never leaves ±0.01, or another channel that is always 0; outlier: a "
        "channel whose RMS is 6 times the median of the event's channels or more (× the multiple)"
    )
    columns = [Column("event", name_of, whole=True), Column("channels", _oddities, wrap=True)]
    none = words("none: no unit or channel is dead, and no channel is an outlier")
    table = Table(columns, events, about=name_of) if events else none
    return Section([table, words(legend, "dim")], "Dead and outlier channels")


def _oddest(events: Sequence[SurveyedEvent]) -> list[SurveyedEvent]:
    """Return the events with dead channels or with values that are not finite, and the events with the
    largest outliers."""
    odd = [event for event in events if event.dead_count or event.nonfinite]
    far = [event for event in events if event.outlier_count and event not in odd]
    far.sort(key=lambda event: -event.outliers[0].times_median)
    chosen = {event.name for event in [*odd[:ODDEST], *far[:ODDEST]]}
    return [event for event in events if event.name in chosen]


def _oddities(event: SurveyedEvent) -> str:
    parts = []
    if event.nonfinite:
        parts.append(f"{counted(event.nonfinite, 'value')} not finite")
    if event.dead_count:
        names = ", ".join(map(str, event.dead[:NAMED])) + ", …" * (event.dead_count > NAMED)
        parts.append(f"{event.dead_count:,} of {event.channels:,} dead: {names}")
    if event.outlier_count:
        names = ", ".join(f"{own.channel} × {ratio(own.times_median)}" for own in event.outliers[:NAMED])
        more = f" and {event.outlier_count - NAMED:,} more" if event.outlier_count > NAMED else ""
        parts.append(f"outliers: {names}{more}")
    return "; ".join(parts)


def _quantiles(events: Sequence[SurveyedEvent]) -> list[Section]:
    def cell(name: str) -> Callable[[SurveyedEvent], str]:
        return lambda event: significant((event.quantiles or {}).get(name))

    names = events[0].quantiles or {} if events else {}
    columns = [Column("event", name_of, whole=True), *(Column(name, cell(name), True) for name in names)]
    legend = "quantiles of the absolute values of all channels, each at most 13 % above the true quantile"
    return table_section("Magnitudes", columns, events, legend, about=name_of)


def _units(units: Sequence[UnitExamples], verbose: bool) -> list[Section]:
    shown = units if verbose else sorted(units, key=lambda unit: -unit.examples[0].value)[:UNITS]
    rows = [(unit, example) for unit in shown for example in unit.examples[: None if verbose else EXAMPLES]]
    columns = [
        Column("unit", lambda row: f"{row[0].event}[{row[0].unit}]", whole=True),
        Column("value", lambda row: significant(row[1].value), right=True),
        Column("where", lambda row: f"{row[1].place} @{row[1].position}", whole=True),
        Column("text up to there", lambda row: f"{row[1].before}[{row[1].token}]", elastic=10),
    ]
    which = f"the {len(shown)} units with the largest values, of {len(units):,} units that were ever above 0"
    more = [words(f"{which}; --verbose shows all")] if len(shown) < len(units) else []
    title = "Where units are most active"
    return table_section(title, columns, rows, about=lambda row: row[0].event, more=more)


def imatrix_sections(report: ImatrixReport) -> list[Section]:
    """Describe an importance matrix with a row per weight."""
    pairs = [
        ("imatrix", report.file),
        ("corpus", ", ".join(report.datasets)),
        ("read", f"{counted(report.chunk_count, 'chunk')} of {counted(report.chunk_size, 'token')}"),
    ]
    columns = [
        Column("weight", name_of, whole=True),
        *fields("{:,}".format, {"matrices": "matrices"}, from_width=90),
        *fields("{:,}".format, {"channels": "channels", "rows": "rows"}),
        *fields(significant, {"RMS": "rms"}),
        Column("largest channel", lambda row: "–" if row.channel is None else str(row.channel), right=True),
        *fields(ratio, {"× median": "times_median"}),
    ]
    legend = "RMS: of the weight's inputs; largest channel: by RMS; × median: largest RMS / median RMS"
    return [Section([Labelled(pairs)]), *table_section("Inputs", columns, report.weights, legend)]
