"""A comparison as sections: the first divergence of two runs, then every event in order of computation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from ...comparison.compared_runs import RecordedRun, Unpaired
from ...comparison.differences import GIVEN, Comparison, EventDifference, RoutingFlip, SideSummary
from ...decoder.catalogue import kind_named
from ...dumps.layouts import NO_EVENT
from ...grouping import grouped
from ...plans.kinds import Scores
from ...rounding.judging import IN_LENGTH, IN_SCORES, OperationResult
from ...text.printable import shown_token, with_ids
from ...text.wording import abridged, counted, listed
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
from .judged_sections import judged_lines, judged_title, predictions_line

FEW = 64  # a table of more events is shortened without --verbose
MAX_TOKENS = 40  # largest number of tokens that a header shows
MAX_LISTED = 8  # largest number of names that a line shows before "and N more"


def comparison_sections(
    result: Comparison, *, verbose: bool = False, by_position: bool = False
) -> list[Section]:
    """Return the two sides, the verdict with the first divergence, tables, and what was not compared."""
    sections = [Section([_sides(result)]), *_routing(result), *_offer(result), _verdict(result)]
    differ = any(event.max_abs != 0 for event in result.compared)
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
    """Return the origin, the kind and the notes of one side of a comparison, or of a dump."""
    return [f"{side.origin} ({side.kind})", *merged_layers(side.notes)]


def tokens_line(tokens: Sequence[int], labels: Sequence[str]) -> str:
    """Return the number of tokens and the first tokens, with their texts if `labels` are given."""
    first = tokens[:MAX_TOKENS]
    named = with_ids(labels, first) if labels else " ".join(map(str, first))
    return f"{len(tokens):,}: {named}{' …' * (len(tokens) > MAX_TOKENS)}"


def _offer(result: Comparison) -> Iterator[Section]:
    """Yield a section that proposes another precision for `--compute`, if this precision may explain all."""
    if result.offer:
        title = f"Before you search for a fault: {result.offer.look}"
        yield Section([indented(str(result.offer))], title, style="bold yellow")


def _verdict(result: Comparison) -> Section:
    place = "" if result.first is None else place_of(result.event(result.first), result.labels)
    if result.judged:
        title, style, blocks = judged_title(result, place), "bold green" if result.agree else "bold red", []
        blocks += [*map(indented, judged_lines(result))]
        blocks += [] if result.first is None else [*_divergence(result, result.event(result.first))]
    elif result.agree:
        title, style, blocks = _agreement(result), "bold green", [*_agreement_details(result)]
    else:
        first = result.event(result.first or "")
        head = "" if first.head is None else f", head {first.head}"
        title, style = f"First divergence: {place}{head}", "bold red"
        blocks = [*_divergence(result, first)]
    if result.agreement is not None:
        blocks.append(indented(predictions_line(result.agreement)))
    known = len(result.events) + len(_not_requested(result))
    few = few_names(known, result.a.unpaired, result.b.unpaired)
    return Section(blocks, few + title, style="bold yellow" if few and result.agree else style)


def _routing(result: Comparison) -> Iterator[Section]:
    """Yield a section about the positions where the runs choose different experts."""
    flips, positions = result.routing, {flip.position for flip in result.routing}
    if not flips:
        return
    where = f"{counted(len(positions), 'position')}, in {counted(len({f.layer for f in flips}), 'layer')}"
    lines = [_flip(flip, result) for flip in flips[:MAX_LISTED]]
    if len(flips) > MAX_LISTED:
        explained = sum(flip.by_rounding for flip in flips)
        lines.append(f"{len(flips):,} such choices in all; rounding explains {explained:,} of them")
    after = merged_layers(result.consequences)
    if after:
        before = f"where other experts were chosen before: {abridged(after, MAX_LISTED)}"
        lines.append(f"these events differ only {before}")
    title = f"Routing: A and B choose different experts at {where}"
    yield Section(list(map(indented, lines)), title, style="bold yellow")


def _flip(flip: RoutingFlip, result: Comparison) -> str:
    """Describe the experts, the margin, and whether rounding explains the flip."""
    token = f" ({shown_token(result.labels[flip.position])})" if flip.position < len(result.labels) else ""
    a, b = (listed([*map(str, own)] or ["no other"]) for own in (flip.only_a, flip.only_b))
    pair = len(flip.only_a) == len(flip.only_b) == 1
    what = f"experts {a} and {b} change places" if pair else f"A chooses {a}, B chooses {b}"
    start = f"layer {flip.layer}, position {flip.position}{token}: {what}"
    if not (flip.only_a and flip.only_b):
        return f"{start}; {'A' if flip.only_b else 'B'} chooses an expert twice"
    if flip.margin is None:
        return f"{start}; the logits of these experts are missing or not finite"
    if flip.wrong:
        return f"{start}; the experts of {flip.wrong} do not have the largest logits of {flip.wrong}"
    kind = result.tolerance.kind
    means = {"given": "the given tolerance", "calibrated": "the calibration run"}.get(
        kind, f"{kind} rounding"
    )
    margin = f"{start}; margin {distance(abs(flip.margin))}"
    if flip.explained is None:
        return margin
    limit = f"the {distance(flip.explained)} that {means} explains"
    if flip.by_rounding:
        return f"{margin}, beneath {limit}"
    follows = ", but the choice of each run follows from its own logits" if result.agree else ""
    return f"{margin}, above {limit}{follows}"


def few_names(known: int, *sides: Sequence[Unpaired]) -> str:
    """Return a sentence if most names of a dump are unknown, so that little was compared, or ""."""
    for unpaired in sides:
        unknown = sum(own.reason == NO_EVENT for own in unpaired)
        if unknown > known:
            return f"Only {known:,} of {known + unknown:,} names in the dump are known. "
    return ""


def _agreement(result: Comparison) -> str:
    """Return the title of a comparison whose events all agree."""
    count, every = len(result.compared), len(result.events) + len(result.left_out)
    which = f"all {every:,} events" if every > 1 else "the one event"
    if count < every:
        which = f"the {counted(count, 'event')} compared (of {every:,})"
    if result.of_statistics:
        return f"The statistics of {which} agree"
    exact = all(event.max_abs == 0 for event in result.compared)
    how = "number for number" if exact else "within its band" if count == 1 else "within their bands"
    agree = f"{which} agree{'s' * (count == 1)} {how}"
    if result.routing or result.consequences:
        agree += ", apart from what follows from choices of experts that rounding explains"
    return f"The same: {agree}" if result.same else f"{agree[0].upper()}{agree[1:]}"


def _agreement_details(result: Comparison) -> Iterator[Words]:
    """Yield the event that is nearest to the limit of its band, then everything that was not compared. Events
    that only one side has are listed in another section."""
    if result.of_statistics:
        yield indented("only statistics were compared: one side has no values")
    elif any(event.max_abs != 0 for event in result.compared):
        worst = result.worst
        off = f"relative error {distance(worst.relative)} of a row, band {distance(worst.tolerance)}"
        yield indented(f"closest to the limit of its band: {worst.name}, {off}")
    if names := merged_layers(_not_requested(result)):
        yield indented(f"not requested: {abridged(names, MAX_LISTED)}")
    gaps = []
    for event in result.partly_compared:
        if (count := result.positions_of(event)) < result.length:
            gaps.append((event.name, f"compared at only {count:,} of {result.length:,} positions"))
        if event.alike:
            gaps.append((event.name, _alike(event)))
    yield from map(indented, by_reason(gaps))
    if any(isinstance(kind_named(event.name), Scores) for event in result.events):
        yield indented("attention scores of later keys, which the mask hides, are not compared", "dim")


def _not_requested(result: Comparison) -> list[str]:
    """Return the events that both sides have, but that were not compared."""
    lacking = {unpaired.name for side in (result.a, result.b) for unpaired in side.unpaired}
    return [name for name in result.left_out if name not in lacking]


def _alike(event: EventDifference) -> str:
    """Describe the elements that are NaN on both sides, or the same infinity on both sides."""
    if not event.comparable:
        return "nothing to compare: all elements are NaN or infinite, and the same on both sides"
    return f"{event.alike:,} of {event.count:,} elements not compared: NaN or the same infinity on both sides"


def _divergence(result: Comparison, first: EventDifference) -> Iterator[Words]:
    if first.expr:
        yield indented(first.expr, "dim")
    element = f"element {list(first.index)}: " if first.index else "value: "
    a, b = two_apart(first.a, first.b)
    own = GIVEN in first.measured
    values = f"{b} in the recording, {a} from the recorded inputs" if own else f"A has {a}, B has {b}"
    yield indented(element + values)
    yield indented(f"off by {distance(first.relative)}{_of(first)}; allowed {distance(first.tolerance)}")
    if result.where:
        yield indented(result.where)
    count = sum(not event.holds for event in result.events)
    later = f"; {count:,} of {len(result.events):,} events lie beyond their band" if count > 1 else ""
    yield indented(f"{_up_to(result)}{later}")
    if result.between:
        yield indented(f"not compared in between: {abridged(result.between, MAX_LISTED)}")
    if result.jump is not None:
        jump = result.jump
        where = "this event" if jump.name == first.name else jump.name
        yield indented(f"largest jump: at {where}, from {distance(jump.before)} to {distance(jump.after)}")


def _up_to(result: Comparison) -> str:
    """Describe the events that agree before the first difference."""
    if result.since is None:
        return "no earlier event was compared"
    if not result.missed:
        return f"all events up to {result.since} agree"
    agree = [event.name for event in result.compared].index(result.since) + 1
    which = f"the {counted(agree, 'event')} compared (of {agree + result.missed:,})"
    return f"{which} up to {result.since} agree{'s' * (agree == 1)}"


def place_of(event: EventDifference | OperationResult, labels: Sequence[str]) -> str:
    """Return the event's layer and name, and the position of the worst row if the event has a worst row."""
    layer, position = "" if event.layer is None else f"layer {event.layer}, ", event.position
    if position is None:
        return f"{layer}{event.name}"
    token = f" ({shown_token(labels[position])})" if position < len(labels) else ""
    return f"{layer}{event.name}, position {position}{token}"


