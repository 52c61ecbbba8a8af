"""A Timeline as sections: tables of sparklines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from ...text.printable import shown_token
from ...text.wording import counted
from ...timeline.curves import LayerUnits, PositionCurve, Timeline
from ..numbers import percent, probability, ratio
from ..sections import (
    Block,
    Column,
    DotPlot,
    Labelled,
    Section,
    Sparkline,
    Table,
    Words,
    indented,
    name_of,
    words,
)

MOST_RETURNS = 12  # rows of units that were dead for a while, before these are only counted


def timeline_sections(shown: Timeline, *, curves: bool = False) -> list[Section]:
    """The overview, or the curves of each event and parameter alone."""
    sections = [_head(shown)]
    if curves:
        sections += curve_sections(list(_measures(shown)))
    else:
        parts = (_predictions, _dead_units, _events, _sparsity, _parameters, _loss)
        sections += [section for part in parts for section in part(shown)]
    if shown.absent:
        sections.append(Section([*map(indented, shown.absent)], "Not in this log"))
    return sections


def _head(timeline: Timeline) -> Section:
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
    return Section([Labelled(facts), *_warnings(timeline)])


def _warnings(timeline: Timeline) -> Iterator[Words]:
    for check in timeline.failed_checks:
        yield words(f"step {check.step:,}: the check {check.id} failed, {check.detail}", "bold red")
    for event in timeline.events:
        found = [(s, n) for s, n in zip(timeline.steps, event.nonfinite, strict=True) if n]
        if found:
            at = ", ".join(f"step {step:,} ({count:,})" for step, count in found)
            yield words(f"{event.name} holds values that are not finite at {at}", "bold red")


def _p(value: float | None) -> str:
    return probability(value, 3)


def _step(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _predictions(timeline: Timeline) -> Iterator[Section]:
    if not timeline.positions:
        return
    columns = [
        Column("pos", lambda c: str(c.position), right=True),
        Column("seen", lambda c: shown_token(c.seen), whole=True),
        Column("target", lambda c: shown_token(c.target), whole=True),
        *ends("first", lambda c: c.p, _p),
        Column("rank", _last_rank, right=True),
        Column("half way", lambda c: _step(c.halfway), right=True),
        Column("learned", _learned, right=True, style=_learned_style),
    ]
    legend = (
        "learned: the step from which on the target stays the first choice (rank 1); always: at every trace",
        "half way: that from which on P stays above the middle of first and last",
    )
    doubled = [
        words(_double_letter(position, timeline.steps), "bold")
        for position in timeline.positions
        if timeline.watched[position.position - 1 :][:1] == position.target and position.position
    ]
    blocks: list[Block] = [
        Table(columns, timeline.positions),
        *(words(text, "dim") for text in legend),
        *doubled,
    ]
    yield Section(blocks, f'P(target) of "{timeline.watched}"')


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


def _dead_units(timeline: Timeline) -> Iterator[Section]:
    layers = [layer for layer in timeline.layers if any(count is not None for count in layer.dead_count)]
    if not layers:
        return
    title, aside = "Dead ReLU units", "zero on the whole held-out set"
    if not any(any(layer.dead_count) for layer in layers):
        none = f"none of {sum(layer.units for layer in layers):,} units at any trace"
        yield Section([words(none)], title, aside)
        return
    columns = [
        Column("layer", lambda layer: str(layer.layer), right=True),
        Column("units", lambda layer: f"{layer.units:,}", right=True),
        *ends("first", lambda layer: layer.dead_count, ratio),
    ]
    blocks: list[Block] = [Table(columns, layers)]
    spells = [spell for layer in layers for spell in _spells(layer)]
    returned = sum(len(layer.returned) for layer in layers)
    if sum(spell[2] is not None for spell in spells) > MOST_RETURNS:
        spells = [spell for spell in spells if spell[2] is None]
        blocks.append(words(f"{returned:,} units were dead for a while and returned; --json tells when"))
    yield Section(blocks, title, aside)
    if spells:
        yield Section([Table(_SPELL_COLUMNS, spells)])


_SPELL_COLUMNS = (
    Column("layer", lambda row: str(row[0]), right=True),
    Column("dead from", lambda row: f"{row[1]:,}", right=True),
    Column("until", lambda row: "the end" if row[2] is None else f"{row[2]:,}", right=True),
    Column("units", lambda row: ", ".join(map(str, row[3])), wrap=True),
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


def _events(timeline: Timeline) -> Iterator[Section]:
    columns = [
        Column("event", lambda event: event.name, whole=True),
        *ends("L2", lambda event: event.l2, ratio),
        *ends("gradient", lambda event: event.gradient, ratio),
    ]
    if timeline.events:
        yield Section(
            [Table(columns, timeline.events, about=name_of)], "Events", "L2 norm, and that of the gradient"
        )


def _sparsity(timeline: Timeline) -> Iterator[Section]:
    if not timeline.events:
        return
    sparse, blocks = [event for event in timeline.events if any(event.zeros)], list[Block]()
    if sparse:
        names = Column("event", lambda event: event.name, whole=True)
        blocks.append(Table([names, *ends("first", lambda e: e.zeros, percent)], sparse, about=name_of))
    if left := len(timeline.events) - len(sparse):
        blocks.append(words(f"none in the {'other ' * bool(sparse)}{left}", "dim"))
    yield Section(blocks, "Sparsity", "share of an event's elements that are zero")


def _parameters(timeline: Timeline) -> Iterator[Section]:
    rows = [row for row in timeline.parameters if any(row.l2) or any(row.update_ratio)]
    columns = [
        Column("parameter", lambda row: row.name, whole=True),
        *ends("L2", lambda row: row.l2, ratio),
        *ends("update/weight", lambda row: row.update_ratio, ratio),
    ]
    if rows:
        yield Section([Table(columns, rows, about=name_of)], "Parameters", "L2 norm, and |update| / |weight|")


def _measures(timeline: Timeline) -> Iterator[tuple[str, list[CurveColumn]]]:
    for event in timeline.events:
        l2, gradient = measure("L2", event.l2), measure("gradient", event.gradient)
        yield event.name, [l2, measure("zeros", event.zeros, percent), gradient]
    for row in timeline.parameters:
        curves = {"L2": row.l2, "gradient": row.gradient, "update": row.update}
        ratios = measure("update/weight", row.update_ratio)
        yield row.name, [*(measure(what, curve) for what, curve in curves.items()), ratios]


def _loss(timeline: Timeline) -> Iterator[Section]:
    loss = timeline.loss
    known = [(s, value) for s, value in zip(loss.steps, loss.loss, strict=True) if isfinite(value)]
    if len(known) >= 2:
        yield loss_section([value for _, value in known], known[0][0], known[-1][0])


Curve = Sequence[float | None]
LEAST_SPARK = 3  # characters from which on a sparkline says something


def spark(curve: Callable[[Any], Curve]) -> Column:
    """A column that shows curves."""
    return Column("", lambda row: Sparkline(curve(row)), elastic=LEAST_SPARK, whole=True, style=_cyan)


def _cyan(row: Any) -> str:
    return "cyan"


def ends(title: str, curve: Callable[[Any], Curve], number: Callable[[float | None], str]) -> list[Column]:
    """A curve between its first and its last value."""
    return [
        Column(title, lambda row: number(first_of(curve(row))), right=True),
        spark(curve),
        Column("last", lambda row: number(first_of(curve(row)[::-1])), right=True),
    ]


def first_of(curve: Curve) -> float | None:
    return next((value for value in curve if value is not None), None)


class CurveColumn(NamedTuple):
    """One curve of an event or a parameter, with the figures beside it as text."""

    what: str
    curve: Curve
    figures: dict[str, str]


def measure(what: str, curve: Curve, number: Callable[[float | None], str] = ratio) -> CurveColumn:
    """The ends of a curve and the extremes of its finite values."""
    finite = [value for value in curve if value is not None and isfinite(value)]
    found = {
        "first": first_of(curve), "last": first_of(curve[::-1]),
        "min": min(finite, default=None), "max": max(finite, default=None),
    }  # fmt: skip
    return CurveColumn(what, curve, {title: number(value) for title, value in found.items()})


def curve_sections(tables: Sequence[tuple[str, Sequence[CurveColumn]]]) -> Iterator[Section]:
    """A row for each curve; the first of a name has it before it."""
    rows = [(name if not n else "", own) for name, curves in tables for n, own in enumerate(curves)]

    def figure(title: str) -> Column:
        return Column(title, lambda row: row[1].figures[title], right=True)

    columns = [
        Column("", lambda row: row[0], whole=True),
        Column("", lambda row: row[1].what, whole=True),
        figure("first"),
        spark(lambda row: row[1].curve),
        *map(figure, ("last", "min", "max")),
    ]
    yield Section([Table(columns, rows)])


def loss_section(losses: Sequence[float], first: int, last: int) -> Section:
    """The curve of the loss from step `first` to `last`."""
    return Section([DotPlot(losses, first, last)], "Loss", "per step, averaged over each column")
