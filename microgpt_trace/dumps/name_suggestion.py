"""Suggest an event for each tensor of a recording, by names, shapes, values and order.

Shape letters: F is the number of recorded tensors, E of events, P of series, K of kinds of events in a layer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.plan import kind_of, layer_of
from ..arrays.stats import Array
from ..decoder.catalogue import residual_kinds
from ..grouping import grouped
from ..text.frozen import frozen
from .layouts import Shapes
from .matching import ScoreTable, compare, parts_of, place, products_side_by_side, source_name
from .recording import Recording

Columns = Mapping[int | None, int]  # layer -> column of the score table
Rows = Mapping[int, list[int]] | Mapping[None, list[int]]  # layer -> rows of the score table
Votes = Mapping[str, set[int | None]]  # tensor -> layers of the events that agree with the tensor
_NUMBER = re.compile("(?<![0-9])[0-9]{1,4}(?![0-9])")
_MAX_NUMBERS = 16  # maximum count of numbers in a name that are tried as the layer number
FITS = 1.0  # the score of a matching shape; a matching cosine adds at most 1
NAMED = 0.5  # the score of a name that contains all words of an event
DECAY = 0.8  # weight of a layer relative to the previous layer; early layers precede a fault


@frozen(eq=False)
class Series:
    """Tensors of several layers with the same kind of event, or a single tensor (its layer is None)."""

    name: str  # "blk{i}_ffu", or "blk{i}_qkv[:, :896]" with a slice
    rows: Mapping[int | None, int]  # layer -> row of the score table
    offset: int = 0  # the number in the name minus the layer number


class Suggestion(NamedTuple):
    """A recorded tensor, or a slice of a tensor, and the suggested event.

    `why` is "values" if the values agree, "name" if the tensor belongs to a series of names such as
    "blk{i}_ffu", and "order" otherwise. `distance` is the relative L2 distance over a sample of the elements,
    with magnitudes clipped at 4 medians. `known` is the share of the sample that is finite in both the tensor
    and the event. `pattern` is the name of the series, or "" if the numbers in names are not layer numbers.
    """

    event: str
    source: str  # the name and slice in a map: "t003[:, :896]"
    layout: str
    several: bool  # True if the shape allows several layouts
    distance: float
    known: float
    why: str
    pattern: str = ""


class Unplaced(NamedTuple):
    """Tensors that match no event, with the reason. The tensors have one shape and belong to one series."""

    name: str  # "blk{i}_tmp"
    shape: tuple[int, ...]
    tensors: int
    reason: str


def suggest(
    recording: Recording, model: LanguageModel, events: Iterable[tuple[str, Array]], shapes: Shapes
) -> tuple[list[Suggestion], list[Unplaced]]:
    """Suggest events for leftovers of a recording. Return suggestions and unmatched tensors.

    `events` yields the model's values in order of computation, [T, W] or [H, T, S]. Matching has three rules:
    - Tensors whose names differ only in the layer number become the same kind of event.
    - A single tensor is matched with an event if their values agree.
    - If the agreeing tensors are in order, all other tensors are matched by order (t2 before t10). Matching
      by order also finds tensors after a fault.
    """
    readable = [left.recorded for left in recording.leftovers if left.readable]
    readable.sort(key=lambda one: _natural(one.source))
    fused = products_side_by_side(model.plan)
    parts = [part for recorded in readable for part in parts_of(recorded, fused, shapes)]
    table = compare(parts, events, shapes, model)
    series = list(find_series(table))
    places = _placed(series, table, _scores(table, recording.tensors))
    found = chain.from_iterable(_of_series(one, columns, table) for one, columns in places)
    unknown = [suggestion for suggestion in found if suggestion.event not in recording.tensors]
    suggestions = sorted(unknown, key=lambda one: table.names.index(one.event))
    placed = {one.source for one in suggestions}
    refused = [(left.recorded, left.reason) for left in recording.leftovers if not left.readable]
    unplaced = [Unplaced(source_name(one), one.shape, 1, reason) for one, reason in refused]
    for one in series:
        rest = [row for row in one.rows.values() if parts[row].name not in placed]
        if rest:
            shape = parts[rest[0]].recorded.shape
            unplaced.append(Unplaced(one.name, shape, len(rest), _reason(rest[0], table)))
    return suggestions, unplaced


def _natural(name: str) -> list[str]:
    """Return a sort key for names, so that t2 is before t10."""
    return [word.zfill(12) if word.isdecimal() else word for word in re.split("([0-9]+)", name)]


def _scores(table: ScoreTable, known: Container[str]) -> Array:
    """Return a score for each pair of a tensor and an event: [F, E].

    If the residual stream agrees at an event, all earlier events are correct. For earlier events, tensors
    with dissimilar values score 0. All tensors score 0 for events in `known`, which were found by name.
    """
    near = np.maximum(0, 1 - np.minimum(table.similarity.distance, 1))
    scores = np.where(table.layout != "", FITS + table.similarity.cosine + near, 0)
    residuals = [i for i, name in enumerate(table.names) if kind_of(name) in residual_kinds()]
    last_right = max((i for i in residuals if table.agreeing[:, i].any()), default=-1)
    scores[:, : last_right + 1] *= table.similarity.similar[:, : last_right + 1]
    scores[:, [name in known for name in table.names]] = 0
    return scores


def _placed(series: Sequence[Series], table: ScoreTable, scores: Array) -> Iterator[tuple[Series, Columns]]:
    """Yield each series that matches events, with the columns of the events by layer.

    Match series of several layers first. If there is such a series, match a single tensor with an event of a
    layer only if the values agree. A single tensor that agrees with a matched series is a copy and not
    matched.
    """
    columns: dict[str, dict[int | None, int]] = {}
    for column, name in enumerate(table.names):
        columns.setdefault(kind_of(name), {})[layer_of(name)] = column
    layered = [one for one in series if None not in one.rows]
    kinds = [kind for kind in columns if None not in columns[kind] and layered]
    evidence = [[_rate(one, kind, columns[kind], table, scores) for kind in kinds] for one in layered]
    pairs = np.array(evidence, np.float32).reshape(len(layered), len(kinds), 2)
    chosen = place(pairs[..., 0], pairs[..., 1])
    yield from ((layered[p], columns[kinds[k]]) for p, k in chosen.items())
    alone = [one for one in series if None in one.rows]
    rows = [one.rows[None] for one in alone]
    strength, free = table.strength[rows], [kind_of(name) not in kinds for name in table.names]
    used = [column for k in chosen.values() for column in columns[kinds[k]].values()]
    shares = {kind: np.array([_words_named(one.name, kind) for one in alone]) for kind in columns}
    named = NAMED * np.array([shares[kind_of(name)] for name in table.names]).T  # [P, E]
    possible = (scores[rows] > 0) & np.array(free, bool) & ~strength[:, used].any(axis=1, keepdims=True)
    strength[:, used] = 0
    for at, column in place(possible * (scores[rows] + named), strength).items():
        yield alone[at], {None: column}


def _rate(one: Series, kind: str, columns: Columns, table: ScoreTable, scores: Array) -> tuple[float, float]:
    """Return the score of a series for a kind of event, and the strength of agreement of the values.

    Early layers count most. Score and strength are 0 if most tensors cannot be this kind of event.
    """
    layers = [layer for layer in one.rows if layer in columns]
    pairs = [one.rows[layer] for layer in layers], [columns[layer] for layer in layers]
    strength = table.strength[pairs]
    if not strength.any() and 2 * np.count_nonzero(scores[pairs]) <= len(layers):
        return 0.0, 0.0
    weights = DECAY ** np.array(layers, float)
    mean = float(scores[pairs] @ weights / weights.sum())
    return mean + NAMED * _words_named(one.name, kind), float(strength @ weights)


def _words_named(name: str, kind: str) -> float:
    """Return the share of the words of a kind in a name: 1 for "attn.q_rope" in "blk{i}_attnQ_rope"."""
    words, own_words = re.findall("[a-z]+", kind), re.findall("[a-z]+", name.lower())
    return sum(word in own_words or (len(word) > 1 and word in name.lower()) for word in words) / len(words)


def _of_series(one: Series, columns: Columns, table: ScoreTable) -> Iterator[Suggestion]:
    """Yield a suggestion for each layer of a series, in the layout that is best in most layers."""
    pairs = [(row, columns[layer]) for layer, row in one.rows.items() if layer in columns]
    layout = Counter(str(table.layout[pair]) for pair in pairs).most_common(1)[0][0]
    alone = None in one.rows
    for pair in pairs:
        why = "values" if table.agreeing[pair] else "order" if alone else "name"
        yield Suggestion(
            table.names[pair[1]], table.parts[pair[0]].name, layout, bool(table.several[pair]),
            float(table.similarity.distance[pair]), float(table.similarity.finite[pair]), why,
            "" if one.offset or alone else one.name,
        )  # fmt: skip


def _reason(row: int, table: ScoreTable) -> str:
    """Explain why a tensor matches no event."""
    if not (table.layout[row] != "").any():
        return "no event has this shape"
    if table.agreeing[row].any():
        return f"a copy of {table.names[int(table.strength[row].argmax())]}"
    return "values, names and order do not determine the event of this tensor"


# --- Series: tensors whose names differ only in the number of the layer ---


def find_series(table: ScoreTable) -> Iterator[Series]:
    """Yield series so that each tensor is in one series. Split a fused tensor in the same way in all layers.

    If a name contains several numbers, the layer number is the number that leads to the largest series.
    """
    parts, layers = table.parts, [layer_of(name) for name in table.names]
    rows = grouped(range(len(parts)), lambda row: parts[row].source)
    votes: dict[str, set[int | None]] = {source: set() for source in rows}
    for row, column in zip(*table.agreeing.nonzero(), strict=True):
        votes[parts[row].source].add(layers[column])
    count = 1 + max((layer for layer in layers if layer is not None), default=-1)
    candidates = _candidates({source: parts[some[0]].recorded.shape for source, some in rows.items()})
    used: set[str] = set()
    for name, numbered in sorted(candidates, key=lambda pair: -len(pair[1])):
        free = {number: source for number, source in numbered.items() if source not in used}
        sources, offset = _by_layer(name, free, votes, count)
        if len(sources) > 1:
            used.update(sources.values())
            yield from _best_split(name, {i: rows[source] for i, source in sources.items()}, table, offset)
    for source in rows:
        if source not in used:
            yield from _best_split(source, {None: rows[source]}, table)


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, dict[int, str]]]:
    """Group tensors of one shape whose names differ in one number (which a name may repeat)."""
    groups: dict[tuple[str, tuple[int, ...]], dict[int, str]] = {}
    for source, shape in shapes.items():
        for number in islice(_NUMBER.finditer(source), 0 if "{i}" in source else _MAX_NUMBERS):
            everywhere = re.sub(rf"(?<![0-9]){number[0]}(?![0-9])", "{i}", source)
            for name in {everywhere, f"{source[: number.start()]}{{i}}{source[number.end() :]}"}:
                groups.setdefault((name, shape), {}).setdefault(int(number[0]), source)
    return [(name, sources) for (name, _), sources in groups.items()]


def _by_layer(name: str, sources: Mapping[int, str], votes: Votes, layers: int) -> tuple[dict[int, str], int]:
    """Return the tensors by layer, and the number that the names use for layer 0: 0 or 1.

    Returns no tensors if two or more numbers are not layers of the model, or if most agreeing tensors agree
    with an event of another layer.
    """

    def by_layer(offset: int) -> dict[int, str]:
        return {n - offset: source for n, source in sources.items() if 0 <= n - offset < layers}

    def support(offset: int) -> int:
        return sum(layer in votes[source] for layer, source in by_layer(offset).items())

    offset = max((0, 1), key=lambda offset: (support(offset), len(by_layer(offset))))
    voters = sum(bool(votes[source]) for source in sources.values())
    too_short = not voters and len(re.findall("[a-zA-Z]", name)) < 3  # "t{i}"
    wrong = 2 * support(offset) < voters or len(by_layer(offset)) < len(sources) - 1
    return ({}, 0) if wrong or too_short else (by_layer(offset), offset)


def _best_split(name: str, rows: Rows, table: ScoreTable, offset: int = 0) -> Iterator[Series]:
    """Yield the series of the whole tensors, or of each slice of the best split.

    Prefer a split with agreeing values, then a split with fitting shapes, then the whole tensor.
    """
    splits: dict[int, dict[str, dict[int | None, int]]] = {}
    for layer, indices in rows.items():
        for row in indices:
            part = table.parts[row]
            suffix = part.name.removeprefix(part.source)
            splits.setdefault(part.split, {}).setdefault(suffix, {})[layer] = row

    def rank(split: int) -> tuple[bool, bool, bool, int]:
        every = [row for members in splits[split].values() for row in members.values()]
        agreeing = int(table.agreeing[every].any(axis=1).sum())
        return agreeing > 0, bool((table.layout[every] != "").any(axis=1).all()), split == 0, agreeing

    for suffix, members in splits[max(splits, key=rank)].items():
        yield Series(name + suffix, members, offset)
