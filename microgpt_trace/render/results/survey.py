"""A survey as sections: predictions, layers, heads, channels, examples; and an importance matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from ...measuring.definitions import ROLES
from ...surveying.imatrix import ImatrixReport
from ...surveying.predictions import SurveyedPart
from ...surveying.report import (
    SurveyedEvent,
    SurveyedHead,
    SurveyedLayer,
    SurveyReport,
    UnitExamples,
    report_of,
)
from ...surveying.state import CUT, Survey, SurveyExample
from ...text.printable import shown_token
from ...text.wording import counted
from ..numbers import figure, four_decimals, percent, ratio, significant, three_decimals
from ..sections import Column, Labelled, Section, Table, facts, fields, name_of, table_section, words
from ..trace.whole_trace import anomalies_section, insights_section
from .attribution import ROLE_WORDS, SHARES, most_of_each_role, roles_of_all

FEW_LAYERS = 2  # of a model whose events and heads are all shown
HARDEST, OFTEN = 8, 20  # tokens that are shown, of those that follow so often or more
EXAMPLES, UNITS = 5, 8  # that are shown without --verbose
ODDEST = 10  # events of a deep model that are shown
NAMED = 4  # channels that a table names


def survey_sections(
    report: SurveyReport, *, verbose: bool = False, file: Path | None = None
) -> list[Section]:
    """All that a survey found; without `verbose` of tokens, documents, heads, events and units those that
    tell most."""
    sections = [_header(report, file), *_predictions(report, verbose)]
    if report.insights:
        sections.append(insights_section(report.insights, "What the survey reveals"))
    if report.anomalies:
        sections.append(anomalies_section(report.anomalies))
    sections += [*_layers(report.layers), *_heads(report.heads, verbose)]
    return [*sections, *_events(report, verbose), *_units(report.units, verbose)]


def sections_of_survey(survey: Survey) -> list[Section]:
    """All that a survey found."""
    return survey_sections(report_of(survey))


def _header(report: SurveyReport, file: Path | None) -> Section:
    run = f"{counted(report.texts, 'text')}, {counted(report.tokens, 'token')}{_of_what(report)}"
    pairs = [("model", report.model), ("corpus", ", ".join(report.sources)), ("run", run)]
    for title, cut in (("left out", False), ("in part", True)):
        found = (left for left in report.left_out if (left.reason == CUT) == cut)
        pairs += facts(title, (f"{left.count:,} {left.reason} (first: {left.first})" for left in found))
    if file is not None:
        pairs.append(("kept in", str(file)))
    return Section([Labelled(pairs)])


def _of_what(report: SurveyReport) -> str:
    """What there is besides what was run."""
    if report.documents is None:
        return "; it ended before the corpus did: --resume goes on"
    return "" if report.whole else f"; a part: the corpus has {report.documents:,} documents"


def _predictions(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    columns = [
        Column("", lambda part: part.part or "all", whole=True),
        *fields("{:,}".format, {"texts": "documents", "tokens": "tokens"}),
        *fields(four_decimals, {"loss": "loss", "by text": "document_loss", "spread": "spread"}),
        *fields(percent, {"right": "accuracy"}),
        *fields(percent, {"by text": "document_accuracy"}, from_width=100),
        *fields("{:,}".format, {"all right": "all_right"}, from_width=90),
        *fields(three_decimals, {"1/rank": "reciprocal_rank"}, from_width=90),
    ]
    more = []
    if lost := sum(part.nonfinite for part in report.parts):
        more.append(words(f"{counted(lost, 'token')} more whose loss is not finite", "bold red"))
    if report.overfitting is not None:
        more.append(words(report.overfitting.text, "bold red" if report.overfitting.holds else ""))
    said = "loss: -log P of what follows, in nats; by text: mean of the texts' means, with their spread"
    yield from table_section("Predictions", columns, report.parts, said, more=more)
    for part in report.parts:
        yield from _of_part(part, verbose)


def _of_part(part: SurveyedPart, verbose: bool) -> Iterator[Section]:
    aside = part.part
    often = [token for token in part.by_token if token.count >= OFTEN or verbose]
    hardest = sorted(often, key=lambda token: -token.loss)
    shown = hardest if verbose else hardest[:HARDEST]
    columns = [
        Column("token", lambda token: shown_token(token.label), right=True),
        *fields("{:,}".format, {"times": "count"}),
        *fields(four_decimals, {"loss": "loss"}),
        *fields(percent, {"right": "accuracy"}),
        *fields(three_decimals, {"1/rank": "reciprocal_rank"}),
    ]
    yield from table_section("Hardest to predict", columns, shown, aside=aside)
    most = None if verbose else EXAMPLES
    columns = [
        *fields(four_decimals, {"loss": "value"}),
        Column("where", lambda example: example.place, whole=True),
        Column("text", lambda example: example.before, elastic=10),
    ]
    yield from table_section("Texts predicted worst", columns, part.worst[:most], aside=aside)
    if part.documents > EXAMPLES:
        yield from table_section("Texts predicted best", columns, part.best[:most], aside=aside)


def _layers(layers: Sequence[SurveyedLayer]) -> list[Section]:
    columns = [
        *fields(str, {"layer": "layer"}),
        Column("growth", lambda row: f"× {ratio(row.growth)}", right=True),
        *fields(three_decimals, {"cosine": "cosine"}),
        Column("massive", lambda row: _share(row.massive, row.documents), right=True),
        Column("farthest", lambda row: _farthest(row.farthest), wrap=True),
    ]
    said = (
        "growth: how many times longer a layer leaves a row of the stream, geometric mean; cosine: between "
        "before and after; massive: texts with an element 1,000 times the median or more; farthest: the "
        "most, with channel, @position, token and text"
    )
    return table_section("Residual stream", columns, layers, said, about=attrgetter("event"))


def _share(count: int, of: int) -> str:
    return "–" if not of else f"{count / of:.1%}" if count else "0"


def _farthest(example: SurveyExample | None) -> str:
    if example is None:
        return "–"
    token = shown_token(example.token or example.before)
    where = f'channel {example.channel} @{example.position} "{token}" {example.place}'
    return f"× {example.value:,.0f} {where}"


def _heads(heads: Sequence[SurveyedHead], verbose: bool) -> list[Section]:
    few = all(head.layer < FEW_LAYERS for head in heads)
    telling = most_of_each_role(heads)
    shown = heads if verbose or few else [head for head in heads if head in telling]
    columns = [
        Column("head", lambda head: f"layer{head.layer} head {head.head}", whole=True),
        *fields(figure, {"entropy": "entropy", **SHARES}),
        Column("role", lambda head: ROLE_WORDS[head.role], style="cyan"),
    ]
    said = (
        f"spread evenly it would be: {_spread_evenly(shown)}; repeat: of the queries whose token occurred "
        "before, on these occurrences"
    )
    title, aside = "What heads look at", "mean of all queries from position 1 on"
    more, event = roles_of_all(heads, shown), attrgetter("event")
    return table_section(title, columns, shown, said, about=event, aside=aside, more=more)


def _spread_evenly(heads: Sequence[SurveyedHead]) -> str:
    """What even attention would give, for each of their windows."""
    by_window = {head.window: head for head in heads}
    said = []
    for window, head in sorted(by_window.items(), key=lambda own: own[0] or math.inf):
        shares = ", ".join(f"{ROLE_WORDS[role]} {figure(getattr(head.even, role))}" for role in ROLES)
        where = "" if len(by_window) == 1 else f" ({f'window {window:,}' if window else 'no window'})"
        said.append(f"entropy {figure(head.even_entropy)}, {shares}{where}")
    return "; ".join(said)


def _events(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    few = len(report.layers) <= FEW_LAYERS
    shown = list(report.events) if verbose or few else _oddest(report.events)
    if not shown:
        return
    columns = [
        Column("event", name_of, whole=True),
        *fields(significant, {"mean": "mean", "std": "std", "least": "least", "largest": "largest"}),
        *fields(_zeros, {"zeros": "zeros"}),
    ]
    more = []
    if len(shown) < len(report.events):
        which = "those with dead channels, or whose channels stand out most; --verbose: all"
        more.append(words(f"of {counted(len(report.events), 'event')} {which}"))
    yield from table_section("Channels", columns, shown, about=name_of, more=more)
    yield _odd_channels([event for event in shown if _standing_out(event)])
    yield from _quantiles([event for event in report.events if event.quantiles])


def _odd_channels(events: Sequence[SurveyedEvent]) -> Section:
    """What is dead, and which channels are outliers."""
    title = "Dead and outlier channels"
    said = (
        "dead: a unit of an MLP that is never beyond ±0.01, another channel that is always 0; outlier: RMS 6 "
        "times the median one of the event's channels or more, with how many times"
    )
    columns = [Column("event", name_of, whole=True), Column("channels", _standing_out, wrap=True)]
    none = words("none: no unit or channel is dead, and none is an outlier")
    found = Table(columns, events, about=name_of) if events else none
    return Section([found, words(said, "dim")], title)


def _oddest(events: Sequence[SurveyedEvent]) -> list[SurveyedEvent]:
    """Those with values that are not finite or with dead channels, and those whose channels stand out most,
    in order."""
    odd = [event for event in events if event.dead_count or event.nonfinite]
    far = [event for event in events if event.outlier_count and event not in odd]
    far.sort(key=lambda event: -event.outliers[0].times_median)
    chosen = {event.name for event in [*odd[:ODDEST], *far[:ODDEST]]}
    return [event for event in events if event.name in chosen]


def _zeros(share: float | None) -> str:
    return "0" if share == 0 else percent(share)


def _standing_out(event: SurveyedEvent) -> str:
    said = []
    if event.nonfinite:
        said.append(f"{event.nonfinite:,} values not finite")
    if event.dead_count:
        named = ", ".join(map(str, event.dead[:NAMED])) + ", …" * (event.dead_count > NAMED)
        said.append(f"{event.dead_count:,} of {event.channels:,} dead: {named}")
    if event.outlier_count:
        named = ", ".join(f"{own.channel} × {ratio(own.times_median)}" for own in event.outliers[:NAMED])
        more = f" and {event.outlier_count - NAMED:,} more" if event.outlier_count > NAMED else ""
        said.append(f"outliers: {named}{more}")
    return "; ".join(said)


def _quantiles(events: Sequence[SurveyedEvent]) -> list[Section]:
    def cell(name: str) -> Callable[[SurveyedEvent], str]:
        return lambda event: significant((event.quantiles or {}).get(name))

    names = events[0].quantiles or {} if events else {}
    columns = [Column("event", name_of, whole=True), *(Column(name, cell(name), True) for name in names)]
    said = "so many of the magnitudes are not larger; at most 13 % above the true one"
    return table_section("Magnitudes", columns, events, said, about=name_of)


def _units(units: Sequence[UnitExamples], verbose: bool) -> list[Section]:
    shown = units if verbose else sorted(units, key=lambda unit: -unit.examples[0].value)[:UNITS]
    rows = [(unit, example) for unit in shown for example in unit.examples[: None if verbose else EXAMPLES]]
    columns = [
        Column("unit", lambda row: f"{row[0].event}[{row[0].unit}]", whole=True),
        Column("value", lambda row: significant(row[1].value), right=True),
        Column("where", lambda row: f"{row[1].place} @{row[1].position}", whole=True),
        Column("text up to there", lambda row: f"{row[1].before}[{row[1].token}]", elastic=10),
    ]
    which = f"the {len(shown)} units with the largest values of {len(units):,} ever above 0; --verbose: all"
    more = [words(which)] if len(shown) < len(units) else []
    title = "Where units are most active"
    return table_section(title, columns, rows, about=lambda row: row[0].event, more=more)


def imatrix_sections(report: ImatrixReport) -> list[Section]:
    """Each weight of an importance matrix."""
    pairs = [
        ("imatrix", report.file),
        ("of", ", ".join(report.datasets)),
        ("read", f"{counted(report.chunk_count, 'chunk')} of {report.chunk_size:,} tokens"),
    ]
    columns = [
        Column("weight", name_of, whole=True),
        *fields("{:,}".format, {"matrices": "matrices"}, from_width=90),
        *fields("{:,}".format, {"channels": "channels", "rows": "rows"}),
        *fields(significant, {"RMS": "rms"}),
        Column("largest channel", lambda row: "–" if row.channel is None else str(row.channel), right=True),
        *fields(ratio, {"× median": "times_median"}),
    ]
    said = "RMS: of what a weight reads; largest channel: by RMS, with how many times the median one that is"
    return [Section([Labelled(pairs)]), *table_section("Inputs", columns, report.weights, said)]
