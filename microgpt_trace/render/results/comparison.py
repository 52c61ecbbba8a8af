"""A comparison as sections: where two runs part on top, then every event in order of computation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from ...architecture.plans.catalogue import kind_named
from ...architecture.plans.kinds import Scores
from ...comparison.compared_runs import RecordedRun, Unpaired
from ...comparison.differences import GIVEN, Agreement, Comparison, EventDifference, SideSummary
from ...grouping import grouped
from ...rounding.judging import IN_LENGTH, OperationResult
from ...text.printable import shown_token, with_ids
from ...text.wording import abridged, counted
from ..numbers import distance, two_apart
from ..sections import (
    WIDE,
    Column,
    Labelled,
    Section,
    Table,
    Words,
    alarm,
    facts,
    fields,
    indented,
    name_of,
    table_section,
    words,
)

FEW = 64  # events that are all shown without --verbose
MAX_TOKENS = 40  # that a header spells out
MAX_LISTED = 8  # names of a list before some are left out


def comparison_sections(
    result: Comparison, *, verbose: bool = False, by_position: bool = False
) -> list[Section]:
    """The whole comparison: sides, verdict, first divergence, tables, what was not compared."""
    sections = [Section([_sides(result)]), _verdict(result)]
    differ = any(event.max_abs != 0 for event in result.events if event.told)
    if verbose or (differ and len(result.events) <= FEW):
        sections.append(_table_of("Events in order of computation", result.events))
    elif differ:
        sections += _overview(result)
    if by_position:
        sections.append(_positions(result))
    for side, letter in ((result.a, "A"), (result.b, "B")):
        sections += unpaired_sections(side.unpaired, f"{letter}, not compared")
    return sections


def _sides(result: Comparison) -> Labelled:
    pairs = [*facts("A", origin_of(result.a)), *facts("B", origin_of(result.b))]
    if result.tokens is not None:
        pairs.append(("tokens", tokens_line(result.tokens, result.labels)))
    band = filter(None, [result.tolerance.reason, str(result.unseen or "")])
    return Labelled([*pairs, *facts("band", band)])


def origin_of(side: SideSummary | RecordedRun) -> list[str]:
    """Where a dump or a side is from, and what is odd about it."""
    return [f"{side.origin} ({side.kind})", *of_all_layers(side.notes)]


def tokens_line(tokens: Sequence[int], labels: Sequence[str]) -> str:
    """How many, and each with its text where that is known."""
    first = tokens[:MAX_TOKENS]
    named = with_ids(labels, first) if labels else " ".join(map(str, first))
    return f"{len(tokens):,}: {named}{' …' * (len(tokens) > MAX_TOKENS)}"


def _verdict(result: Comparison) -> Section:
    if result.agree:
        title, style, said = _agreement(result), "bold green", _agreeing(result)
    else:
        first = result.event(result.first or "")
        head = "" if first.head is None else f", head {first.head}"
        title, style = f"First divergence: {place_of(first, result.labels)}{head}", "bold red"
        said = _divergence(result, first)
    blocks = [*said]
    if result.agreement is not None:
        blocks.append(indented(_predictions(result.agreement)))
    if result.hint:
        blocks.append(indented(result.hint))
    return Section(blocks, title, style=style)


def _agreement(result: Comparison) -> str:
    """What agrees, out of what there is."""
    told = [event for event in result.events if event.told]
    which = _which(result, len(told))
    if result.of_statistics:
        return f"The statistics of {which} agree"
    exact = all(event.max_abs == 0 for event in told)
    how = "number for number" if exact else "within its band" if len(told) == 1 else "within their bands"
    if result.same:
        return f"The same, {how}: {which}" if exact else f"The same: {which} lie {how}"
    return f"{which[0].upper()}{which[1:]} agree{'s' * (len(told) == 1)}, {how}"


def _agreeing(result: Comparison) -> Iterator[Words]:
    """How near to its band what agrees lies, and what was not looked at."""
    if result.of_statistics:
        yield indented("values were not compared: one side has none")
    elif any(event.max_abs != 0 for event in result.events if event.told):
        worst = result.worst
        nearest = f"{distance(worst.relative)} of a row, band {distance(worst.tolerance)}"
        yield indented(f"nearest to its band: {worst.name}, {nearest}")
    yield from _not_compared(result)


def _which(result: Comparison, told: int) -> str:
    """The events that were compared: all of them, or so many of how many."""
    every = len(result.events) + len(result.left_out)
    whole = f"all {every:,} events" if every > 1 else "the one event"
    return whole if told == every else f"the {counted(told, 'event')} named (of {every:,})"


def _not_compared(result: Comparison) -> Iterator[Words]:
    """What a verdict says nothing of beside the events that one side lacks, which are listed below."""
    lacking = {unpaired.name for side in (result.a, result.b) for unpaired in side.unpaired}
    names = of_all_layers([name for name in result.left_out if name not in lacking])
    if names:
        yield indented(f"not asked for: {abridged(names, MAX_LISTED)}")
    told = []
    for event in result.in_part:
        if (rows := result.rows_of(event)) < result.length:
            told.append((event.name, f"at {rows:,} of {result.length:,} positions alone"))
        if event.alike:
            told.append((event.name, _alike(event)))
    yield from map(indented, by_reason(told))
    if any(isinstance(kind_named(event.name), Scores) for event in result.events):
        yield indented("attention scores of later keys, which the mask hides, are not compared", "dim")


def _alike(event: EventDifference) -> str:
    """What is said of elements that are not finite, and the same, on both sides."""
    if not event.told:
        return "nothing to compare, NaN or infinite on both sides in all places alike"
    return f"{event.alike:,} of {event.count:,} elements not compared, NaN or infinite on both sides alike"


def _predictions(agreement: Agreement) -> str:
    unknown = f" ({agreement.unknown:,} have none: NaN)" if agreement.unknown else ""
    positions = counted(agreement.positions, "position")
    same = f"the same token at {agreement.same_argmax:,} of {positions}{unknown}"
    if math.isnan(agreement.mean_kl):
        return f"predictions: {same}, no KL: nowhere do both sides have probabilities"
    return (
        f"predictions: {same}, KL {agreement.mean_kl:.2g} on average, at most {agreement.max_kl:.2g} "
        f"(position {agreement.max_kl_position})"
    )


def _divergence(result: Comparison, first: EventDifference) -> Iterator[Words]:
    if first.expr:
        yield indented(first.expr, "dim")
    element = f"element {list(first.index)}: " if first.index else "value: "
    a, b = two_apart(first.a, first.b)
    given = GIVEN in first.measured
    has = f"the recording has {b}, from its own inputs follows {a}" if given else f"A has {a}, B has {b}"
    yield indented(element + has)
    yield indented(f"off by {distance(first.relative)}{_of(first)}; allowed {distance(first.tolerance)}")
    count = sum(not event.holds for event in result.events)
    later = f"; {count:,} of {len(result.events):,} events lie beyond their band" if count > 1 else ""
    yield indented(f"{_up_to(result)}{later}")
    if result.between:
        yield indented(f"not compared in between: {abridged(result.between, MAX_LISTED)}")
    if result.jump is not None:
        jump = result.jump
        where = "there" if jump.name == first.name else f"at {jump.name}"
        yield indented(f"largest jump: {where}, from {distance(jump.before)} to {distance(jump.after)}")


def _up_to(result: Comparison) -> str:
    """How many events agree before the first that does not, and of how many."""
    if result.since is None:
        return "no event before it was compared"
    if not result.missed:
        return f"up to {result.since} all events agree"
    agree = [event.name for event in result.events if event.told].index(result.since) + 1
    which = f"the {counted(agree, 'event')} compared (of {agree + result.missed:,})"
    return f"up to {result.since} {which} agree{'s' * (agree == 1)}"


def place_of(event: EventDifference | OperationResult, labels: Sequence[str]) -> str:
    """An event with its layer, and the position where it is farthest off, if it is known."""
    layer, position = "" if event.layer is None else f"layer {event.layer}, ", event.position
    if position is None:
        return f"{layer}{event.name}"
    token = f" ({shown_token(labels[position])})" if position < len(labels) else ""
    return f"{layer}{event.name}, position {position}{token}"


def _of(event: EventDifference) -> str:
    """What the error is a share of."""
    if not event.by_position:
        return f" ({event.measured})" if event.measured else ""
    whose = "" if event.measured.startswith(IN_LENGTH) else " of the worst row"
    return whose + (f" {event.measured}" if event.measured else "")


def _columns() -> list[Column]:
    return [
        Column("", lambda e: "" if e.holds else "✗", style=alarm, whole=True),
        Column("event", name_of, whole=True, style=alarm),
        Column("shape", lambda e: str(list(e.shape)), from_width=WIDE),
        *fields(distance, {"worst": "relative"}, style=alarm),
        *fields(lambda band: f"{band:.0e}" if band < 1e-3 else distance(band), {"band": "tolerance"}),
        *fields(distance, {"median": "median"}),
        Column("cosine", lambda e: "–" if e.cosine is None else f"{e.cosine:.4f}", right=True),
        Column("max |d|", _max_abs, right=True),
        Column("at", lambda e: str(list(e.max_index)) if e.max_index and e.told else "–", whole=True),
    ]


def _max_abs(event: EventDifference) -> str:
    if not event.told:
        return "–"
    return f"{event.max_abs:.2g}" if event.max_abs < math.inf else "NaN/Inf"


def _table_of(title: str, events: Sequence[EventDifference]) -> Section:
    legend = "worst, median: |a - b| of a row over the larger of |a| and |b|"
    hidden = sorted({event.measured for event in events if event.measured and event.by_position})
    legend += f", or {' or '.join(hidden)} where that is larger" if hidden else ""
    legend += "; max |d|: the largest |a - b|"
    return Section([Table(_columns(), events, about=name_of), words(legend, "dim")], title)


def _overview(result: Comparison) -> Iterator[Section]:
    """The worst event of every layer; and all events of the layer where the runs part."""
    parts = groupby(result.events, key=lambda e: e.stage if e.layer is None else e.layer)
    rows = [max(events, key=lambda e: (not e.holds, e.excess)) for _, events in parts]
    yield _table_of("The worst event of each layer (--verbose shows all)", rows)
    if result.first is not None:
        first = result.event(result.first)
        around = [event for event in result.events if event.layer == first.layer]
        where = f"layer {first.layer}" if first.layer is not None else "the events outside of layers"
        yield from table_section(f"All of {where}", _columns(), around, about=name_of)


def _positions(result: Comparison) -> Section:
    """The worst row of every event at each of the positions; – where it was not compared."""
    events = [event for event in result.events if event.positions]
    if not events:
        return Section([words("Statistics alone have no view by position.")])

    def column(position: int) -> Column:
        def error(event: EventDifference) -> str:
            return distance(dict(zip(event.positions, event.by_position, strict=True)).get(position))

        token = f" {shown_token(result.labels[position])[:6]}" if position < len(result.labels) else ""
        return Column(f"{position}{token}", error, right=True)

    columns = [Column("event", name_of, whole=True, style=alarm), *map(column, result.positions)]
    return Section([Table(columns, events, about=name_of)], "Worst row by position")


def of_all_layers(texts: Sequence[str]) -> list[str]:
    """What is said of several layers in the same words, said once."""
    return _said_once(texts, r"\blayer\d+\b", "layer*", " layers")


def _said_once(texts: Sequence[str], pattern: str, instead: str, unit: str) -> list[str]:
    """Texts that are alike but for what the pattern matches, once each with how many there are."""
    alike = grouped(texts, lambda text: re.sub(pattern, instead, text))
    return [same[0] if len(same) == 1 else f"{like} ({len(same)}{unit})" for like, same in alike.items()]


def unpaired_sections(left_over: Sequence[Unpaired], title: str) -> list[Section]:
    """What one side has and the other lacks, by the reason; nothing where there is none."""
    lines = []
    reasons = grouped(left_over, lambda unpaired: re.sub(r"\d+", "*", unpaired.reason))
    for pattern, same in reasons.items():
        names = _said_once([unpaired.name for unpaired in same], r"\d+", "*", "")
        alike = all(unpaired.reason == same[0].reason for unpaired in same)
        lines.append(words(f"{abridged(names, MAX_LISTED)}: {same[0].reason if alike else pattern}"))
    return [Section(lines, f"Only in {title}")] if lines else []


def by_reason(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names with a reason each, together where the reason is the same."""
    for reason, same in grouped(pairs, itemgetter(1)).items():
        yield f"{abridged(of_all_layers([name for name, _ in same]), MAX_LISTED)}: {reason}"
