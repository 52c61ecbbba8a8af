"""Two surveys compared, as sections: the layer that adds most to the difference on top, then predictions,
layers, events, channels, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..surveying.channel_shifts import ChangedChannels, EventShift
from ..surveying.comparison import SurveyComparison
from ..surveying.layer_shifts import HeadShift, LayerShift
from ..text.wording import abridged, counted
from .attribution import ROLE_WORDS
from .numbers import distance, figure, ratio, significant
from .sections import Block, Column, Labelled, Section, Table, Words, indented, name_of, words
from .survey_predictions import loss_course, prediction_sections

WIDE = 100  # columns of a terminal from which on tables have all columns
FEW = 40  # rows that are all shown without --verbose
MOST = 8  # rows that are shown of more
NEXT = 3  # layers that are named after the first
NAMED = 4  # channels that a table names
KL_IS = (
    "KL: KL(A || B) in nats of normal distributions with each channel's mean and variance over the corpus, "
    "mean over channels; values are not compared token by token"
)


def survey_comparison_sections(result: SurveyComparison, *, verbose: bool = False) -> list[Section]:
    """The whole comparison; without `verbose` of tokens, events, channels and heads those that differ
    most."""
    sections = [_header(result), _verdict(result)]
    if not result.same:
        sections += prediction_sections(result.parts, verbose=verbose)
        sections += [*_layers(result), *_events(result, verbose)]
        sections += [*_channels(result, verbose), *_heads(result, verbose)]
    if result.not_compared:
        lines = [words(f"{abridged(left.names)}: {left.reason}") for left in result.not_compared]
        sections.append(Section(lines, "Not compared"))
    return sections


def _header(result: SurveyComparison) -> Section:
    pairs = [
        (letter, f"{side.file}, of {side.model}")
        for letter, side in zip("AB", (result.a, result.b), strict=True)
    ]
    run = f"{counted(result.a.texts, 'text')}, {counted(result.a.tokens, 'token')}"
    pairs.append(("corpus", f"{', '.join(result.sources)}: {run}"))
    pairs += [("" if i else "note", note) for i, note in enumerate(result.notes)]
    allowed = (
        "the same bits alone; --rtol allows more"
        if result.rtol is None
        else f"distances up to {result.rtol:g}"
    )
    return Section([Labelled([*pairs, ("allowed", allowed)])])


# --- The verdict ------------------------------------------------------------------------------


def _verdict(result: SurveyComparison) -> Section:
    counts = {"event": result.events, "head": result.heads}
    compared = [counted(len(of), what) for what, of in counts.items() if of]
    said = "compared: " + ", ".join([*compared, *["predictions"] * bool(result.parts)])
    if result.same:
        return Section([indented(said)], "The same, bit for bit", style="bold green")
    if result.agree:
        title = f"They agree: no distance is above {result.rtol:g}"
        return Section([indented(said), *_farthest(result)], title, style="bold green")
    return Section([*_departure(result), *_farthest(result)], _title(result), style="bold red")


def _adding(result: SurveyComparison) -> list[LayerShift]:
    """The layers of which it is known what they add, the most first."""
    known = [layer for layer in result.layers if layer.added is not None]
    return sorted(known, key=lambda layer: -(layer.added or 0.0))


def _title(result: SurveyComparison) -> str:
    known = _adding(result)
    if known and (known[0].added or 0.0) > max(0.0, result.entering_kl or 0.0):
        most = (
            f"most of {counted(len(known), 'layer')}"
            if len(known) > 1
            else f"{distance(known[0].added or 0)}"
        )
        return f"Layer {known[0].layer} adds {most} to the difference"
    if known and result.entering_kl:
        return "The stream differs before the first layer more than any layer adds"
    return f"They differ, first in {result.first}" if result.first else "They differ"


def _departure(result: SurveyComparison) -> Iterator[Words]:
    """What the layer that adds most adds, and which come next."""
    known = _adding(result)
    if result.entering_kl:
        yield indented(f"KL of the stream that enters the first layer: {distance(result.entering_kl)} nats")
    if known:
        layer = known[0]
        before, after = _distance(layer.kl_before), _distance(layer.kl)
        yield indented(f"KL of the stream: {before} nats before layer {layer.layer}, {after} after it")
        if layer.farthest is not None:
            yield indented(f"farthest in it: {layer.farthest}, KL {_distance(layer.farthest_kl)}")
        more = [own for own in known[1 : 1 + NEXT] if (own.added or 0.0) > 0]
        if more:
            said = ", ".join(f"layer {own.layer} {own.added:+.2g}" for own in more)
            yield indented(f"next: {said}")
        yield from _departure_of_rms(known)
        last = max(result.layers, key=lambda own: own.kl or 0.0)
        if last is not layer:
            yield indented(f"KL is largest after layer {last.layer}: {_distance(last.kl)}")
    for part in result.parts:
        yield indented(loss_course(part))
    if result.first is not None:
        yield indented(
            f"first event that {'differs' if result.rtol is None else 'is beyond'}: {result.first}"
        )


def _departure_of_rms(known: Sequence[LayerShift]) -> Iterator[Words]:
    """Where the RMS of the stream's channels departs most, which small channels decide less."""
    layer = max(known, key=lambda own: own.rms_added or 0.0)
    if (layer.rms_added or 0.0) > 0:
        before, after = _distance(layer.rms_before), _distance(layer.rms_change)
        yield indented(f"by RMS layer {layer.layer} adds most: {before} before it, {after} after it")


