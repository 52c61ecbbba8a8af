"""Matching: how well each tensor of a recording goes with each event, by its values and shape.

Every tensor is read once, and of tensors and events only sketches stay in memory. Letters: F recorded
tensors, E events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from ..architecture.catalogue import kind_named, known_row
from ..architecture.kinds import Linear, Loss, Softmax
from ..architecture.plan import Plan
from ..arrays.stats import Array
from .layouts import fit, fits
from .recorded import Recorded
from .sketches import SAME, Likeness, Sketch, Stack, sketch

# What speaks for a pair, in one currency
FITS, COSINE, PROFILE, SIGN, NORMS = 0.3, 1.0, 0.7, 0.7, 1.0

Shapes = Mapping[str, tuple[int, ...]]


class TensorPart(NamedTuple):
    """A recorded tensor, or a slice of it."""

    recorded: Recorded
    name: str
    way: int = 0  # of several to cut it; 0 for the whole


@dataclass(slots=True, eq=False)
class TensorGroup:
    """The events of one kind and shape; `whole` and `last` are sketches of all rows and the last one."""

    events: list[int] = field(default_factory=list)  # their places among all events
    whole: list[Sketch] = field(default_factory=list)
    last: list[Sketch] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """How well each recorded tensor goes with each event: [F, E]."""

    score: Array  # 0 where no layout fits
    distance: Array
    cosine: Array
    alike: Array  # booleans
    layout: Array  # letters
    known: Array  # the share of elements that are finite in both

    @classmethod
    def empty(cls, rows: int, columns: int) -> ScoreTable:
        size = (rows, columns)
        letters = np.full(size, "", "U8")
        distance, nothing = np.full(size, np.inf), np.zeros(size)
        return cls(nothing, distance, nothing.copy(), np.zeros(size, bool), letters, nothing.copy())

    @property
    def agreeing(self) -> Array:
        """Where values agree, and with no other event much better (a stream may change by 1e-3): [F, E]."""
        best = self.distance.min(axis=1, keepdims=True)
        agree: Array = (self.distance < SAME) & (self.distance <= 3 * best + 1e-5)
        return agree

    def take(self, rows: Array) -> ScoreTable:
        return ScoreTable(*(getattr(self, column.name)[rows] for column in fields(self)))

    def put(self, row: int, events: Sequence[int], layout: str, found: Likeness) -> None:
        """Note how a tensor in a layout goes with events, where no earlier layout did better."""
        score = FITS + COSINE * np.maximum(found.cosine, 0) + PROFILE * found.profile
        score = score + SIGN * found.sign + NORMS * found.norms
        better = (score > self.score[row, events]) & (found.distance <= self.distance[row, events])
        better |= self.score[row, events] == 0
        at = np.array(events)[better]
        self.score[row, at], self.layout[row, at] = score[better], layout
        self.distance[row, at], self.cosine[row, at] = found.distance[better], found.cosine[better]
        self.alike[row, at], self.known[row, at] = found.alike[better], found.known[better]


def source_name(recorded: Recorded) -> str:
    """What a map calls a recorded tensor: its file without `.npy`, where that does not look like a slice."""
    short = recorded.source.removesuffix(".npy")
    return recorded.source if short.endswith("]") else short


# --- How well each tensor goes with each event -----------------------------------------------


def sketch_events(events: Iterable[tuple[str, Array]], shapes: Shapes) -> tuple[list[str], list[TensorGroup]]:
    """The events by name, and what is kept of them."""
    names: list[str] = []
    groups: dict[tuple[str, tuple[int, ...]], TensorGroup] = {}
    for name, value in events:
        if value.shape != shapes.get(name):
            continue
        group = groups.setdefault((group_of(name), value.shape), TensorGroup())
        group.events.append(len(names))
        group.whole.append(sketch(value, is_causal(name)))
        group.last.append(sketch(value[..., -1:, :] if value.ndim > 1 else value, is_causal(name)))
        names.append(name)
    return names, list(groups.values())


def group_of(event: str) -> str:
    return event.rpartition(".")[2]


def is_causal(event: str) -> bool:
    row = known_row(event)
    return row is not None and row.causal


def by_chance(event: str) -> bool:
    """Whether it may agree although others do not: weights of one position, a single number."""
    return isinstance(kind_named(event), Softmax | Loss)


def compare(
    parts: Sequence[TensorPart],
    names: Sequence[str],
    groups: Sequence[TensorGroup],
    shapes: Shapes,
    head_dim: int,
) -> ScoreTable:
    table = ScoreTable.empty(len(parts), len(names))
    stacks = [(group.events, Stack.of(group.whole), Stack.of(group.last)) for group in groups]
    for row, part in enumerate(parts):
        sketched = _Sketched(part.recorded, head_dim)
        for events, whole, last in stacks:
            name = names[events[0]]
            for layout in fits(name, part.recorded, shapes, head_dim):
                one, is_whole = sketched.as_event(name, layout, shapes)
                with np.errstate(all="ignore"):
                    found = (whole if is_whole else last).compare(one)
                if found is not None:
                    table.put(row, events, layout, found)
    return table


class _Sketched:
    """A recorded tensor, read once and sketched once for all events of one shape."""

    def __init__(self, recorded: Recorded, head_dim: int) -> None:
        self.recorded = replace(recorded, read=self._read)
        self.head_dim = head_dim
        self.source, self.array = recorded, np.empty(0)
        self.sketches: dict[tuple[str, tuple[int, ...], bool], tuple[Sketch, bool]] = {}

    def _read(self) -> Array:
        if self.array.shape != self.source.shape:
            self.array = np.asarray(self.source.read())  # views of a memory map cost 3 µs instead of 0.5
        return self.array

    def as_event(self, name: str, layout: str, shapes: Shapes) -> tuple[Sketch, bool]:
        """Its sketch in a layout, and whether it has all rows of the event."""
        key = layout, shapes[name], is_causal(name)
        if key not in self.sketches:
            recorded = replace(self.recorded, layout=layout)
            array = fit(name, recorded, shapes, head_dim=self.head_dim).array
            with np.errstate(all="ignore"):
                self.sketches[key] = sketch(array, is_causal(name)), array.shape == shapes[name]
        return self.sketches[key]


# --- Slices of fused tensors -----------------------------------------------------------------


def products_side_by_side(plan: Plan) -> list[tuple[str, ...]]:
    """Products with one input that an engine may make at once, without their layer: q, k and v, some of
    these, gate and up."""
    found: dict[tuple[str, ...], None] = {}
    for rows in plan.layers:
        products: dict[str, list[str]] = {}
        for row in rows:
            if isinstance(row.kind, Linear) and row.kind.columns is None:
                products.setdefault(row.inputs[0], []).append(row.name.partition(".")[2])
        for kinds in products.values():
            for count in range(len(kinds), 1, -1):
                runs = (tuple(kinds[start : start + count]) for start in range(len(kinds) - count + 1))
                found |= dict.fromkeys(runs)
    return list(found)


def parts_of(
    whole: Recorded, names: Sequence[str], shapes: Shapes, fused: Sequence[tuple[str, ...]]
) -> Iterator[TensorPart]:
    """The tensor, then its slices, if it is as wide as `fused` products side by side."""
    yield TensorPart(whole, source_name(whole))
    widths = {name.partition(".")[2]: shapes[name] for name in names if name.startswith("layer")}
    for way, kinds in enumerate(fused, start=1):
        if any(kind not in widths for kind in kinds):
            continue
        ends = np.cumsum([0, *(widths[kind][1] for kind in kinds)]).tolist()
        axes = [axis for axis, length in enumerate(whole.shape) if length == ends[-1]]
        if axes and math.prod(whole.shape) in (ends[-1], ends[-1] * widths[kinds[0]][0]):
            for start, stop in pairwise(ends):
                yield _slice(whole, axes[-1], start, stop, way)


def _slice(whole: Recorded, axis: int, start: int, stop: int, way: int) -> TensorPart:
    index, words = [slice(None)] * len(whole.shape), [":"] * len(whole.shape)
    index[axis] = slice(start, stop)
    words[axis] = f"{start or ''}:{'' if stop == whole.shape[axis] else stop}"
    name = f"{source_name(whole)}[{', '.join(words)}]"
    shape = (*whole.shape[:axis], stop - start, *whole.shape[axis + 1 :])
    return TensorPart(replace(whole, shape=shape, read=partial(_read_slice, whole, tuple(index))), name, way)


def _read_slice(whole: Recorded, index: tuple[slice, ...]) -> Array:
    return whole.read()[index]


def whole_or_sliced(parts: Sequence[TensorPart], table: ScoreTable, same: Mapping[str, str]) -> list[int]:
    """The rows to go on with: of each tensor either the whole or one way to cut it, and of those that
    are the `same` in other layers the same. Agreeing values decide, then whether its shape fits, then
    the whole is taken."""
    agreeing: Array = np.asarray(table.agreeing.any(axis=1))
    best: Array = table.score.max(axis=1)

    def rank(rows: list[int]) -> tuple[bool, bool, bool, int, float]:
        agree, scores = agreeing[rows], best[rows]
        whole = parts[rows[0]].way == 0
        return bool(agree.any()), bool(scores.all()), whole, int(agree.sum()), float(scores.mean())

    together: dict[tuple[str, tuple[int, ...]], list[list[list[int]]]] = {}
    for tensor in _ways(parts):
        source = source_name(parts[tensor[0][0]].recorded)
        key = same.get(source, source), tuple(parts[rows[0]].way for rows in tensor)
        together.setdefault(key, []).append(tensor)
    kept: list[int] = []
    for tensors in together.values():
        ways = [[row for rows in way for row in rows] for way in zip(*tensors, strict=True)]
        chosen: list[int] = max(ways, key=rank)
        kept += chosen
    return sorted(kept)


def _ways(parts: Sequence[TensorPart]) -> Iterator[list[list[int]]]:
    """The rows of each tensor: the whole's, then those of the slices of each way to cut it."""
    starts = [row for row, part in enumerate(parts) if part.way == 0]
    for start, stop in pairwise([*starts, len(parts)]):
        yield [list(rows) for _, rows in groupby(range(start, stop), key=lambda row: parts[row].way)]
