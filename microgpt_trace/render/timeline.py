"""A Timeline as tables of sparklines, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from rich.text import Text

from ..text.printable import shown_token
from ..text.wording import counted
from ..timeline.curves import TIMELINE_SCHEMA, LayerUnits, LossCurve, PositionCurve, Timeline, selected
from .curves import (
    CurveColumn,
    ends,
    first_of,
    measure,
    number_text,
    percent_text,
    print_curves,
    print_measures,
)
from .document import plain
from .layout import print_table
from .screen import Screen, escape, labelled, probability
from .sections import Column
from .training import loss_curve

MOST_RETURNS = 12  # rows of units that were dead for a while, before these are only counted


def timeline_document(timeline: Timeline, names: Sequence[str]) -> dict[str, Any]:
    """The timeline as plain data, with the events and parameters that `selected` gives."""
    return {"schema": TIMELINE_SCHEMA, **plain(selected(timeline, names))}


def print_timeline(timeline: Timeline, screen: Screen, names: Sequence[str]) -> None:
    """The overview; or, where names are given, the curves of these events and parameters alone."""
    shown = selected(timeline, names)
    _print_facts(shown, screen)
    if names:
        print_measures(list(_measures(shown)), screen)
    else:
        _print_predictions(shown, screen)
        _print_dead_units(shown, screen)
        _print_events(shown, screen)
        _print_sparsity(shown, screen)
        _print_parameters(shown, screen)
        _print_loss(shown.loss, screen)
    if shown.absent:
        screen.say("\n[bold cyan]Not in this log[/bold cyan]")
        for text in shown.absent:
            screen.tell(text)


def _print_facts(timeline: Timeline, screen: Screen) -> None:
    config, plan, steps, losses = timeline.config, timeline.plan, timeline.steps, timeline.loss.steps
    layers, size = counted(config.n_layer, "layer"), counted(plan.batch_size, "name")
    ended = losses[-1] if losses else timeline.runs[-1].step
    went = f"{ended:,} of " * (ended < plan.steps) + counted(plan.steps, "step")
    resumed = [f"step {run.step:,}" for run in timeline.runs if run.step]
    times = "once, at step" if len(steps) == 1 else f"{len(steps):,} times, steps {steps[0]:,} to"
    facts = [
        ("log", timeline.log),
        ("model", f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, width "
            f"{config.n_embd}, block {config.block_size}"),
        ("training", f"{went} of {size}, lr {plan.lr:g} falling to 0, seed {plan.seed}"
            + (f", resumed after {', '.join(resumed)}" if resumed else "")),
        ("traced", f'"{timeline.watched}" {times} {steps[-1]:,}'
            + ("" if len(steps) == 1 else "; each curve runs over these")),
    ]  # fmt: skip
    labelled(facts, screen)
    for check in timeline.failed_checks:
        failed = f"step {check.step:,}: the check {check.id} failed, {check.detail}"
        screen.tell(failed, style="bold red", indent=0)
    for event in timeline.events:
        found = [(s, n) for s, n in zip(steps, event.nonfinite, strict=True) if n]
        if found:
            at = ", ".join(f"step {step:,} ({count:,})" for step, count in found)
            screen.tell(f"{event.name} holds values that are not finite at {at}", "bold red", indent=0)


def _p(value: float | None) -> str:
    return "–" if value is None else probability(value, 3).replace("nan", "NaN")


def _step(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _print_predictions(timeline: Timeline, screen: Screen) -> None:
    if not timeline.positions:
        return
    screen.say(f'\n[bold cyan]P(target) of "{escape(timeline.watched)}"[/bold cyan]')
    columns = [
        Column("pos", lambda c: str(c.position), right=True),
        Column("seen", lambda c: shown_token(c.seen), whole=True),
        Column("target", lambda c: shown_token(c.target), whole=True),
        *ends("first", lambda c: c.p, _p),
        Column("rank", _last_rank, right=True),
        Column("half way", lambda c: _step(c.halfway), right=True),
        Column("learned", _learned, right=True, style=_learned_style),
    ]
    print_curves(columns, timeline.positions, screen)
    for text in (
        "learned: the step from which on the target stays the first choice (rank 1); always: at every trace",
        "half way: that from which on P stays above the middle of first and last",
    ):
        screen.tell(text, "dim", indent=0)
    for position in timeline.positions:
        if timeline.watched[position.position - 1 :][:1] == position.target and position.position:
            screen.tell(_double_letter(position, timeline.steps), "bold", indent=0)


def _last_rank(position: PositionCurve) -> str:
    return f"{first_of(position.rank[::-1]) or '–'}"


def _learned_style(position: PositionCurve) -> str:
    return "dim" if position.learned is None or _always(position) else "bold green"


def _learned(position: PositionCurve) -> str:
    if position.learned is not None:
        return "always" if _always(position) else f"{position.learned:,}"
    return "no" if any(position.rank) else "–"


def _always(position: PositionCurve) -> bool:
    """Whether the target was the first choice at every trace: then nothing is known of learning it."""
    return all(rank in (1, None) for rank in position.rank)


def _double_letter(position: PositionCurve, steps: Sequence[int]) -> str:
    """When a letter that comes twice was learned, in words."""
    what = f'The double {shown_token(position.target)} (after "{position.seen}")'
    if not any(position.rank):
        return f"{what}: ranks were not logged"
    if position.learned is not None:
        start = "at every trace" if _always(position) else f"from step {position.learned:,} on"
        return f"{what} is the first choice {start}."
    firsts = [f"{step:,}" for step, rank in zip(steps, position.rank, strict=True) if rank == 1]
    briefly = f"first choice only at step{'s' * (len(firsts) > 1)} {', '.join(firsts)}; " if firsts else ""
    p = _p(first_of(position.p[::-1]))
    return f"{what} was not learned: {briefly}in the end rank {_last_rank(position)} with P {p}."


def _print_dead_units(timeline: Timeline, screen: Screen) -> None:
    layers = [layer for layer in timeline.layers if any(count is not None for count in layer.dead_count)]
    if not layers:
        return
    screen.say("\n[bold cyan]Dead ReLU units[/bold cyan] [dim]zero on the whole held-out set[/dim]")
    columns = [
        Column("layer", lambda layer: str(layer.layer), right=True),
        Column("units", lambda layer: f"{layer.units:,}", right=True),
        *ends("first", lambda layer: layer.dead_count, number_text),
    ]
    if not any(any(layer.dead_count) for layer in layers):
        units = sum(layer.units for layer in layers)
        screen.say(f"none of {units:,} units at any trace")
        return
    print_curves(columns, layers, screen)
    spells = [spell for layer in layers for spell in _spells(layer)]
    returned = sum(len(layer.returned) for layer in layers)
    if sum(spell[2] is not None for spell in spells) > MOST_RETURNS:
        spells = [spell for spell in spells if spell[2] is None]
        screen.say(f"{returned:,} units were dead for a while and returned; --json tells when")
    if not spells:
        return
    screen.say()
    print_table(
        [
            Column("layer", lambda row: str(row[0]), right=True),
            Column("dead from", lambda row: f"{row[1]:,}", right=True),
            Column("until", lambda row: "the end" if row[2] is None else f"{row[2]:,}", right=True),
            Column("units", lambda row: ", ".join(map(str, row[3])), wrap=True),
        ],
        spells,
        screen,
    )


def _spells(layer: LayerUnits) -> Iterator[tuple[int, int, int | None, list[int]]]:
    """Units by the steps between which they were dead last: (layer, died, returned, units)"""
    spells = dict[tuple[int, int | None], list[int]]()
    for dead in layer.dead:
        spells.setdefault((dead.since, None), []).append(dead.unit)
    for back in layer.returned:
        spells.setdefault((back.died, back.returned), []).append(back.unit)
    for (died, returned), units in sorted(spells.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        yield layer.layer, died, returned, units


def _print_events(timeline: Timeline, screen: Screen) -> None:
    if not timeline.events:
        return
    screen.say("\n[bold cyan]Events[/bold cyan] [dim]L2 norm, and that of the gradient[/dim]")
    columns = [
        Column("event", lambda event: event.name, whole=True),
        *ends("L2", lambda event: event.l2, number_text),
        *ends("gradient", lambda event: event.gradient, number_text),
    ]
    print_curves(columns, timeline.events, screen)


def _print_sparsity(timeline: Timeline, screen: Screen) -> None:
    if not timeline.events:
        return
    sparse = [event for event in timeline.events if any(event.zeros)]
    screen.say("\n[bold cyan]Sparsity[/bold cyan] [dim]share of an event's elements that are zero[/dim]")
    if sparse:
        columns = [
            Column("event", lambda event: event.name, whole=True),
            *ends("first", lambda e: e.zeros, percent_text),
        ]
        print_curves(columns, sparse, screen)
    if len(sparse) < len(timeline.events):
        screen.say(f"[dim]none in the {'other ' * bool(sparse)}{len(timeline.events) - len(sparse)}[/dim]")


def _print_parameters(timeline: Timeline, screen: Screen) -> None:
    rows = [row for row in timeline.parameters if any(row.l2) or any(row.update_ratio)]
    if not rows:
        return
    screen.say("\n[bold cyan]Parameters[/bold cyan] [dim]L2 norm, and |update| / |weight|[/dim]")
    columns = [
        Column("parameter", lambda row: row.name, whole=True),
        *ends("L2", lambda row: row.l2, number_text),
        *ends("update/weight", lambda row: row.update_ratio, number_text),
    ]
    print_curves(columns, rows, screen)


def _measures(timeline: Timeline) -> Iterator[tuple[str, list[CurveColumn]]]:
    for event in timeline.events:
        l2, gradient = measure("L2", event.l2), measure("gradient", event.gradient)
        yield event.name, [l2, measure("zeros", event.zeros, percent_text), gradient]
    for row in timeline.parameters:
        curves = {"L2": row.l2, "gradient": row.gradient, "update": row.update}
        ratios = measure("update/weight", row.update_ratio)
        yield row.name, [*(measure(what, curve) for what, curve in curves.items()), ratios]


def _print_loss(loss: LossCurve, screen: Screen) -> None:
    known = [(s, value) for s, value in zip(loss.steps, loss.loss, strict=True) if isfinite(value)]
    if len(known) < 2:
        return
    screen.say("\n[bold cyan]Loss[/bold cyan] [dim]per step, averaged over each column[/dim]")
    curve = loss_curve([value for _, value in known], screen)
    first, last = f"{known[0][0]:,}", f"{known[-1][0]:,}"
    curve[-1] = " " * 8 + first + last.rjust(len(curve[-1]) - 8 - len(first))
    for line in curve:
        screen.print(Text(line, no_wrap=True))