def _of(event: EventDifference) -> str:
    """Name the divisor of the error in words, such as " of the worst row"."""
    if not event.by_position:
        return f" ({event.measured})" if event.measured else ""
    whose = "" if event.measured.startswith((IN_LENGTH, IN_SCORES)) else " of the worst row"
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
        Column("at", lambda e: str(list(e.max_index)) if e.max_index and e.comparable else "–", whole=True),
    ]


def _max_abs(event: EventDifference) -> str:
    if not event.comparable:
        return "–"
    return f"{event.max_abs:.2g}" if event.max_abs < math.inf else "NaN/Inf"


def _table_of(title: str, events: Sequence[EventDifference]) -> Section:
    legend = "worst, median: |a - b| of a row, divided by the larger of |a| and |b|"
    hidden = sorted({event.measured for event in events if event.measured and event.by_position})
    legend += f", or the difference {' or '.join(hidden)} if this difference is larger" if hidden else ""
    legend += "; max |d|: the largest |a - b|"
    return Section([Table(_columns(), events, about=name_of), words(legend, "dim")], title)


def _overview(result: Comparison) -> Iterator[Section]:
    """Yield tables of the worst event of each layer and of all events in the first layer that differs."""
    parts = groupby(result.events, key=lambda e: e.stage if e.layer is None else e.layer)
    rows = [max(events, key=lambda e: (not e.holds, e.excess)) for _, events in parts]
    yield _table_of("The worst event of each layer (--verbose shows all)", rows)
    if result.first is not None:
        first = result.event(result.first)
        around = [event for event in result.events if event.layer == first.layer]
        where = f"of layer {first.layer}" if first.layer is not None else "outside of layers"
        yield from table_section(f"All events {where}", _columns(), around, about=name_of)


