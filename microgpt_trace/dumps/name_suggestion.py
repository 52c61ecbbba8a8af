"""Which tensor of a recording is which event: a draft from names, shapes, values and order.

Letters: F recorded tensors, E events, P series of tensors, K kinds of events within a layer ("attn.q").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.catalogue import residual_kinds
from ..architecture.plans.plan import kind_of, layer_of
from ..arrays.stats import Array
from ..grouping import grouped
from ..text.brief import frozen
from .matching import (
    ScoreTable,
    Shapes,
    TensorPart,
    compare,
    grouped_events,
    parts_of,
    place,
    products_side_by_side,
    source_name,
)
from .recording import Recording

Columns = Mapping[int | None, int]  # of the table, by layer
Votes = Mapping[str, set[int | None]]  # the layers of the events that a tensor agrees with, by its name
_NUMBER = re.compile("(?<![0-9])[0-9]{1,4}(?![0-9])")
_MAX_NUMBERS = 16  # in a name, of which one may be that of a layer
FITS = 1.0  # what a shape speaks for a pair, beside a cosine of at most 1
NAMED = 0.5  # what the words of a name speak for it
EARLIER = 0.8  # what a layer counts of what the one before it counts: early ones agree before a fault


@frozen(eq=False)
class Series:
    """Tensors that are one kind of event, each in its layer; or one that stands alone, in layer None."""

    name: str  # "blk{i}_ffu"; with its slice "blk{i}_qkv[:, :896]"
    rows: Mapping[int | None, int]  # of the table, by layer
    ahead: int = 0  # by how much the number in the name is ahead of the layer


class Suggestion(NamedTuple):
    """A recorded tensor, or a slice of one, and the event that it seems to be.

    `why` is "values" where they agree, "name" where they agree in other layers of the `pattern`, such as
    "blk{i}_ffu", else "order". `distance` is the relative L2 over a sample of the elements, magnitudes
    clipped at 4 medians; the share `known` of it is finite on both sides. `pattern` is empty where the
    number in the name is not the layer's own.
    """

    event: str
    source: str  # with its slice: "t003[:, :896]"
    layout: str
    several: bool  # layouts that its shape allows
    distance: float
    known: float
    why: str
    pattern: str = ""


class Unplaced(NamedTuple):
    """Tensors of one name and shape that have no place, how many there are, and why."""

    name: str  # "blk{i}_tmp"
    shape: tuple[int, ...]
    tensors: int
    reason: str


def suggest(
    recording: Recording, model: LanguageModel, events: Iterable[tuple[str, Array]], shapes: Shapes
) -> tuple[list[Suggestion], list[Unplaced]]:
    """Guess which events the leftovers of a recording are, in order of computation; and list those that
    have no place.

    `events` are the model's own values in order of computation, [T, W] or [H, T, S]; each is looked at
    during its step alone. Names that differ in the number of the layer alone are one kind of event,
    whatever the values of one layer say. Elsewhere values decide where they agree. What remains is
    placed by order, tensors in the natural order of their names (t2 before t10) with events, so that
    what follows a fault finds its place too, unless the agreeing ones are in no order.
    """
    names, groups = grouped_events(events, shapes)
    readable = sorted(
        (left.recorded for left in recording.leftovers if left.readable), key=lambda one: _natural(one.source)
    )
    fused = products_side_by_side(model.plan)
    parts = [part for whole in readable for part in parts_of(whole, fused, shapes)]
    table = compare(parts, groups, shapes, model.config.head_dim)
    series = list(find_series(parts, table, [layer_of(name) for name in names]))
    places = _placed(series, names, table, _scores(table, names, recording.tensors))
    found = [
        said for one, columns in places for said in _of_series(one, columns, parts, names, table)
        if said.event not in recording.tensors
    ]  # fmt: skip
    found.sort(key=lambda one: names.index(one.event))
    taken = {one.source for one in found}
    unplaced = [
        Unplaced(source_name(left.recorded), left.recorded.shape, 1, left.reason)
        for left in recording.leftovers
        if not left.readable
    ]
    for one in series:
        rest = [row for row in one.rows.values() if parts[row].name not in taken]
        if rest:
            shape, reason = parts[rest[0]].recorded.shape, _reason(rest[0], names, table)
            unplaced.append(Unplaced(one.name, shape, len(rest), reason))
    return found, unplaced


def _natural(name: str) -> list[str]:
    """A key that sorts t2 before t10."""
    return [word.zfill(12) if word.isdecimal() else word for word in re.split("([0-9]+)", name)]


def _scores(table: ScoreTable, names: Sequence[str], known: Container[str]) -> Array:
    """What speaks for each pair: [F, E]. A stream that agrees proves the events before it right: what is not
    like one of these is none. Events that are `known` by name have copies at most."""
    near = np.maximum(0, 1 - np.minimum(table.distance, 1))
    scores = np.where(table.layout != "", FITS + table.cosine + near, 0)
    streams = [i for i, name in enumerate(names) if kind_of(name) in residual_kinds()]
    right = max((i for i in streams if table.agreeing[:, i].any()), default=-1)
    scores[:, : right + 1] *= table.alike[:, : right + 1]
    scores[:, [name in known for name in names]] = 0
    return scores


def _placed(
    series: Sequence[Series], names: Sequence[str], table: ScoreTable, scores: Array
) -> Iterator[tuple[Series, Columns]]:
    """Each series that has a place, and its columns by layer: kinds of events for those of layers, then
    events for tensors that stand alone. Beside series these are of no layer, unless values say so; what
    agrees with a series that has its place is a copy."""
    columns: dict[str, dict[int | None, int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(kind_of(name), {})[layer_of(name)] = column
    counting = [one for one in series if None not in one.rows]
    kinds = [kind for kind in columns if None not in columns[kind] and counting]
    evidence = [[_evidence(one, kind, columns[kind], table, scores) for kind in kinds] for one in counting]
    both = np.array(evidence, np.float32).reshape(len(counting), len(kinds), 2)
    decided = place(both[..., 0], both[..., 1])
    yield from ((counting[p], columns[kinds[k]]) for p, k in decided.items())
    alone = [one for one in series if None in one.rows]
    rows = [one.rows[None] for one in alone]
    strength, free = table.strength[rows], [kind_of(name) not in kinds for name in names]
    copied = [column for k in decided.values() for column in columns[kinds[k]].values()]
    said = {kind: np.array([_named(one.name, kind) for one in alone]) for kind in columns}
    named = NAMED * np.array([said[kind_of(name)] for name in names]).T  # [P, E]
    possible = (scores[rows] > 0) & np.array(free, bool) & ~strength[:, copied].any(axis=1, keepdims=True)
    strength[:, copied] = 0
    for at, column in place(possible * (scores[rows] + named), strength).items():
        yield alone[at], {None: column}


def _evidence(
    one: Series, kind: str, columns: Columns, table: ScoreTable, scores: Array
) -> tuple[float, float]:
    """What speaks for a series as a kind of event, and how well values agree, over its layers, of which
    early ones count most. Nothing where most of its tensors cannot be that."""
    layers = [layer for layer in one.rows if layer in columns]
    pairs = [one.rows[layer] for layer in layers], [columns[layer] for layer in layers]
    strength = table.strength[pairs]
    if not strength.any() and 2 * np.count_nonzero(scores[pairs]) <= len(layers):
        return 0.0, 0.0
    weights = EARLIER ** np.array(layers, float)
    mean = float(scores[pairs] @ weights / weights.sum())
    return mean + NAMED * _named(one.name, kind), float(strength @ weights)


def _named(name: str, kind: str) -> float:
    """The share of the words of a kind that a name has: all of "attn.q_rope" are in "blk{i}_attnQ_rope"."""
    words, said = re.findall("[a-z]+", kind), re.findall("[a-z]+", name.lower())
    return sum(word in said or (len(word) > 1 and word in name.lower()) for word in words) / len(words)


def _of_series(
    one: Series, columns: Columns, parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable
) -> Iterator[Suggestion]:
    """What a series is, layer by layer; the layout is what speaks for itself in most layers."""
    pairs = [(row, columns[layer]) for layer, row in one.rows.items() if layer in columns]
    layout = Counter(str(table.layout[pair]) for pair in pairs).most_common(1)[0][0]
    alone = None in one.rows
    for pair in pairs:
        why = "values" if table.agreeing[pair] else "order" if alone else "name"
        yield Suggestion(
            names[pair[1]], parts[pair[0]].name, layout, bool(table.several[pair]),
            float(table.distance[pair]), float(table.known[pair]), why,
            "" if one.ahead or alone else one.name,
        )  # fmt: skip


def _reason(row: int, names: Sequence[str], table: ScoreTable) -> str:
    """Why a tensor has no place."""
    if not (table.layout[row] != "").any():
        return "no event has this shape"
    if table.agreeing[row].any():
        return f"a copy of {names[int(table.strength[row].argmax())]}"
    return "values, names and order do not decide"


# --- Patterns: names that differ in one number, which counts layers, and so are one kind of event ---


def find_series(
    parts: Sequence[TensorPart], table: ScoreTable, layers: Sequence[int | None]
) -> Iterator[Series]:
    """Every tensor in one series, cut in one way in all layers; `layers` are those of the events. A name with
    several numbers counts by that which most tensors share."""
    rows = grouped(range(len(parts)), lambda row: parts[row].source)
    votes: dict[str, set[int | None]] = {source: set() for source in rows}
    for row, column in zip(*table.agreeing.nonzero(), strict=True):
        votes[parts[row].source].add(layers[column])
    count = 1 + max((layer for layer in layers if layer is not None), default=-1)
    candidates = _candidates({source: parts[some[0]].recorded.shape for source, some in rows.items()})
    taken: set[str] = set()
    for name, numbered in sorted(candidates, key=lambda pair: -len(pair[1])):
        free = {number: source for number, source in numbered.items() if source not in taken}
        sources, ahead = _by_layer(name, free, votes, count)
        if len(sources) > 1:
            taken.update(sources.values())
            for own, members in _cut({layer: rows[one] for layer, one in sources.items()}, parts, table):
                yield Series(name + own, members, ahead)
    for source in rows:
        if source not in taken:
            for own, members in _cut({None: rows[source]}, parts, table):
                yield Series(source + own, members)


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, dict[int, str]]]:
    """Tensors of one shape by what is left of their names without one number, at one place or wherever it
    stands."""
    found: dict[tuple[str, tuple[int, ...]], dict[int, str]] = {}
    for source, shape in shapes.items():
        for number in islice(_NUMBER.finditer(source), 0 if "{i}" in source else _MAX_NUMBERS):
            everywhere = re.sub(rf"(?<![0-9]){number[0]}(?![0-9])", "{i}", source)
            for name in {everywhere, f"{source[: number.start()]}{{i}}{source[number.end() :]}"}:
                found.setdefault((name, shape), {}).setdefault(int(number[0]), source)
    return [(name, sources) for (name, _), sources in found.items()]


def _by_layer(
    name: str, numbered: Mapping[int, str], votes: Votes, layers: int
) -> tuple[dict[int, str], int]:
    """The tensors by layer, counted from 0 or from 1, and by how much the number is ahead; none where it
    counts something else: where more than one is no layer, or most of the agreeing ones are in others."""

    def within(ahead: int) -> dict[int, str]:
        return {n - ahead: source for n, source in numbered.items() if 0 <= n - ahead < layers}

    def support(ahead: int) -> int:
        return sum(layer in votes[source] for layer, source in within(ahead).items())

    ahead = max((0, 1), key=lambda ahead: (support(ahead), len(within(ahead))))
    voters = sum(bool(votes[source]) for source in numbered.values())
    says_little = not voters and len(re.findall("[a-zA-Z]", name)) < 3  # "t{i}"
    wrong = 2 * support(ahead) < voters or len(within(ahead)) < len(numbered) - 1
    return ({}, 0) if wrong or says_little else (within(ahead), ahead)


def _cut(
    rows: Mapping[int | None, list[int]], parts: Sequence[TensorPart], table: ScoreTable
) -> list[tuple[str, dict[int | None, int]]]:
    """Whole tensors, or their slices in one way, with what that adds to the name. What agrees with events
    goes first, then what fits events, then the whole."""
    ways: dict[int, dict[str, dict[int | None, int]]] = {}
    for layer, some in rows.items():
        for row in some:
            own = parts[row].name.removeprefix(parts[row].source)
            ways.setdefault(parts[row].way, {}).setdefault(own, {})[layer] = row

    def rank(way: int) -> tuple[bool, bool, bool, int]:
        every = [row for members in ways[way].values() for row in members.values()]
        agreeing = int(table.agreeing[every].any(axis=1).sum())
        return agreeing > 0, bool((table.layout[every] != "").any(axis=1).all()), way == 0, agreeing

    return list(ways[max(ways, key=rank)].items())
