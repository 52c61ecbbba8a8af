"""Suggest the event of each tensor in a dump with unknown names.

Names, shapes, order and the regular counters in names decide. In `linear_3`, `linear_10`, `linear_17` and so
on, the counter grows by 7 from layer to layer, so all these tensors are the same kind of event. Values decide
between the few events that remain. The caller compares the values, so this module does not read any tensor.
Shape letters: F is the number of tensors, E of events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..plans.plan import kind_of, layer_of
from ..text.frozen import frozen

# A pair of a tensor and an event: the layout in which the tensor is nearest, or "" if the shape does not fit;
# True if the shape allows several layouts; the relative L2 distance of the values; and the share of elements
# that are finite in both.
PAIR = np.dtype([("layout", "U4"), ("several", "?"), ("distance", "f4"), ("finite", "f4"), ("follows", "?")])
SAME = 1e-2  # values agree below this distance; bfloat16 rounds by up to 4e-3
FEW = 2  # values can decide between this many tensors
_NUMBER = re.compile("(?<![0-9])[0-9]{1,4}(?![0-9])")
_MAX_NUMBERS = 16  # largest count of numbers in a name that are tried as a counter
Columns = Mapping[int | None, int]  # layer -> index of an event


class NamedTensor(NamedTuple):
    """A tensor of a dump, or a slice of a fused tensor, such as "t003" with the slice "[:, :896]"."""

    source: str
    cut: str  # the slice, or "" for a whole tensor
    shape: tuple[int, ...]


@frozen(slots=False, eq=False)
class Evidence:
    """What is known about the tensors, sorted so that t2 is before t10, and the events, in order of
    computation. The events before index `right` are certainly right, because a later event agrees."""

    tensors: Sequence[NamedTensor]  # F tensors and slices
    events: Sequence[str]  # E names
    known: Sequence[bool]  # True for events that were found by their names
    right: int
    pairs: Array  # [F, E] of PAIR

    @cached_property
    def fits(self) -> Array:
        """True where the shapes fit: [F, E]"""
        return np.asarray(self.pairs["layout"] != "")

    @cached_property
    def agree(self) -> Array:
        """True where a tensor agrees with an event: [F, E]"""
        return agreeing(self.pairs["distance"]) | self.pairs["follows"]


class Suggested(NamedTuple):
    """The index of the event of a tensor. `why` is "values", "operation", "name", "order" or "shape".
    `pattern` is the name in all layers, "blk{i}_ffu", or "" if the number in names is not the layer."""

    event: int
    why: str
    pattern: str = ""


class _Series(NamedTuple):
    """Tensors of several layers whose names differ only in a counter."""

    pattern: str  # "blk{i}_ffu", or "blk{i}_qkv[:, :896]" with a slice
    rows: Mapping[int, int]  # layer -> index of a tensor
    of_layers: bool  # True if the counter is the number of the layer


def agreeing(distance: Array) -> Array:
    """Return True where a tensor agrees with an event, and no other event agrees much better: [F, E].

    A layer may change the residual stream by only 1e-3, so a tensor can agree with several events.
    """
    best = distance.min(axis=1, initial=np.inf, keepdims=True)
    agree: Array = (distance < SAME) & (distance <= 3 * best + 1e-5)
    return agree


def assign(evidence: Evidence) -> dict[int, Suggested]:
    """Return the events of tensors, by index: first of series, then of single tensors.

    >>> pairs = np.array([[("TC", False, 0.5, 1.0, False), ("TC", False, 0.001, 1.0, False)]], PAIR)
    >>> tensors = [NamedTensor("x", "", (3, 8))]
    >>> assign(Evidence(tensors, ["embed.tok", "final.norm"], [False, False], 0, pairs))
    {0: Suggested(event=1, why='values', pattern='')}
    """
    found: dict[int, Suggested] = {}
    taken = {column for column, known in enumerate(evidence.known) if known}

    def take(row: int, column: int, why: str, pattern: str = "") -> None:
        if row not in found and column not in taken:
            how = "operation" if evidence.pairs["follows"][row, column] else "values"
            found[row] = Suggested(column, how if evidence.agree[row, column] else why, pattern)
            taken.add(column)

    for series, columns in _chosen_series(evidence):
        for layer, row in series.rows.items():
            if layer in columns and evidence.fits[row, columns[layer]]:
                take(row, columns[layer], "name", series.pattern if series.of_layers else "")
    rows, columns_ = evidence.agree.nonzero()
    for at in evidence.pairs["distance"][rows, columns_].argsort(kind="stable"):
        take(int(rows[at]), int(columns_[at]), "values")
    whole = [i for i, one in enumerate(evidence.tensors) if not one.cut and evidence.fits[i].any()]
    free = [column for column in range(len(evidence.events)) if column not in taken]
    for row, column in [*_by_order(evidence, whole, found, free)]:
        take(row, column, "order")
    for words, _, row, column in sorted(_outside_layers(evidence, whole, found, free), reverse=True):
        take(row, column, "name" if words else "shape")
    return found


def _chosen_series(evidence: Evidence) -> Iterator[tuple[_Series, Columns]]:
    """Yield series of tensors with the events of one kind by layer. Pairs whose values agree in most layers
    are chosen first, then pairs whose name contains the last words of the kind, such as "up" of mlp.up."""
    kinds: dict[str, dict[int | None, int]] = {}
    for column, name in enumerate(evidence.events):
        if layer_of(name) is not None:
            kinds.setdefault(kind_of(name), {})[layer_of(name)] = column
    pairs = []
    for series in _series_of(evidence, max(map(len, kinds.values()), default=0)):
        votes = int(evidence.agree[[*series.rows.values()]].any(axis=1).sum())
        for kind, columns in kinds.items():
            both = [(row, columns[layer]) for layer, row in series.rows.items() if layer in columns]
            both = [pair for pair in both if evidence.fits[pair]]
            if 2 * len(both) <= len(series.rows):
                continue
            hits = sum(evidence.agree[pair] for pair in both)
            words = _words_named(series.pattern, kind, kind.rpartition(".")[2])
            if 2 * hits > votes or (words and not votes):
                nearest = min(float(evidence.pairs["distance"][pair]) for pair in both)
                pairs.append(((hits, words, len(both), -nearest), series, kind))
    rows = set[int]()
    for _, series, kind in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        if kind in kinds and rows.isdisjoint(series.rows.values()):
            rows.update(series.rows.values())
            yield series, kinds.pop(kind)


def _words_named(name: str, kind: str, needed: str) -> int:
    """Return the number of words of a kind in a name, or 0 if the name lacks a word of `needed`. For example,
    "b0_q_rope" has 2 words of attn.q_rope, and all words of its part q_rope."""
    own_words = re.findall("[a-z]+", name.lower())

    def named(word: str) -> bool:
        return word in own_words or (len(word) > 3 and word in name.lower())

    words = re.findall("[a-z]+", kind)
    return sum(map(named, words)) * all(map(named, re.findall("[a-z]+", needed)))


def _series_of(evidence: Evidence, layers: int) -> Iterator[_Series]:
    """Yield all series that the names allow. A tensor can be in several series."""
    counted: dict[tuple[str, str], dict[int, int]] = {}
    tensors = evidence.tensors
    for row, (source, cut, _) in enumerate(tensors):
        unfit = "{i}" in source or not evidence.fits[row].any()
        for number in islice(_NUMBER.finditer(source), 0 if unfit else _MAX_NUMBERS):
            once = f"{source[: number.start()]}{{i}}{source[number.end() :]}"
            everywhere = re.sub(rf"(?<![0-9]){number[0]}(?![0-9])", "{i}", source)
            for pattern in dict.fromkeys((once, everywhere)):
                counted.setdefault((pattern, cut), {}).setdefault(int(number[0]), row)
    for row, (source, cut, _) in enumerate(tensors):
        if (key := (f"{source}_{{i}}", cut)) in counted:  # exporters call the first tensors linear, linear_1
            counted[key].setdefault(0, row)
    for (pattern, cut), rows in counted.items():
        step = _step({counter: tensors[row].shape for counter, row in rows.items()}, layers)
        enough = layers if step > 1 else min(layers, max(2, len(rows) - 1))
        for first in sorted({*rows, *((0, 1) if step == 1 else ())}):
            members = {i: rows[first + step * i] for i in range(layers) if first + step * i in rows}
            if step and len(members) >= enough:
                yield _Series(pattern + cut, members, step == 1 and not first)


def _step(shapes: Mapping[int, tuple[int, ...]], layers: int) -> int:
    """Return how much the counter of a name grows from layer to layer, or 0 if this is not regular.

    The step is 1 if the counters are numbers of layers. Otherwise it is the largest step at which the shapes
    repeat in all layers. `shapes` are the shapes by counter.
    """
    if sum(counter <= layers for counter in shapes) >= len(shapes) - 1:
        return 1
    span = max(shapes) - min(shapes)
    for step in range(span // (layers - 1), span // (layers + 2), -1) if layers > 1 else ():
        length = step * (layers - 1)
        for first in [counter for counter in shapes if counter + length in shapes]:
            run = reversed(range(first, first + length))
            if all(shapes.get(counter) == shapes.get(counter + step) for counter in run):
                return step
    return 0


def _by_order(
    evidence: Evidence, whole: Sequence[int], found: Mapping[int, Suggested], free: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield tensors between two known tensors, if the free events between the events of the two known tensors
    fit these tensors one by one."""
    known = [(row, found[row].event) for row in whole if row in found]
    end = len(evidence.tensors), len(evidence.events)
    for (row, column), (next_row, next_column) in pairwise([(-1, -1), *known, end]):
        rows = [at for at in whole if row < at < next_row and not evidence.agree[at].any()]
        columns = [at for at in free if max(column, evidence.right - 1) < at < next_column]
        pairs = [*zip(rows, columns, strict=False)] if len(rows) == len(columns) else []
        yield from pairs if all(evidence.fits[pair] for pair in pairs) else ()


def _outside_layers(
    evidence: Evidence, whole: Sequence[int], found: Mapping[int, Suggested], free: Sequence[int]
) -> Iterator[tuple[int, float, int, int]]:
    """Yield pairs of a single tensor and an event outside the layers, with a rank. The name of the tensor
    contains all words of the event, or only few tensors of this shape remain and the values are near."""
    rest = [row for row in whole if row not in found and not evidence.agree[row].any()]
    for column in free:
        event, rows = evidence.events[column], [row for row in rest if evidence.fits[row, column]]
        for row in rows if layer_of(event) is None else ():
            words = _words_named(evidence.tensors[row].source, event, event)
            distance = float(evidence.pairs["distance"][row, column])
            if words or (len(rows) <= FEW and distance < 1):
                yield words, -distance, row, column
