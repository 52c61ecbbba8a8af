"""Patterns: names that differ in one number, which counts layers, and so are one kind of event."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from ..text.brief import frozen
from .matching import ScoreTable, TensorPart

Votes = Mapping[str, set[int | None]]  # the layers of the events that a tensor agrees with, by its name
_NUMBER = re.compile("(?<![0-9])[0-9]{1,4}(?![0-9])")
_MAX_NUMBERS = 16  # in a name, of which one may be that of a layer


@frozen(eq=False)
class Series:
    """Tensors that are one kind of event, each in its layer; or one that stands alone, in layer None."""

    name: str  # "blk{i}_ffu"; with its slice "blk{i}_qkv[:, :896]"
    rows: Mapping[int | None, int]  # of the table, by layer
    ahead: int = 0  # by how much the number in the name is ahead of the layer


def find_series(
    parts: Sequence[TensorPart], table: ScoreTable, layers: Sequence[int | None]
) -> Iterator[Series]:
    """Every tensor in one series, cut in one way in all layers; `layers` are those of the events. A name with
    several numbers counts by that which most tensors share."""
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        rows.setdefault(part.source, []).append(row)
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
