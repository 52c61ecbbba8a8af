"""Which tensor of a recording is which event: a draft from values, names and order, and its TOML.

Letters: F recorded tensors, E events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoder import Decoder
from ..model import Model
from ..stats import Array
from .alignment import align
from .matching import (
    Part,
    Shapes,
    Table,
    compare,
    kind_of,
    parts_of,
    sketch_events,
    source_name,
    whole_or_sliced,
)
from .recording import OWN, Leftover, Recording

CLOSE, NEARLY = 0.9, 0.01  # cosine from which a pair by order is sure, if no other is that much closer
UNDECIDED = 0.2  # another event that scores so little less would do as well
IN_ORDER = 0.8  # of the anchors, for the order to tell about the rest
ANCHOR = 100.0  # outweighs all that else speaks for a pair
BY_CHANCE = ("weights", "loss")  # these agree although others do not: of one position, of one number


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recorded tensor, or a slice of one, and the event that it seems to be.

    `why` is "values" where they agree, "name" where tensors of such names agree in other layers, else
    "order". `similarity` is 1 - relative L2 where values agree and the cosine elsewhere, over a sample
    of the elements with magnitudes clipped at 4 medians. `also` names an event that fits about as well.
    """

    event: str
    source: str  # with its slice: "t003[:, :896]"
    layout: str
    similarity: float
    why: str
    sure: bool
    also: str = ""


def suggest(
    recording: Recording, model: Model | Decoder, events: Iterable[tuple[str, Array]], shapes: Shapes
) -> tuple[Suggestion, ...]:
    """Guess which events the leftovers of a recording are; the answer is in order of computation.

    `events` are the model's own values in order of computation, [T, W] or [H, T, S]; each is looked at
    during its step alone. Where values agree they decide. What remains is aligned by order, tensors in
    the natural order of their names (t2 before t10) with events, so that what follows a fault finds its
    place too, unless the agreeing ones are in no order.
    """
    names, groups = sketch_events(events, shapes)
    leftovers = sorted((left.recorded for left in recording.leftovers), key=lambda one: _natural(one.source))
    parts = [part for whole in leftovers for part in parts_of(whole, names, shapes)]
    if not names or not parts:
        return ()
    table = compare(parts, names, groups, shapes, model.config.head_dim)
    taken = np.array([name in recording.tensors for name in names])
    table.score[taken & ~table.agreeing] = 0  # what agrees is a copy, and gets no other place
    kept = whole_or_sliced(parts, table)
    found = _place([parts[row] for row in kept], names, table.take(np.array(kept)))
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


def _place(parts: Sequence[Part], names: Sequence[str], table: Table) -> list[Suggestion]:
    """The pairs that the table speaks for, in order of computation."""
    agreeing = table.agreeing
    strength = np.where(agreeing, 2 - table.distance, 0)
    named = _named(parts, names, table, _anchors(strength))
    named[np.any(agreeing, axis=1)] = False
    strength[named] = 1
    anchors = _anchors(strength)
    in_order = {(pair.row, pair.column) for pair in align(strength)} & anchors
    if len(in_order) >= IN_ORDER * len(anchors):
        others = _by_order(names, table, strength, anchors, in_order)
    else:  # the names are in no order of computation
        rest = np.where(table.cosine > CLOSE, table.cosine, 0)
        others = dict.fromkeys(anchors | _anchors(_without(rest, anchors)), -1)
    found = []
    for (row, column), other in sorted(others.items(), key=lambda item: item[0][1]):
        why = "values" if agreeing[row, column] else "name" if named[row, column] else "order"
        likeness = 1 - table.distance[row, column] if why == "values" else table.cosine[row, column]
        best = CLOSE < table.cosine[row, column] > table.cosine[row].max() - NEARLY
        sure = other < 0 and (why == "values" or best)
        layout, also = str(table.layout[row, column]), names[other] if other >= 0 else ""
        found.append(
            Suggestion(names[column], parts[row].name, layout, float(likeness), why, bool(sure), also)
        )
    return found


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
    names: Sequence[str], table: Table, strength: Array, anchors: set[tuple[int, int]],
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