def _farthest(result: SurveyComparison) -> Iterator[Words]:
    """What has the largest distance of its sort, where a tolerance was asked for."""
    if result.rtol is None:
        return
    sorts: list[tuple[str, Sequence[Any], Callable[[Any], str]]] = [
        ("channels", result.events, name_of),
        ("growth or cosine", result.layers, lambda own: f"layer {own.layer}"),
        ("attention", result.heads, _head_name),
        ("loss", result.parts, lambda own: own.part or "all texts"),
    ]
    for what, shifts, name in sorts:
        if shifts:
            own = max(shifts, key=lambda shift: shift.distance)
            yield indented(f"largest distance of {what}: {distance(own.distance)} ({name(own)})")


# --- Layers, events and channels --------------------------------------------------------------


def _both(a: float | None, b: float | None, form: Callable[[Any], str]) -> str:
    """A's and B's, or the one that both are as printed."""
    one, two = form(a), form(b)
    return one if one == two else f"{one} → {two}"


def _distance(value: float | None) -> str:
    return "–" if value is None else distance(value)


def _layers(result: SurveyComparison) -> Iterator[Section]:
    if not result.layers:
        return
    columns = [
        Column("layer", lambda row: str(row.layer), right=True),
        Column("KL", lambda row: _distance(row.kl), right=True),
        Column("added", lambda row: "–" if row.added is None else f"{row.added:+.2g}", right=True),
        Column("RMS", lambda row: _distance(row.rms_change), right=True),
        Column("farthest event", lambda row: row.farthest or "–", whole=True),
        Column("its KL", lambda row: _distance(row.farthest_kl), right=True),
        Column("massive", lambda row: _both(row.massive_a, row.massive_b, _count), right=True),
        Column("growth", lambda row: _both(row.growth_a, row.growth_b, ratio), right=True, from_width=WIDE),
        Column("cosine", lambda row: _both(row.cosine_a, row.cosine_b, _cosine), right=True, from_width=WIDE),
    ]
    said = (
        f"{KL_IS}; added: to that of the stream that enters; RMS: ||rms_B - rms_A|| / ||rms_A|| over "
        "channels; massive: texts with an element 1,000 times the median or more"
    )
    wide = "growth: how many times longer a layer leaves a row; cosine: between before and after"
    table = Table(columns, result.layers, about=lambda row: row.event or "")
    below = [words(said, "dim"), Words([(wide, "dim")], from_width=WIDE)]
    yield Section([table, *below], "Layers", "the stream that leaves each")


def _cosine(value: float | None) -> str:
    return figure(value, 3)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _events(result: SurveyComparison, verbose: bool) -> Iterator[Section]:
    differing = [event for event in result.events if not event.same]
    shown: Sequence[EventShift] = result.events
    if not differing:
        return
    if not verbose and len(result.events) > FEW:
        shown = sorted(differing, key=lambda event: -(event.kl.mean or 0.0))[:MOST]
    columns = [
        Column("event", name_of, whole=True),
        Column("mean", lambda event: _distance(event.mean_change), right=True),
        Column("RMS", lambda event: _distance(event.rms_change), right=True),
        Column("KL", lambda event: _distance(event.kl.mean), right=True),
        Column("most", _most, right=True),
        Column("magnitudes", lambda event: _distance(event.magnitudes), right=True),
        Column("RMS of channel", _rms, right=True, from_width=WIDE),
    ]
    said = "mean, RMS: ||B - A|| / ||rms_A|| over channels; most: the largest KL of a channel"
    if any(event.magnitudes is not None for event in shown):
        said += "; magnitudes: Jensen-Shannon divergence of their histograms, 0.69 where they share nothing"
    else:
        columns = [column for column in columns if column.title != "magnitudes"]
    blocks: list[Block] = [Table(columns, shown, about=name_of)]
    if len(shown) < len(result.events):
        blocks.append(words(f"the farthest by KL of {len(differing):,} that differ; --verbose: all"))
    yield Section([*blocks, words(said, "dim")], "Events")


