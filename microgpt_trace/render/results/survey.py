"""A survey as sections: predictions, layers, heads, channels, examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...measuring.definitions import ROLES
from ...surveying.predictions import SurveyedPart, SurveyedToken
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
from ...tracing.findings import Insight
from ..numbers import figure, percent, ratio, significant
from ..sections import Block, Column, Labelled, Section, Table, indented, words
from .attribution import ROLE_WORDS

FEW_LAYERS = 2  # of a model whose events and heads are all shown
HARDEST, OFTEN = 8, 20  # tokens that are shown, of those that follow so often or more
EXAMPLES, OF_EACH_ROLE, UNITS = 5, 3, 8  # that are shown without --verbose
ODDEST = 10  # events of a deep model that are shown
NAMED = 4  # channels that a table names


def survey_sections(
    report: SurveyReport, *, verbose: bool = False, file: Path | None = None
) -> list[Section]:
    """All that a survey found; without `verbose` of tokens, documents, heads, events and units those that
    tell most."""
    sections = [_header(report, file), *_predictions(report, verbose)]
    if report.insights:
        sections.append(_insights(report.insights))
    if report.layers:
        sections.append(_layers(report.layers))
    if report.heads:
        sections.append(_heads(report.heads, verbose))
    sections += _events(report, verbose)
    return [*sections, *_units(report.units, verbose)]


def sections_of_survey(survey: Survey) -> list[Section]:
    """All that a survey found."""
    return survey_sections(report_of(survey))


def _header(report: SurveyReport, file: Path | None) -> Section:
    pairs = [("model", report.model), ("corpus", ", ".join(report.sources))]
    run = f"{counted(report.texts, 'text')}, {counted(report.tokens, 'token')}"
    pairs.append(("run", run + _of_what(report)))
    for title, cut in (("left out", False), ("in part", True)):
        found = [left for left in report.left_out if (left.reason == CUT) == cut]
        pairs += [
            ("" if i else title, f"{left.count:,} {left.reason} (first: {left.first})")
            for i, left in enumerate(found)
        ]
    if file is not None:
        pairs.append(("kept in", str(file)))
    return Section([Labelled(pairs)])


def _of_what(report: SurveyReport) -> str:
    """What there is besides what was run."""
    if report.documents is None:
        return "; it ended before the corpus did: --resume goes on"
    return "" if report.whole else f"; a part: the corpus has {report.documents:,} documents"


def _predictions(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    if not report.parts:
        return
    columns = [
        Column("", lambda part: part.part or "all", whole=True),
        Column("texts", lambda part: f"{part.documents:,}", right=True),
        Column("tokens", lambda part: f"{part.tokens:,}", right=True),
        Column("loss", lambda part: figure(part.loss, 4), right=True),
        Column("by text", lambda part: figure(part.document_loss, 4), right=True),
        Column("spread", lambda part: figure(part.spread, 4), right=True),
        Column("right", lambda part: percent(part.accuracy), right=True),
        Column("by text", lambda part: percent(part.document_accuracy), right=True, from_width=100),
        Column("all right", lambda part: f"{part.all_right:,}", right=True, from_width=90),
        Column("1/rank", lambda part: figure(part.reciprocal_rank, 3), right=True, from_width=90),
    ]
    blocks: list[Block] = [Table(columns, report.parts)]
    lost = sum(part.nonfinite for part in report.parts)
    if lost:
        blocks.append(words(f"{counted(lost, 'token')} more whose loss is not finite", "bold red"))
    if report.overfitting is not None:
        blocks.append(words(report.overfitting.text, "bold red" if report.overfitting.holds else ""))
    said = "loss: -log P of what follows, in nats; by text: mean of the texts' means, with their spread"
    yield Section([*blocks, words(said, "dim")], "Predictions")
    for part in report.parts:
        yield from _of_part(part, verbose)


def _of_part(part: SurveyedPart, verbose: bool) -> Iterator[Section]:
    aside = part.part
    often = [token for token in part.by_token if token.count >= OFTEN or verbose]
    hardest = sorted(often, key=lambda token: -token.loss)
    shown = hardest if verbose else hardest[:HARDEST]
    if shown:
        yield Section([Table(_token_columns(), shown)], "Hardest to predict", aside)
    most = None if verbose else EXAMPLES
    columns = [
        Column("loss", lambda example: figure(example.value, 4), right=True),
        Column("where", lambda example: example.place, whole=True),
        Column("text", lambda example: example.before, elastic=10),
    ]
    if part.worst:
        yield Section([Table(columns, part.worst[:most])], "Texts predicted worst", aside)
    if part.documents > EXAMPLES:
        yield Section([Table(columns, part.best[:most])], "Texts predicted best", aside)


def _token_columns() -> list[Column]:
    def of(name: str, form: Callable[[Any], str]) -> Callable[[SurveyedToken], str]:
        return lambda token: form(getattr(token, name))

    return [
        Column("token", of("label", shown_token), right=True),
        Column("times", of("count", lambda count: f"{count:,}"), right=True),
        Column("loss", of("loss", lambda loss: figure(loss, 4)), right=True),
        Column("right", of("accuracy", percent), right=True),
        Column("1/rank", of("reciprocal_rank", lambda share: figure(share, 3)), right=True),
    ]


def _insights(insights: Sequence[Insight]) -> Section:
    blocks = [
        block
        for insight in insights
        for block in (words(insight.title, "bold")._replace(about=insight.about), indented(insight.text))
    ]
    return Section(blocks, "What the survey reveals")


def _layers(layers: Sequence[SurveyedLayer]) -> Section:
    columns = [
        Column("layer", lambda row: str(row.layer), right=True),
        Column("growth", lambda row: f"× {ratio(row.growth)}", right=True),
        Column("cosine", lambda row: figure(row.cosine, 3), right=True),
        Column("massive", lambda row: _share(row.massive, row.documents), right=True),
        Column("farthest", lambda row: _farthest(row.farthest), wrap=True),
    ]
    said = (
        "growth: how many times longer a layer leaves a row of the stream, geometric mean; cosine: between "
        "before and after; massive: texts with an element 1,000 times the median or more; farthest: the "
        "most, with channel, @position, token and text"
    )
    table = Table(columns, layers, about=lambda row: row.event)
    return Section([table, words(said, "dim")], "Residual stream")


def _share(count: int, of: int) -> str:
    return "–" if not of else f"{count / of:.1%}" if count else "0"


def _farthest(example: SurveyExample | None) -> str:
    if example is None:
        return "–"
    token = shown_token(example.token or example.before)
    where = f'channel {example.channel} @{example.position} "{token}" {example.place}'
    return f"× {example.value:,.0f} {where}"


def _heads(heads: Sequence[SurveyedHead], verbose: bool) -> Section:
    few = max(head.layer for head in heads) < FEW_LAYERS
    shown = heads if verbose or few else _telling(heads)

    def share(of: str, name: str) -> Callable[[SurveyedHead], str]:
        return lambda head: figure(getattr(getattr(head, of), name))

    columns = [
        Column("head", lambda head: f"layer{head.layer} head {head.head}", whole=True),
        Column("entropy", lambda head: figure(head.entropy), right=True),
        *(Column(ROLE_WORDS[role], share("attention", role), right=True) for role in ROLES),
        Column("role", lambda head: ROLE_WORDS[head.role], style=lambda head: "cyan"),
    ]
    blocks: list[Block] = [Table(columns, shown, about=lambda head: head.event)]
    if len(shown) < len(heads):
        counts = Counter(head.role for head in heads)
        of_each = ", ".join(f"{counts[role]:,} {ROLE_WORDS[role]}" for role in ROLES)
        blocks.append(words(f"of all {len(heads):,} heads: {of_each}, {counts['none']:,} none"))
    said = (
        f"spread evenly it would be: {_spread_evenly(shown)}; repeat: of the queries whose token occurred "
        "before, on these occurrences"
    )
    return Section(
        [*blocks, words(said, "dim")], "What heads look at", "mean of all queries from position 1 on"
    )


def _spread_evenly(heads: Sequence[SurveyedHead]) -> str:
    """What even attention would give, for each of their windows."""
    by_window = {head.window: head for head in heads}
    said = []
    for window, head in sorted(by_window.items(), key=lambda own: own[0] or math.inf):
        shares = ", ".join(f"{ROLE_WORDS[role]} {figure(getattr(head.even, role))}" for role in ROLES)
        where = "" if len(by_window) == 1 else f" ({f'window {window:,}' if window else 'no window'})"
        said.append(f"entropy {figure(head.even_entropy)}, {shares}{where}")
    return "; ".join(said)


def _telling(heads: Sequence[SurveyedHead]) -> list[SurveyedHead]:
    """Those that have each role most, in order."""
    chosen = set[int]()
    for role in ROLES:
        having = [at for at, head in enumerate(heads) if head.role == role]
        having.sort(key=lambda at: -(getattr(heads[at].attention, ROLES[heads[at].role]) or 0.0))
        chosen.update(having[:OF_EACH_ROLE])
    return [heads[at] for at in sorted(chosen)]


def _events(report: SurveyReport, verbose: bool) -> Iterator[Section]:
    few = len(report.layers) <= FEW_LAYERS
    shown = list(report.events) if verbose or few else _oddest(report.events)
    if not shown:
        return
    columns = [
        Column("event", lambda event: event.name, whole=True),
        Column("mean", lambda event: significant(event.mean), right=True),
        Column("std", lambda event: significant(event.std), right=True),
        Column("least", lambda event: significant(event.least), right=True),
        Column("largest", lambda event: significant(event.largest), right=True),
        Column("zeros", lambda event: _zeros(event), right=True),
    ]
    blocks: list[Block] = [Table(columns, shown, about=lambda event: event.name)]
    if len(shown) < len(report.events):
        which = "those with dead channels, or whose channels stand out most; --verbose: all"
        blocks.append(words(f"of {counted(len(report.events), 'event')} {which}"))
    yield Section(blocks, "Channels")
    yield _odd_channels([event for event in shown if _standing_out(event)])
    if any(event.quantiles for event in report.events):
        yield _quantiles([event for event in report.events if event.quantiles])


def _odd_channels(events: Sequence[SurveyedEvent]) -> Section:
    """What is dead, and which channels are outliers."""
    title = "Dead and outlier channels"
    said = (
        "dead: a unit of an MLP that is never beyond ±0.01, another channel that is always 0; outlier: RMS 6 "
        "times the median one of the event's channels or more, with how many times"
    )
    columns = [
        Column("event", lambda event: event.name, whole=True),
        Column("channels", _standing_out, wrap=True),
    ]
    none = words("none: no unit or channel is dead, and none is an outlier")
    found = Table(columns, events, about=lambda event: event.name) if events else none
    return Section([found, words(said, "dim")], title)


def _oddest(events: Sequence[SurveyedEvent]) -> list[SurveyedEvent]:
    """Those with values that are not finite or with dead channels, and those whose channels stand out most,
    in order."""
    odd = [event for event in events if event.dead_count or event.nonfinite]
    far = [event for event in events if event.outlier_count and event not in odd]
    far.sort(key=lambda event: -event.outliers[0].times_median)
    chosen = {event.name for event in [*odd[:ODDEST], *far[:ODDEST]]}
    return [event for event in events if event.name in chosen]


def _zeros(event: SurveyedEvent) -> str:
    return "–" if event.zeros is None else "0" if not event.zeros else percent(event.zeros)


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


def _quantiles(events: Sequence[SurveyedEvent]) -> Section:
    def cell(name: str) -> Callable[[SurveyedEvent], str]:
        return lambda event: significant((event.quantiles or {}).get(name))

    names = list(events[0].quantiles or {})
    columns = [Column("event", lambda event: event.name, whole=True)]
    columns += [Column(name, cell(name), right=True) for name in names]
    said = "so many of the magnitudes are not larger; at most 13 % above the true one"
    table = Table(columns, events, about=lambda event: event.name)
    return Section([table, words(said, "dim")], "Magnitudes")


def _units(units: Sequence[UnitExamples], verbose: bool) -> Iterator[Section]:
    if not units:
        return
    shown = units if verbose else sorted(units, key=lambda unit: -unit.examples[0].value)[:UNITS]
    rows = [(unit, example) for unit in shown for example in unit.examples[: None if verbose else EXAMPLES]]
    columns = [
        Column("unit", lambda row: f"{row[0].event}[{row[0].unit}]", whole=True),
        Column("value", lambda row: significant(row[1].value), right=True),
        Column("where", lambda row: f"{row[1].place} @{row[1].position}", whole=True),
        Column("text up to there", lambda row: f"{row[1].before}[{row[1].token}]", elastic=10),
    ]
    blocks: list[Block] = [Table(columns, rows, about=lambda row: row[0].event)]
    if len(shown) < len(units):
        which = f"the {len(shown)} units with the largest values of {len(units):,} ever above 0"
        blocks.append(words(f"{which}; --verbose: all"))
    yield Section(blocks, "Where units are most active")
