"""Training as sections: the summary of a training run, and a Timeline as tables with sparklines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

from ...grouping import grouped
from ...text.printable import shown_token
from ...text.wording import counted
from ..numbers import ratio, three_decimals
from ..sections import (
    Bar,
    Block,
    Column,
    Copyable,
    DotPlot,
    Labelled,
    Section,
    Sparkline,
    Table,
    Words,
    fields,
    indented,
    table_section,
    words,
)

if TYPE_CHECKING:
    from ...timeline.curves import Counts, Curve, LayerUnits, PositionCurve, Timeline
    from ...tracing.result import Trace

MOST_RETURNS = 12  # if more rows describe units that were dead for a while, only count the units


class RunMeasures(NamedTuple):
    """The measurements before or after a training run. Losses are means over names. A result for the held-out
    names is None if no name is held out."""

    train_loss: float | None
    held_out_loss: float | None
    dead_units: list[list[int]] | None  # for each layer, the ReLU units that are 0 for all held-out names
    watched: Trace


def summary_sections(
    facts: Sequence[tuple[str, str]], losses: Sequence[float], before: RunMeasures, after: RunMeasures,
    advice: str, samples: Sequence[tuple[str, bool]], closing: Sequence[tuple[str, str]], trace_it: str,
) -> list[Section]:  # fmt: skip
    """Return the summary of a training run. `losses` are the losses of all steps. `before` and `after` are
    measurements before and after training. `advice` says what to try in another run, or is empty. `samples`
    are pairs of a sampled name and True if the corpus contains the name. `closing` are the last lines of the
    summary, and `trace_it` is the command that traces the model."""
    sections = [Section([Labelled(facts)])]
    if len(losses) > 1:
        sections.append(_loss_section(losses, 1, len(losses)))
    train = "train", _change(before.train_loss, after.train_loss)
    held_out = "held out", _change(before.held_out_loss, after.held_out_loss)
    sections.append(Section([Labelled([train, held_out])], "Mean loss per name"))
    if advice:
        sections.append(Section([words(advice, "yellow")]))
    columns = [
        Column("", lambda row: shown_token(row[1].label), right=True),
        Column("", lambda row: f"{three_decimals(row[0].p)} → {three_decimals(row[1].p)}"),
        Column("", lambda row: Bar(row[1].p, 20), bar=True, style="cyan"),
    ]
    rows = list(zip(before.watched.targets, after.watched.targets, strict=True))
    sections.append(Section([Table(columns, rows)], f'P(target) of "{after.watched.input.text}"'))
    spans = [((name or '""') + "*" * (not seen), "" if seen else "green") for name, seen in samples]
    names = [*((f"{name}, ", style) for name, style in spans[:-1]), *spans[-1:]]
    new = sum(not seen for _, seen in samples)
    aside = f"{new} of {len(samples)} are not in the corpus (*)"
    sections.append(Section([Words(names)], "Samples", aside))
    return [*sections, Section([Labelled(closing), Copyable("trace it    ", trace_it)])]


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "no name was held out"
    return f"{before:.4f} → {after:.4f}"


def timeline_sections(timeline: Timeline) -> list[Section]:
    """Return the overview of a training run."""
    parts = (_predictions, _dead_units, _loss)
    sections = [_head(timeline), *(section for part in parts for section in part(timeline))]
    if timeline.absent:
        sections.append(Section([*map(indented, timeline.absent)], "Not in this log"))
    return sections


def _head(timeline: Timeline) -> Section:
    config, plan, steps, losses = timeline.config, timeline.plan, timeline.steps, timeline.loss.steps
    layers, size = counted(config.n_layer, "layer"), counted(plan.batch_size, "name")
    ended = losses[-1] if losses else timeline.runs[-1].step
    progress = f"{ended:,} of " * (ended < plan.steps) + counted(plan.steps, "step")
    resumed = [f"step {run.step:,}" for run in timeline.runs if run.step]
    times = "once, at step" if len(steps) == 1 else f"{len(steps):,} times, from step {steps[0]:,} to"
    facts = [
        ("log", timeline.log),
        ("model", f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, width "
            f"{config.n_embd}, block {config.block_size}"),
        ("training", f"{progress} of {size}, lr {plan.lr:g} falling to 0, seed {plan.seed}"
            + (f", resumed after {', '.join(resumed)}" if resumed else "")),
        ("traced", f'"{timeline.watched}" {times} {steps[-1]:,}'
            + ("" if len(steps) == 1 else "; the curves show the traced steps")),
    ]  # fmt: skip
    failed = (f"step {c.step:,}: the check {c.id} failed, {c.detail}" for c in timeline.failed_checks)
    return Section([Labelled(facts), *(words(line, "bold red") for line in failed)])


def _predictions(timeline: Timeline) -> list[Section]:
    columns = [
        *fields(str, {"pos": "position"}),
        *fields(shown_token, {"seen": "seen", "target": "target"}, right=False, whole=True),
        *ends("first", "p", three_decimals),
        Column("rank", _last_rank, right=True),
        Column("half way", lambda c: "–" if c.halfway is None else f"{c.halfway:,}", right=True),
        Column("learned", _learned, right=True, style=_learned_style),
    ]
    legend = (
        "learned: the target has rank 1 from this step on; always: rank 1 at every traced step",
        "half way: from this step on, P stays above the mean of the first P and the last P",
    )
    doubled = [
        words(_double_letter(position, timeline.steps), "bold")
        for position in timeline.positions
        if timeline.watched[position.position - 1 :][:1] == position.target and position.position
    ]
    more = [*(words(text, "dim") for text in legend), *doubled]
    return table_section(f'P(target) of "{timeline.watched}"', columns, timeline.positions, more=more)


def _last_rank(position: PositionCurve) -> str:
    return f"{_last(position.rank) or '–'}"


def _learned_style(position: PositionCurve) -> str:
    return "dim" if position.learned is None or _always(position) else "bold green"


def _learned(position: PositionCurve) -> str:
    if position.learned is not None:
        return "always" if _always(position) else f"{position.learned:,}"
    return "no" if any(position.rank) else "–"


def _always(position: PositionCurve) -> bool:
    """Return True if the target had rank 1 at every traced step."""
    return all(rank in (1, None) for rank in position.rank)


def _double_letter(position: PositionCurve, steps: Sequence[int]) -> str:
    """Describe when a double letter was learned."""
    letter = f'The double {shown_token(position.target)} (after "{position.seen}")'
    if not any(position.rank):
        return f"{letter}: ranks were not logged"
    if position.learned is not None:
        start = "at every trace" if _always(position) else f"from step {position.learned:,} on"
        return f"{letter} is the first choice {start}."
    firsts = [f"{step:,}" for step, rank in zip(steps, position.rank, strict=True) if rank == 1]
    briefly = f"first choice only at step{'s' * (len(firsts) > 1)} {', '.join(firsts)}; " if firsts else ""
    ended = f"rank {_last_rank(position)} with P {three_decimals(_last(position.p))} at the end"
    return f"{letter} was not learned: {briefly}{ended}."


def _dead_units(timeline: Timeline) -> Iterator[Section]:
    layers = [layer for layer in timeline.layers if any(count is not None for count in layer.dead_count)]
    if not layers:
        return
    title, aside = "Dead ReLU units", "units that are zero on the whole held-out set"
    if not any(any(layer.dead_count) for layer in layers):
        none = f"none of {sum(layer.units for layer in layers):,} units is dead at any traced step"
        yield Section([words(none)], title, aside)
        return
    columns = [
        *fields(str, {"layer": "layer"}),
        *fields("{:,}".format, {"units": "units"}),
        *ends("first", "dead_count", ratio),
    ]
    blocks: list[Block] = [Table(columns, layers)]
    spells = [spell for layer in layers for spell in _spells(layer)]
    returned = sum(len(layer.returned) for layer in layers)
    if sum(spell[2] is not None for spell in spells) > MOST_RETURNS:
        spells = [spell for spell in spells if spell[2] is None]
        blocks.append(words(f"{returned:,} units were dead for a while; --json has the steps"))
    yield Section(blocks, title, aside)
    columns = [
        Column("layer", lambda row: str(row[0]), right=True),
        Column("dead from", lambda row: f"{row[1]:,}", right=True),
        Column("until", lambda row: "the end" if row[2] is None else f"{row[2]:,}", right=True),
        Column("units", lambda row: ", ".join(map(str, row[3])), wrap=True),
    ]
    yield from table_section("", columns, spells)


def _spells(layer: LayerUnits) -> Iterator[tuple[int, int, int | None, list[int]]]:
    """Yield (layer, died, returned, units) for the units that were dead between the steps `died` and
    `returned`. `returned` is None if the units were still dead at the last step."""
    dead: list[tuple[int, int | None, int]] = [(unit.since, None, unit.unit) for unit in layer.dead]
    dead += [(unit.died, unit.returned, unit.unit) for unit in layer.returned]
    spells = grouped(dead, itemgetter(0, 1))
    for died, returned in sorted(spells, key=lambda spell: (spell[0], spell[1] or 0)):
        yield layer.layer, died, returned, [unit for *_, unit in spells[died, returned]]


def _loss(timeline: Timeline) -> Iterator[Section]:
    loss = timeline.loss
    finite = [(s, value) for s, value in zip(loss.steps, loss.loss, strict=True) if isfinite(value)]
    if len(finite) >= 2:
        yield _loss_section([value for _, value in finite], finite[0][0], finite[-1][0])


def _loss_section(losses: Sequence[float], first: int, last: int) -> Section:
    """Return the curve of the loss from step `first` to `last`."""
    return Section([DotPlot(losses, first, last)], "Loss", "loss of each step; each column shows a mean")


LEAST_SPARK = 3  # characters of the shortest useful sparkline
Form = Callable[[float | None], str]


def ends(title: str, path: str, number: Form) -> list[Column]:
    """Return columns for the curve at `path` of a row: its first value, a sparkline and its last value."""
    curve = attrgetter(path)
    return [
        Column(title, lambda row: number(_first(curve(row))), right=True),
        Column("", lambda row: Sparkline(curve(row)), elastic=LEAST_SPARK, whole=True, style="cyan"),
        Column("last", lambda row: number(_last(curve(row))), right=True),
    ]


def _first(curve: Curve | Counts) -> float | None:
    return next((value for value in curve if value is not None), None)


def _last(curve: Curve | Counts) -> float | None:
    return _first(curve[::-1])