def _most(event: EventShift) -> str:
    if event.kl.largest is None:
        return "–"
    more = f", {event.kl.one_sided:,} infinite" if event.kl.one_sided else ""
    return f"{distance(event.kl.largest)} in {event.kl.largest_channel}{more}"


def _rms(event: EventShift) -> str:
    if event.channel is None:
        return "–"
    return f"{event.channel}: {_both(event.rms_a, event.rms_b, significant)}"


def _channels(result: SurveyComparison, verbose: bool) -> Iterator[Section]:
    changed = [event for event in result.events if _changes(event.dead) or _changes(event.outliers)]
    other = [e for e in result.events if (e.count_a, e.nonfinite_a) != (e.count_b, e.nonfinite_b)]
    if not (changed or other):
        return
    shown = changed if verbose or len(changed) <= MOST else sorted(changed, key=_changed_count)[:MOST]
    columns = [
        Column("event", name_of, whole=True),
        Column("dead", lambda event: _channel_names(event.dead), wrap=True),
        Column("outliers", lambda event: _channel_names(event.outliers), wrap=True),
    ]
    blocks: list[Block] = [Table(columns, shown, about=name_of)] if shown else []
    if len(shown) < len(changed):
        blocks.append(words(f"those with most of {counted(len(changed), 'event')}; --verbose: all"))
    if other:
        named = abridged([event.name for event in other])
        blocks.append(words(f"as many finite values on one side alone: {named}", "bold red"))
    said = (
        "+ in B alone, - in A alone; dead: a unit never beyond ±0.01, another channel always 0; outliers: "
        "RMS 6 times the median one or more"
    )
    yield Section([*blocks, words(said, "dim")], "Dead and outlier channels that changed")


def _changes(changed: ChangedChannels) -> int:
    return changed.appeared + changed.vanished


def _changed_count(event: EventShift) -> int:
    return -_changes(event.dead) - _changes(event.outliers)


def _channel_names(changed: ChangedChannels) -> str:
    said = []
    for sign, count, first in (
        ("+", changed.appeared, changed.first_appeared),
        ("-", changed.vanished, changed.first_vanished),
    ):
        if count:
            more = f" and {count - NAMED:,} more" if count > NAMED else ""
            said.append(f"{sign} {', '.join(map(str, first[:NAMED]))}{more}")
    return "; ".join(said)


# --- Heads ------------------------------------------------------------------------------------


def _head_name(head: HeadShift) -> str:
    return f"layer{head.layer} head {head.head}"


def _heads(result: SurveyComparison, verbose: bool) -> Iterator[Section]:
    if not result.heads:
        return
    turned = [head for head in result.heads if head.role_a != head.role_b]
    shown: Sequence[HeadShift] = result.heads
    if not verbose and len(shown) > FEW:
        shown = sorted(shown, key=lambda head: -head.change)[:MOST]
    columns = [
        Column("head", _head_name, whole=True),
        Column("change", lambda head: distance(head.change), right=True),
        Column("entropy", lambda head: _both(head.entropy_a, head.entropy_b, figure), right=True),
        Column("position 0", _shares("first"), right=True),
        Column("previous", _shares("previous"), right=True, from_width=WIDE),
        Column("repeat", _shares("repeat"), right=True, from_width=WIDE),
        Column("role", lambda head: _both(head.role_a, head.role_b, ROLE_WORDS.__getitem__)),
    ]
    blocks: list[Block] = [Table(columns, shown, about=lambda head: head.event)]
    if len(shown) < len(result.heads):
        blocks.append(words(f"those that changed most of {len(result.heads):,}; --verbose: all"))
    blocks.append(words(f"another role: {len(turned):,} of {counted(len(result.heads), 'head')}"))
    said = "change: the largest of a share, or of the entropy as a share of that of attention spread evenly"
    yield Section([*blocks, words(said, "dim")], "Heads")


def _shares(name: str) -> Callable[[HeadShift], str]:
    def cell(head: HeadShift) -> str:
        return _both(getattr(head.attention_a, name), getattr(head.attention_b, name), figure)

    return cell
