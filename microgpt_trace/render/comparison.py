"""A comparison as tables: where two runs part on top, then every event in order of computation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from ..architecture.catalogue import kind_named
from ..architecture.kinds import Scores
from ..comparison.compared_runs import Unpaired
from ..comparison.differences import Agreement, Comparison, EventDifference
from ..text.printable import shown_token, with_ids
from ..text.wording import abridged, counted
from .layout import Column, print_table
from .screen import Screen, escape, labelled, significant

WIDE = 100  # columns of a terminal from which on tables have all columns
FEW = 64  # events that are all shown without --verbose
MAX_TOKENS = 40  # that a header spells out
MAX_LISTED = 8  # names of a list before some are left out


def print_comparison(
    result: Comparison, screen: Screen, *, verbose: bool = False, by_position: bool = False
) -> None:
    """The whole comparison: sides, verdict, first divergence, tables, what was not compared."""
    _print_sides(result, screen)
    _print_verdict(result, screen)
    if not verbose and all(event.max_abs == 0 for event in result.events if event.told):
        pass  # there is nothing to tell apart
    elif verbose or len(result.events) <= FEW:
        _print_events(result, result.events, screen)
    else:
        _print_overview(result, screen)
    if by_position:
        _print_positions(result, screen)
    for side, letter in ((result.a, "A"), (result.b, "B")):
        print_unpaired(side.unpaired, f"{letter}, not compared", screen)


def _print_sides(result: Comparison, screen: Screen) -> None:
    pairs = []
    for side, letter in ((result.a, "A"), (result.b, "B")):
        pairs.append((letter, f"{side.origin} ({side.kind})"))
        pairs += [("", note) for note in of_all_layers(side.notes)]
    if result.tokens is not None:
        pairs.append(("tokens", tokens_line(result.tokens, result.labels)))
    pairs.append(("band", result.tolerance.reason))
    labelled(pairs, screen)


def tokens_line(tokens: Sequence[int], labels: Sequence[str]) -> str:
    """How many, and each with its text where that is known."""
    first = tokens[:MAX_TOKENS]
    named = with_ids(labels, first) if labels else " ".join(map(str, first))
    return f"{len(tokens):,}: {named}{' …' * (len(tokens) > MAX_TOKENS)}"


def _print_verdict(result: Comparison, screen: Screen) -> None:
    if result.agree:
        _print_agreeing(result, screen)
    else:
        _print_first(result, screen)
    if result.agreement is not None:
        screen.tell(_predictions(result.agreement))
    if result.hint:
        screen.tell(result.hint)


def _print_agreeing(result: Comparison, screen: Screen) -> None:
    """What agrees, out of what there is, and what was not looked at."""
    told = [event for event in result.events if event.told]
    which = _which(result, len(told))
    exact = all(event.max_abs == 0 for event in told)
    how = "number for number" if exact else "within its band" if len(told) == 1 else "within their bands"
    if result.of_statistics:
        verdict = f"The statistics of {which} agree"
    elif result.same:
        verdict = f"The same, {how}: {which}" if exact else f"The same: {which} lie {how}"
    else:
        verdict = f"{which[0].upper()}{which[1:]} agree{'s' * (len(told) == 1)}, {how}"
    screen.say(f"\n[bold green]{verdict}[/bold green]")
    if result.of_statistics:
        screen.tell("values were not compared: one side has none")
    elif not exact:
        worst = result.worst
        nearest = f"{error(worst.relative)} of a row, band {error(worst.tolerance)}"
        screen.tell(f"nearest to its band: {worst.name}, {nearest}")
    _print_not_compared(result, screen)


def _which(result: Comparison, told: int) -> str:
    """The events that were compared: all of them, or so many of how many."""
    every = len(result.events) + len(result.left_out)
    whole = f"all {every:,} events" if every > 1 else "the one event"
    return whole if told == every else f"the {told:,} of {every:,} events named"


def _print_not_compared(result: Comparison, screen: Screen) -> None:
    """What a verdict says nothing of beside the events that one side lacks, which are listed below."""
    lacking = {unpaired.name for side in (result.a, result.b) for unpaired in side.unpaired}
    names = of_all_layers([name for name in result.left_out if name not in lacking])
    if names:
        screen.tell(f"not asked for: {abridged(names, MAX_LISTED)}")
    by_rows: dict[str, list[str]] = {}
    for event in result.in_part:
        if (rows := result.rows_of(event)) < result.length:
            by_rows.setdefault(f"at {rows:,} of {result.length:,} positions alone", []).append(event.name)
        if event.alike:
            by_rows.setdefault(_alike(event), []).append(event.name)
    for what, of in by_rows.items():
        screen.tell(f"{abridged(of_all_layers(of), MAX_LISTED)}: {what}")
    if any(isinstance(kind_named(event.name), Scores) for event in result.events):
        screen.tell("attention scores of later keys, which the mask hides, are not compared", "dim")


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


def _print_first(result: Comparison, screen: Screen) -> None:
    first = result.event(result.first or "")
    screen.say(f"\n[bold red]First divergence: {_place(first)}{_at(result, first)}[/bold red]")
    if first.expr:
        screen.tell(first.expr, "dim")
    element = f"element {list(first.index)}: " if first.index else "value: "
    a, b = both(first.a, first.b)
    screen.tell(f"{element}A has {a}, B has {b}")
    screen.tell(f"off by {error(first.relative)}{_of(first)}; allowed {error(first.tolerance)}")
    count = sum(not event.holds for event in result.events)
    later = f"; {count:,} of {len(result.events):,} events lie beyond their band" if count > 1 else ""
    screen.tell(f"{_up_to(result)}{later}")
    if result.between:
        screen.tell(f"not compared in between: {abridged(result.between, MAX_LISTED)}")
    if result.jump is not None:
        jump = result.jump
        where = "there" if jump.name == first.name else f"at {jump.name}"
        screen.tell(f"largest jump: {where}, from {error(jump.before)} to {error(jump.after)}")


def _up_to(result: Comparison) -> str:
    """How many events agree before the first that does not, and of how many."""
    if result.since is None:
        return "no event before it was compared"
    if not result.missed:
        return f"up to {result.since} all events agree"
    agree = [event.name for event in result.events if event.told].index(result.since) + 1
    which = f"the {agree:,} of {agree + result.missed:,} events compared"
    return f"up to {result.since} {which} agree{'s' * (agree == 1)}"


def _place(event: EventDifference) -> str:
    return event.name if event.layer is None else f"layer {event.layer}, {event.name}"


def _at(result: Comparison, event: EventDifference) -> str:
    if event.position is None:
        return ""
    labels = result.labels
    known = f" ({escape(shown_token(labels[event.position]))})" if event.position < len(labels) else ""
    head = f", head {event.head}" if event.head is not None else ""
    return f", position {event.position}{known}{head}"


def _of(event: EventDifference) -> str:
    """What the error is a share of."""
    if not event.by_position:
        return f" ({event.measured})" if event.measured else ""
    return " of the worst row" + (f" {event.measured}" if event.measured else "")


def error(value: float) -> str:
    """A relative error: 2.1e-07, 0.013, 1.2; 0 where the bits are the same, NaN/Inf where one side alone
    is not finite, – where there was nothing to compare."""
    if math.isnan(value):
        return "–"
    if not math.isfinite(value):
        return "NaN/Inf"
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.2g}"


def number(value: float) -> str:
    return significant(value).replace("inf", "Infinity")


def both(a: float, b: float) -> tuple[str, str]:
    """Two numbers, with more digits where these do not tell them apart: 2.7186 beside 2.7190."""
    shown, digits = (number(a), number(b)), 4
    while shown[0] == shown[1] and abs(a - b) > 0 and digits < 17:
        digits += 1
        shown = f"{a:#.{digits}g}", f"{b:#.{digits}g}"
    return shown


def _columns(screen: Screen) -> list[Column]:
    shape = [Column("shape", lambda e: str(list(e.shape)))] if screen.width >= WIDE else []
    return [
        Column("", _mark, style=_alarm, whole=True),
        Column("event", lambda e: e.name, whole=True, style=_alarm),
        *shape,
        Column("worst", lambda e: error(e.relative), right=True, style=_alarm),
        Column(
            "band", lambda e: f"{e.tolerance:.0e}" if e.tolerance < 1e-3 else error(e.tolerance), right=True
        ),
        Column("median", lambda e: "–" if e.median is None else error(e.median), right=True),
        Column("cosine", lambda e: "–" if e.cosine is None else f"{e.cosine:.4f}", right=True),
        Column("max |d|", _max_abs, right=True),
        Column("at", lambda e: str(list(e.max_index)) if e.max_index and e.told else "–", whole=True),
    ]


def _max_abs(event: EventDifference) -> str:
    if not event.told:
        return "–"
    return f"{event.max_abs:.2g}" if event.max_abs < math.inf else "NaN/Inf"


def _mark(event: EventDifference) -> str:
    return "" if event.holds else "✗"


def _alarm(event: EventDifference) -> str:
    return "" if event.holds else "red"


def _print_events(result: Comparison, events: Sequence[EventDifference], screen: Screen) -> None:
    screen.say("\n[bold cyan]Events in order of computation[/bold cyan]")
    print_table(_columns(screen), events, screen)
    _print_legend(events, screen)


def _print_legend(events: Sequence[EventDifference], screen: Screen) -> None:
    legend = "worst, median: |a - b| of a row over the larger of |a| and |b|"
    hidden = sorted({event.measured for event in events if event.measured and event.by_position})
    legend += f", or {' or '.join(hidden)} where that is larger" if hidden else ""
    legend += "; max |d|: the largest |a - b|"
    screen.say(f"[dim]{legend}[/dim]")


def _print_overview(result: Comparison, screen: Screen) -> None:
    """The worst event of every layer; and all events of the layer where the runs part."""
    rows = [_worst_of(events) for _, events in groupby(result.events, key=_part)]
    screen.say("\n[bold cyan]The worst event of each layer (--verbose shows all)[/bold cyan]")
    print_table(_columns(screen), rows, screen)
    _print_legend(rows, screen)
    if result.first is None:
        return
    first = result.event(result.first)
    around = [event for event in result.events if event.layer == first.layer]
    where = f"layer {first.layer}" if first.layer is not None else "the events outside of layers"
    screen.say(f"\n[bold cyan]All of {where}[/bold cyan]")
    print_table(_columns(screen), around, screen)


def _part(event: EventDifference) -> str:
    """A layer, or what comes before them all or after."""
    return event.stage if event.layer is None else str(event.layer)


def _worst_of(events: Iterator[EventDifference]) -> EventDifference:
    return max(events, key=lambda e: (not e.holds, e.excess))


def _print_positions(result: Comparison, screen: Screen) -> None:
    """The worst row of every event at each of the positions; – where it was not compared."""
    events = [event for event in result.events if event.positions]
    if not events:
        screen.say("\nStatistics alone have no view by position.")
        return
    columns = [Column("event", lambda e: e.name, whole=True, style=_alarm)]
    room = max(1, (screen.width - max(len(e.name) for e in events)) // 10)
    screen.say("\n[bold cyan]Worst row by position[/bold cyan]")
    for start in range(0, len(result.positions), room):
        shown = result.positions[start : start + room]
        cells = [Column(_title(result, p), partial(_error_at, position=p), right=True) for p in shown]
        print_table([*columns, *cells], events, screen)


def _error_at(event: EventDifference, position: int) -> str:
    if position not in event.positions:
        return "–"
    return error(event.by_position[event.positions.index(position)])


def _title(result: Comparison, position: int) -> str:
    if position >= len(result.labels):
        return str(position)
    return f"{position} {shown_token(result.labels[position])[:6]}"


def of_all_layers(texts: Sequence[str]) -> list[str]:
    """What is said of several layers in the same words, said once."""
    return _said_once(texts, r"\blayer\d+\b", "layer*", " layers")


def _said_once(texts: Sequence[str], pattern: str, instead: str, unit: str) -> list[str]:
    """Texts that are alike but for what the pattern matches, once each with how many there are."""
    grouped: dict[str, list[str]] = {}
    for text in texts:
        grouped.setdefault(re.sub(pattern, instead, text), []).append(text)
    return [same[0] if len(same) == 1 else f"{like} ({len(same)}{unit})" for like, same in grouped.items()]


def print_unpaired(left_over: Sequence[Unpaired], title: str, screen: Screen) -> None:
    """What one side has and the other lacks, by the reason."""
    if not left_over:
        return
    screen.say(f"\n[bold cyan]Only in {title}[/bold cyan]")
    by_reason: dict[str, list[Unpaired]] = {}
    for unpaired in left_over:
        by_reason.setdefault(_without_numbers(unpaired.reason), []).append(unpaired)
    for pattern, same in by_reason.items():
        names = _said_once([unpaired.name for unpaired in same], r"\d+", "*", "")
        alike = all(unpaired.reason == same[0].reason for unpaired in same)
        screen.tell(f"{abridged(names, MAX_LISTED)}: {same[0].reason if alike else pattern}", indent=0)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "*", text)
