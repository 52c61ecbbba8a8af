"""Which tensor of a recording is which event: a draft from values, names and order.

Letters: F recorded tensors, E events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..architecture.catalogue import residual_kinds
from ..architecture.model import LanguageModel
from ..architecture.plan import kind_of
from ..arrays.stats import Array
from .alignment import align, assign
from .matching import (
    ScoreTable,
    Shapes,
    TensorPart,
    by_chance,
    compare,
    parts_of,
    products_side_by_side,
    sketch_events,
    source_name,
    whole_or_sliced,
)
from .pattern_relations import related
from .patterns import Decided, cut, decide, find_patterns
from .recorded import Leftover
from .recording import Recording

CLOSE, NEARLY = 0.9, 0.01  # cosine from which a pair by order is sure, if no other is that much closer
UNDECIDED = 0.2  # another event that scores so little less would do as well
IN_ORDER = 0.8  # of the anchors, for the order to tell about the rest
ANCHOR = 100.0  # outweighs all that else speaks for a pair


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recorded tensor, or a slice of one, and the event that it seems to be.

    `why` is "values" where they agree, "name" where a `pattern` such as "blk{i}_ffu" has been decided for
    all layers, else "order". `similarity` is 1 - relative L2 where values agree and the cosine elsewhere,
    over a sample of the elements with magnitudes clipped at 4 medians; `known` of it are finite on both
    sides, which it is about. `also` names an event that fits about as well; `out_of_order` are agreeing
    values that stand elsewhere in the dump than others let expect. `pattern` is empty where the number in
    the name is not the layer's own.
    """

    event: str
    source: str  # with its slice: "t003[:, :896]"
    layout: str
    similarity: float
    why: str
    sure: bool
    also: str = ""
    pattern: str = ""
    known: float = 1.0
    out_of_order: bool = False


def suggest(
    recording: Recording, model: LanguageModel, events: Iterable[tuple[str, Array]], shapes: Shapes
) -> tuple[Suggestion, ...]:
    """Guess which events the leftovers of a recording are; the answer is in order of computation.

    `events` are the model's own values in order of computation, [T, W] or [H, T, S]; each is looked at
    during its step alone. Names that differ in the number of the layer alone are one pattern, and
    that is one kind of event, whatever the values of one layer say. Elsewhere values decide where they
    agree. What remains is aligned by order, tensors in the natural order of their names (t2 before t10)
    with events, so that what follows a fault finds its place too, unless the agreeing ones are in no
    order. Leftovers without numbers to read are passed over.
    """
    names, groups = sketch_events(events, shapes)
    readable = [left.recorded for left in recording.leftovers if left.readable]
    leftovers = sorted(readable, key=lambda one: _natural(one.source))
    fused = products_side_by_side(model.plan)
    parts = [part for whole in leftovers for part in parts_of(whole, names, shapes, fused)]
    if not names or not parts:
        return ()
    table = compare(parts, names, groups, shapes, model.config.head_dim)
    taken = np.array([name in recording.tensors for name in names])
    table.score[taken & ~table.agreeing] = 0  # what agrees is a copy, and gets no other place
    counting = find_patterns(parts, names, table)
    same = {source: one.name for one in counting for source in one.sources.values()}
    kept = whole_or_sliced(parts, table, same)
    parts, table = [parts[row] for row in kept], table.take(np.array(kept))
    if counting:
        at = {one.source: place for place, one in enumerate(readable)}
        places = {row: at[part.recorded.source] for row, part in enumerate(parts)}
        relate = partial(related, model, parts=parts, names=names, shapes=shapes, table=table)
        decided = decide(cut(counting, parts), names, table, places, UNDECIDED, relate)
        found = [*_of_patterns(decided, parts, names, table)]
        rest = [row for row, part in enumerate(parts) if source_name(part.recorded) not in same]
        found += _alone(rest, parts, names, table, {one.kind for one in decided})
    else:
        found = _place(parts, names, table)
    found.sort(key=lambda one: names.index(one.event))
    return tuple(one for one in found if one.event not in recording.tensors)


