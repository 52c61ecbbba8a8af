"""Patterns: names that differ in one number, which counts layers, and the event that each stands for.

A pattern is decided as a whole, by what all its layers say, and no tensor of it crosses layers. Letters:
P patterns, K kinds of events within a layer ("attn.q").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ..architecture.catalogue import residual_kinds
from ..architecture.plan import kind_of
from ..arrays.stats import Array
from .alignment import align, assign
from .matching import ScoreTable, TensorPart, by_chance, source_name

EARLIER = 0.8  # what a layer counts of what the one before it counts: early ones agree before a fault
DIGITS = 2.0  # digits that agree and speak for a pair: what bfloat16 keeps
ORDER = 0.2  # what the order in the file speaks, where most of the patterns are in it
IN_ORDER = 0.8
_MAX_NUMBERS = 16  # in a name, of which one may be that of a layer


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A name with {i} in the layer's place, and the tensors that it stands for, by that number."""

    name: str  # "blk{i}_ffu"; with its slice "blk{i}_qkv[:, :896]"
    sources: Mapping[int, str]
    ahead: int  # by how much the number is ahead of the layer
    rows: dict[int, int] = field(default_factory=dict)  # of the table, by layer


Relate = Callable[[Sequence[Mapping[int, int]], Mapping[str, Mapping[int, int]]], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """The kind of event that a pattern is, and another that would do as well, or nothing."""

    pattern: Pattern
    kind: str
    columns: Mapping[int, int]  # of the table, by layer
    also: str = ""


# --- Which names count layers ----------------------------------------------------------------


def find_patterns(parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable) -> list[Pattern]:
    """Names whose number counts layers, as far as agreeing values do not say otherwise; with most
    tensors first. No tensor is in two."""
    layers = 1 + max((layer for name in names if (layer := _layer_of(name)) is not None), default=-1)
    votes = _votes(parts, names, table)
    shapes = {source_name(part.recorded): part.recorded.shape for part in parts if not part.way}
    candidates = {
        name: sources for name, sources in _candidates(votes).items() if _of_one_shape(sources, shapes)
    }
    usual = _usual_offset(candidates.values(), votes, layers)
    found: list[Pattern] = []
    taken: set[str] = set()
    for name, sources in sorted(candidates.items(), key=lambda item: -len(item[1])):
        free = {number: source for number, source in sources.items() if source not in taken}
        alike = any(name.partition("{i}")[0] == one.name.partition("{i}")[0] for one in found)
        if len(free) < 2 and not (alike and free and re.search("[a-zA-Z].*[{]", name)):
            continue
        pattern = _counting(name, free, votes, layers, usual)
        if pattern is not None:
            found.append(pattern)
            taken.update(pattern.sources.values())
    return found


def _layer_of(event: str) -> int | None:
    layer = event.partition(".")[0].removeprefix("layer")
    return int(layer) if layer.isdecimal() and event.startswith("layer") else None


def _votes(
    parts: Sequence[TensorPart], names: Sequence[str], table: ScoreTable
) -> dict[str, set[int | None]]:
    """By tensor the layers of the events that it agrees with, None for an event outside of layers."""
    votes: dict[str, set[int | None]] = {source_name(part.recorded): set() for part in parts}
    for row, column in np.argwhere(table.agreeing).tolist():
        if not by_chance(names[column]):
            votes[source_name(parts[row].recorded)].add(_layer_of(names[column]))
    return votes


def _candidates(sources: Iterable[str]) -> dict[str, dict[int, str]]:
    """Tensors by what is left of their names without one number, at one place or wherever it stands."""
    found: dict[str, dict[int, str]] = {}
    for source in sources:
        if "{i}" in source:
            continue
        seen = set()
        for number in islice(re.finditer("[0-9]+", source), _MAX_NUMBERS):
            everywhere = re.sub(rf"(?<![0-9]){number[0]}(?![0-9])", "{i}", source)
            for name in (everywhere, f"{source[: number.start()]}{{i}}{source[number.end() :]}"):
                if name not in seen and len(number[0]) <= 4:
                    seen.add(name)
                    found.setdefault(name, {}).setdefault(int(number[0]), source)
    return found


def _of_one_shape(sources: Mapping[int, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all have the same shape, or all but one of at least three (the last layer's last row)."""
    found = [shapes[source] for source in sources.values()]
    usual = max(found, key=found.count)
    return found.count(usual) >= (len(found) if len(found) < 3 else len(found) - 1)


def _support(sources: Mapping[int, str], votes: Mapping[str, set[int | None]], ahead: int) -> int:
    return sum(number - ahead in votes[source] for number, source in sources.items())


def _usual_offset(
    candidates: Iterable[Mapping[int, str]], votes: Mapping[str, set[int | None]], layers: int
) -> int:
    """Whether most names count from 0 or from 1."""
    counting = [sources for sources in candidates if 1 < len(sources) <= layers]
    by_values = [sum(_support(sources, votes, ahead) for sources in counting) for ahead in (0, 1)]
    if by_values[0] != by_values[1]:
        return int(by_values[1] > by_values[0])
    return int(any(layers in sources and 0 not in sources for sources in counting))


def _counting(
    name: str, sources: Mapping[int, str], votes: Mapping[str, set[int | None]], layers: int, usual: int
) -> Pattern | None:
    """The pattern, unless its number counts something else."""
    voters = sum(bool(votes[source]) for source in sources.values())
    ahead = usual
    if not _support(sources, votes, usual) and _support(sources, votes, 1 - usual) > len(sources) / 4:
        ahead = 1 - usual
    within = {number: source for number, source in sources.items() if 0 <= number - ahead < layers}
    if len(within) < max(1, len(sources) - 1) or 2 * _support(within, votes, ahead) < voters:
        return None
    if not _support(within, votes, ahead) and (voters or len(re.findall("[a-zA-Z]", name)) < 3):
        return None  # "t{i}" says little, and no value speaks for it
    return Pattern(name, within, ahead)


def cut(patterns: Sequence[Pattern], parts: Sequence[TensorPart]) -> list[Pattern]:
    """A pattern for each slice of the tensors, with the rows of those parts."""
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        rows.setdefault(source_name(part.recorded), []).append(row)
    found: dict[str, Pattern] = {}
    for pattern in patterns:
        for number, source in pattern.sources.items():
            for row in rows.get(source, ()):
                name = pattern.name + parts[row].name.removeprefix(source)
                one = found.setdefault(name, Pattern(name, pattern.sources, pattern.ahead, {}))
                one.rows[number - pattern.ahead] = row
    return list(found.values())


# --- Which kind of event each is -------------------------------------------------------------


def decide(
    patterns: Sequence[Pattern], names: Sequence[str], table: ScoreTable, places: Mapping[int, int],
    least: float, relate: Relate | None = None,
) -> list[Decided]:  # fmt: skip
    """The kind of each pattern that is one, no kind twice. `places` are those of rows in the file;
    `least` is by how much the pairs together must be better than without one of them. Where some agree
    in few layers, `relate` says what else speaks for patterns, by their rows, as kinds: [P, K]."""
    columns: dict[str, dict[int, int]] = {}
    for column, name in enumerate(names):
        if (layer := _layer_of(name)) is not None:
            columns.setdefault(name.partition(".")[2], {})[layer] = column
    kinds = list(columns)
    patterns = list(_without_copies(patterns, table))
    scores = np.array([[_evidence(p, columns[kind], table) for kind in kinds] for p in patterns])
    if not scores.size:
        return []
    healthy = _healthy(patterns, [columns[kind] for kind in kinds], scores, names, table)
    for p, pattern in enumerate(patterns):
        for k, kind in enumerate(kinds):
            if _unlike(pattern, columns[kind], table, healthy):
                scores[p, k] = 0
    if relate is not None and not all(
        2 * _agreeing(patterns[p], columns[kinds[k]], table) > len(patterns[p].rows)
        for p, k, _, _ in assign(scores)
    ):
        scores += relate([pattern.rows for pattern in patterns], columns) * (scores > 0)
    scores += _by_place(patterns, scores, places)
    pairs = assign(scores)
    owners = {kinds[pair.column]: patterns[pair.row] for pair in pairs}
    found = []
    for p, k, other, loss in pairs:
        if not _is_of_another(patterns[p], columns, kinds[k], table, owners):
            also = kinds[other] if other >= 0 and loss < least else ""
            found.append(Decided(patterns[p], kinds[k], columns[kinds[k]], also))
    return found


def _pairs(pattern: Pattern, columns: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Layer, row and column of the tensors of a pattern as one kind of event."""
    for layer, row in pattern.rows.items():
        if layer in columns:
            yield layer, row, columns[layer]


def _without_copies(patterns: Sequence[Pattern], table: ScoreTable) -> Iterator[Pattern]:
    """The patterns without those whose tensors are those of another: a module and the last one in it."""
    kept: list[Pattern] = []
    for pattern in sorted(patterns, key=lambda one: -len(one.rows)):
        if not any(_is_copy(pattern, other, table) for other in kept):
            kept.append(pattern)
            yield pattern


def _is_copy(one: Pattern, other: Pattern, table: ScoreTable) -> bool:
    """Whether two patterns go equally well with everything, in all layers that both have."""
    common = sorted(one.rows.keys() & other.rows.keys())
    mine, theirs = ([pattern.rows[layer] for layer in common] for pattern in (one, other))
    same = [np.array_equal(values[mine], values[theirs]) for values in (table.score, table.distance)]
    return bool(common) and all(same)


def _evidence(pattern: Pattern, columns: Mapping[int, int], table: ScoreTable) -> float:
    """What speaks for a pattern as a kind of event, on average over layers of which early ones count
    most; 0 where few of its tensors have the shape."""
    pairs = list(_pairs(pattern, columns))
    weights = np.array([EARLIER**layer for layer, _, _ in pairs])
    rows, events = np.array([pair[1] for pair in pairs], int), np.array([pair[2] for pair in pairs], int)
    score, distance = table.score[rows, events], table.distance[rows, events]
    if 2 * np.count_nonzero(score) <= len(pairs):
        return 0.0
    digits = np.clip(-np.log10(np.maximum(distance, 1e-9)), 0, DIGITS)
    return float((weights * np.where(score > 0, score + digits, 0)).sum() / weights.sum())


def _healthy(
    patterns: Sequence[Pattern], columns: Sequence[Mapping[int, int]], scores: Array, names: Sequence[str],
    table: ScoreTable,
) -> int:  # fmt: skip
    """How many of the first events a stream that agrees has proved right: they went into it."""
    agreeing = table.agreeing
    until = -1
    for p, k, _, _ in assign(scores):
        for _, row, column in _pairs(patterns[p], columns[k]):
            if agreeing[row, column] and not by_chance(names[column]):
                until = max(until, column)
    streams = [i for i, name in enumerate(names[: until + 1]) if kind_of(name) in residual_kinds()]
    return max(streams, default=-1) + 1


def _unlike(pattern: Pattern, columns: Mapping[int, int], table: ScoreTable, healthy: int) -> bool:
    """Whether most of those tensors that were computed as ours are not like this kind of event."""
    known = [table.alike[row, column] for _, row, column in _pairs(pattern, columns) if column < healthy]
    return 2 * sum(known) < len(known)


def _is_of_another(
    pattern: Pattern, columns: Mapping[str, Mapping[int, int]], kind: str, table: ScoreTable,
    owners: Mapping[str, Pattern],
) -> bool:  # fmt: skip
    """Whether its values agree with a kind that another pattern is and agrees with as well, and more
    often than with its own."""
    own = _agreeing(pattern, columns[kind], table)
    for other, owner in owners.items():
        if other != kind and not by_chance(other):
            shared = Pattern(pattern.name, {}, 0, {n: r for n, r in pattern.rows.items() if n in owner.rows})
            theirs = _agreeing(owner, {n: columns[other][n] for n in shared.rows}, table)
            if min(_agreeing(shared, columns[other], table), theirs) > 2 * own:
                return True
    return False


def _agreeing(pattern: Pattern, columns: Mapping[int, int], table: ScoreTable) -> int:
    """In how many layers the values of a pattern agree with a kind of event."""
    agreeing = table.agreeing
    return sum(bool(agreeing[row, column]) for _, row, column in _pairs(pattern, columns))


def _by_place(patterns: Sequence[Pattern], scores: Array, places: Mapping[int, int]) -> Array:
    """What the order in the file says, [P, K]: nothing where it is not that of computation."""
    bonus = np.zeros(scores.shape)
    layers = sorted({layer for pattern in patterns for layer in pattern.rows})
    fullest = max(layers, key=lambda layer: sum(layer in pattern.rows for pattern in patterns))
    order = [p for p in range(len(patterns)) if fullest in patterns[p].rows]
    order.sort(key=lambda p: places[patterns[p].rows[fullest]])
    kind_at = {pair.row: pair.column for pair in assign(scores)}
    found = [kind_at[p] for p in order if p in kind_at]
    rising = len(align(np.equal.outer(found, sorted(found)).astype(float)))
    if len(found) > 2 and rising >= IN_ORDER * len(found):
        for pair in align(scores[order]):
            bonus[order[pair.row], pair.column] = ORDER
    return bonus