def _positions(result: Comparison) -> Section:
    """Return a table of the errors at each position, with "–" where an event was not compared."""
    events = [event for event in result.events if event.positions]
    if not events:
        return Section([words("There is no table by position, because only statistics were compared.")])

    def column(position: int) -> Column:
        def error(event: EventDifference) -> str:
            return distance(dict(zip(event.positions, event.by_position, strict=True)).get(position))

        token = f" {shown_token(result.labels[position])[:6]}" if position < len(result.labels) else ""
        return Column(f"{position}{token}", error, right=True)

    columns = [Column("event", name_of, whole=True, style=alarm), *map(column, result.positions)]
    return Section([Table(columns, events, about=name_of)], "Worst row by position")


def merged_layers(texts: Sequence[str]) -> list[str]:
    """Merge texts that differ only in the layer into texts such as "layer*.attn.q (2 layers)"."""
    return _merged(texts, r"\blayer\d+\b", "layer*", " layers")


def _merged(texts: Sequence[str], pattern: str, replacement: str, unit: str) -> list[str]:
    """Merge texts that differ only where `pattern` matches, and count the merged texts."""
    groups = grouped(texts, lambda text: re.sub(pattern, replacement, text))
    return [same[0] if len(same) == 1 else f"{text} ({len(same)}{unit})" for text, same in groups.items()]


def unpaired_sections(unpaired: Sequence[Unpaired], title: str) -> list[Section]:
    """Return a section that groups the events of only one side by reason, or [] without such events."""
    lines = []
    for pattern, same in grouped(unpaired, lambda one: re.sub(r"\d+", "*", one.reason)).items():
        names = _merged([one.name for one in same], r"\d+", "*", "")
        reason = same[0].reason if len({one.reason for one in same}) == 1 else pattern
        lines.append(words(f"{abridged(names, MAX_LISTED)}: {reason}"))
    return [Section(lines, f"Only in {title}")] if lines else []


def by_reason(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each reason in the pairs (name, reason), with the names that have this reason."""
    for reason, same in grouped(pairs, itemgetter(1)).items():
        yield f"{abridged(merged_layers([name for name, _ in same]), MAX_LISTED)}: {reason}"