def unplaced(suggestions: Iterable[Suggestion], recording: Recording) -> tuple[Leftover, ...]:
    """The leftovers of which no suggestion takes anything."""
    taken = [suggestion.source for suggestion in suggestions]
    names = {*taken, *(source.rpartition("[")[0] for source in taken if source.endswith("]"))}
    return tuple(left for left in recording.leftovers if source_name(left.recorded) not in names)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts t2 before t10."""
    return [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.findall(r"[0-9]+|[^0-9]+", name)
    ]


# --- Placing ---------------------------------------------------------------------------------


def _of_patterns(
    decided: Iterable[Decided], parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable
) -> Iterator[Suggestion]:
    """What patterns are, layer by layer; the layout is what speaks for itself in most layers."""
    agreeing = table.agreeing
    for one in decided:
        pairs = [(row, one.columns[layer]) for layer, row in one.pattern.rows.items() if layer in one.columns]
        pairs = [pair for pair in pairs if table.score[pair] > 0]
        name = "" if one.pattern.ahead else one.pattern.name
        for row, column in pairs:
            shape = parts[row].recorded.shape
            layouts = [str(table.layout[pair]) for pair in pairs if parts[pair[0]].recorded.shape == shape]
            layout = max(layouts, key=layouts.count)
            also = names[column].removesuffix(one.kind) + one.also if one.also else ""
            why = "values" if agreeing[row, column] else "name"
            yield _suggestion((row, column), parts, names, table, why, layout=layout, also=also, pattern=name)


def _suggestion(
    pair: tuple[int, int], parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable, why: str,
    *, layout: str = "", also: str = "", pattern: str = "", astray: bool = False,
) -> Suggestion:  # fmt: skip
    row, column = pair
    best = table.cosine[pair] > CLOSE and (pattern or table.cosine[pair] > table.cosine[row].max() - NEARLY)
    likeness = 1 - table.distance[pair] if why == "values" else table.cosine[pair]
    sure = not also and (why == "values" or bool(best))
    layout = layout or str(table.layout[pair])
    return Suggestion(
        names[column], parts[row].name, layout, float(likeness), why, sure, also, pattern,
        float(table.known[pair]), astray,
    )  # fmt: skip


def _alone(
    rows: Sequence[int], parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable, taken: set[str]
) -> Iterator[Suggestion]:
    """Tensors without a layer's number beside some with one: events of no layer, or by agreeing values.
    What agrees with a kind of event that is `taken` is unsure: a norm that does nothing leaves a copy."""
    agreeing, some = table.agreeing, np.array(rows, int)
    of_layers = np.array([name.startswith("layer") for name in names])
    known = of_layers & [name.partition(".")[2] in taken for name in names]
    free = np.where(known, False, agreeing)
    scores = table.score + ANCHOR * np.where(agreeing, 2 - table.distance, 0)
    scores *= ~known & (free | ~(of_layers | free.any(axis=1, keepdims=True)))
    for at, column, other, loss in assign(scores[some]):
        pair = (int(some[at]), column)
        why = "values" if agreeing[pair] else "order"
        copied = np.flatnonzero(agreeing[pair[0]] & known)
        if copied.size:
            other, loss = int(copied[0]), 0.0
        also = names[other] if other >= 0 and loss < UNDECIDED else ""
        yield _suggestion(pair, parts, names, table, why, also=also)


def _place(parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable) -> list[Suggestion]:
    """The pairs that the table speaks for, where no name says a layer."""
    agreeing = table.agreeing
    strength = np.where(agreeing, 2 - table.distance, 0)
    anchors = _anchors(strength)
    in_order = {(pair.row, pair.column) for pair in align(strength)} & anchors
    astray = set[tuple[int, int]]()
    if len(in_order) >= IN_ORDER * len(anchors):
        astray = anchors - in_order
        others = _by_order(names, table, strength, anchors, in_order)
    else:  # the names are in no order of computation
        rest = np.where(table.cosine > CLOSE, table.cosine, 0)
        others = dict.fromkeys(anchors | _anchors(_without(rest, anchors)), -1)
    return [
        _suggestion(
            pair, parts, names, table, "values" if agreeing[pair] else "order",
            also=names[other] if other >= 0 else "", astray=pair in astray,
        )
        for pair, other in others.items()
    ]  # fmt: skip


def _anchors(strength: Array) -> set[tuple[int, int]]:
    """Pairs (row, column) that stand by themselves: those in order, then the strongest of the rest."""
    anchors = {(pair.row, pair.column) for pair in align(strength)}
    rest = _without(strength, anchors)
    while rest.any():
        row, column = divmod(int(rest.argmax()), rest.shape[1])
        anchors.add((row, column))
        rest[row], rest[:, column] = 0, 0
    return anchors


def _without(scores: Array, pairs: Iterable[tuple[int, int]]) -> Array:
    """The scores of rows and columns that are in none of the pairs."""
    rest = scores.copy()
    for row, column in pairs:
        rest[row], rest[:, column] = 0, 0
    return rest


def _by_order(
    names: Sequence[str], table: ScoreTable, strength: Array, anchors: set[tuple[int, int]],
    in_order: set[tuple[int, int]],
) -> dict[tuple[int, int], int]:  # fmt: skip
    """All pairs, the anchors among them, and for each the event that does as well, or -1."""
    scores = table.score + ANCHOR * strength
    healthy = np.arange(len(names)) < _healthy(names, table, anchors)
    scores[healthy & ~table.alike & (strength == 0)] = 0
    known = (strength > 0).any(axis=1)  # a copy of a tensor that has its place gets no other
    scores[known] *= strength[known] > 0
    scores = _without(scores, anchors - in_order)
    found = dict.fromkeys(anchors - in_order, -1)
    for pair in align(scores):
        found[pair.row, pair.column] = pair.other if pair.loss < UNDECIDED else -1
    return found


def _healthy(names: Sequence[str], table: ScoreTable, anchors: set[tuple[int, int]]) -> int:
    """How many of the first events the stream has proved right: what goes into a residual that comes no
    later than agreeing values was computed as ours."""
    agreeing = table.agreeing
    agreed = [pair[1] for pair in anchors if agreeing[pair] and not by_chance(names[pair[1]])]
    until = max(agreed, default=-1)
    streams = [i for i, name in enumerate(names) if kind_of(name) in residual_kinds() and i <= until]
    return max(streams, default=-1) + 1