def _healthy(names: Sequence[str], table: Table, anchors: set[tuple[int, int]]) -> int:
    """How many of the first events the stream has proved right: what goes into a residual that comes no
    later than agreeing values was computed as ours."""
    agreeing = table.agreeing
    agreed = [pair[1] for pair in anchors if agreeing[pair] and kind_of(names[pair[1]]) not in BY_CHANCE]
    until = max(agreed, default=-1)
    streams = [i for i, name in enumerate(names) if kind_of(name) == "residual" and i <= until]
    return max(streams, default=-1) + 1


def _named(parts: Sequence[Part], names: Sequence[str], table: Table, agreed: set[tuple[int, int]]) -> Array:
    """Where a name says the event, [F, E]: names that differ in one number, which counts layers in those
    whose values agree."""
    of_event = {name: column for column, name in enumerate(names)}
    layers = len({name.partition(".")[0] for name in names if name.startswith("layer")})
    families: dict[tuple[str, str, str], list[tuple[int, int]]] = {}  # rows and their numbers
    for row, part in enumerate(parts):
        source = source_name(part.recorded)
        for number in re.finditer(r"[0-9]+", source):
            key = source[: number.start()], source[number.end() :], part.name.removeprefix(source)
            families.setdefault(key, []).append((row, int(number[0])))
    event_of = dict(agreed)
    named = np.zeros(table.score.shape, bool)
    for (before, after, _), members in families.items():
        if len(members) > layers or len(re.findall("[a-zA-Z]", before + after)) < 2:
            continue
        meant = {
            _layer_andkind_of(names[event_of[row]], number) for row, number in members if row in event_of
        }
        if len(meant) == 1 and (only := meant.pop()) is not None:
            for row, count in members:
                column = of_event.get(f"layer{count - only[0]}.{only[1]}")
                if column is not None and table.score[row, column] > 0:
                    named[row, column] = True
    return named


def _layer_andkind_of(event: str, number: int) -> tuple[int, str] | None:
    """By how much a number is ahead of the event's layer, and the event within it."""
    layer, _, kind = event.partition(".")
    return (number - int(layer.removeprefix("layer")), kind) if layer.startswith("layer") else None


# --- TOML ------------------------------------------------------------------------------------


def to_toml(
    suggestions: Sequence[Suggestion], leftovers: Iterable[Leftover], recording: Recording,
    tokens: Sequence[int] | None,
) -> str:  # fmt: skip
    """The draft as a map in TOML. Undecided suggestions are commented out, and the `leftovers` that no
    suggestion takes are listed."""
    shapes = {source_name(left.recorded): left.recorded.shape for left in recording.leftovers}
    lines = ["# drafted from names, shapes and values; check before use"]
    if recording.tensors:
        lines.append(f"# {len(recording.tensors)} tensors are known by their names and not listed here")
    if tokens is not None:
        lines.append(f"tokens = {[int(token) for token in tokens]}")
    lines.append("[events]")
    written = [(_entry(one, shapes), _comment(one)) for one in suggestions]
    width = min(max((len(entry) for entry, _ in written), default=0), 60)
    lines += [f"{entry:<{width}}  # {comment}" for entry, comment in written]
    for left in leftovers:
        lines.append(f"# not placed: {_quoted(source_name(left.recorded))} {list(left.recorded.shape)}")
    return "\n".join(lines) + "\n"


def _entry(one: Suggestion, shapes: Shapes) -> str:
    whole = one.source if one.source in shapes else one.source.rpartition("[")[0]
    lengths = [length for length in shapes.get(whole, ()) if length > 1]
    plain = one.layout in ("TC", "HTS", OWN) and len({*lengths[:2]}) == len(lengths[:2])
    source = _quoted(one.source)
    value = source if plain else f"{{ from = {source}, layout = {_quoted(one.layout)} }}"
    return f"{'# ' if one.also else ''}{_quoted(one.event)} = {value}"


def _comment(one: Suggestion) -> str:
    how = f"by {one.why}; values differ: cosine {one.similarity:.2g}"
    if one.why == "values":
        how = f"values agree, {1 - one.similarity:.1e}"
    elif one.similarity > CLOSE:
        how = f"by {one.why}; values are close: cosine {one.similarity:.4f}"
    return f"unsure: also fits {one.also}; {how}" if one.also else how


def _quoted(text: str) -> str:
    """A TOML basic string on one line; DEL, which JSON leaves as it is, must be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
