"""Matching: how well each tensor of a recording goes with each event, by shape and a sketch of values; and
which pairs of such a table go together.

Every tensor is read once, and of tensors and events only sketches stay in memory. Letters: F recorded
tensors, E events; N elements of a sketch, R rows of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..architecture.plans.catalogue import kinds_in_heads, known_row
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import Plan, kind_of
from ..arrays.stats import Array
from ..grouping import grouped
from .layouts import Recorded, fit, fits

ROWS, ELEMENTS = 16, 512  # of a sketch, at most
CLIP = np.float32(4)  # medians: a channel of huge values must not decide alone (SmolLM2's stream has such)
SAME = 1e-2  # relative L2 below which values agree: bfloat16 keeps 4e-3
ALIKE = 0.5  # cosine from which two arrays look like the same computation
_TINY = np.float32(1e-30)


class Sketch(NamedTuple):
    """Elements [N] of some rows of an array, and the norms [R] of those rows; float32."""

    values: Array
    norms: Array


def sketch(array: Array, causal: bool) -> Sketch:
    """Keep the same elements of every array [.., T, W] of one shape; with `causal`, [.., T, S], only those
    whose key is not later than their query."""
    array = np.atleast_2d(array)
    rows, columns, counted = _sample(array.shape, causal)
    chosen = array[np.unravel_index(rows, array.shape[:-1])].astype(np.float32)  # [R, W]
    return Sketch(chosen[:, columns][counted], np.linalg.norm(chosen, axis=1))


@lru_cache(maxsize=64)
def _sample(shape: tuple[int, ...], causal: bool) -> tuple[Array, Array, Array]:
    """Rows and columns that are kept, and which of their elements count: [R], [C], [R, C]"""
    rng, height, width = np.random.default_rng(0), math.prod(shape[:-1]), shape[-1]
    rows = np.sort(rng.choice(height, min(height, ROWS), replace=False))
    columns = np.sort(rng.choice(width, min(width, ELEMENTS // len(rows)), replace=False))
    queries = rows % shape[-2] + width - shape[-2]
    return rows, columns, (columns <= queries[:, None]) | (not causal)


class Likeness(NamedTuple):
    """How like an array is to each of E others, with magnitudes clipped at 4 medians: the relative L2
    and the cosine, whether it looks like the same computation, and the share of elements that are finite
    in both, which all this is about."""

    distance: Array
    cosine: Array
    alike: Array  # booleans
    known: Array


class Stack:
    """The sketches of E arrays of one shape."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        values = np.stack([one.values for one in sketches])
        self.finite = np.isfinite(values)
        magnitudes = np.where(self.finite & (values != 0), np.abs(values), np.nan)  # [E, N]
        magnitudes[np.isnan(magnitudes).all(axis=1)] = 1
        self.scale = np.nanmedian(magnitudes, axis=1, keepdims=True)
        self.clipped = np.where(self.finite, np.clip(values / self.scale, -CLIP, CLIP), 0)
        self.norms = np.stack([one.norms for one in sketches])  # [E, R]

    def compare(self, one: Sketch) -> Likeness:
        """How like an array is to each of these. Rows of equal norms look like the same computation too:
        those survive a wrong pairing of RoPE and the order of GGUF's rows."""
        known = self.finite & np.isfinite(one.values)
        mine = np.where(known, np.clip(one.values / self.scale, -CLIP, CLIP), 0)
        theirs = np.where(known, self.clipped, 0)
        size, other, gap = (np.linalg.norm(rows, axis=1) for rows in (mine, theirs, mine - theirs))
        distance = np.where(known.any(axis=1), gap / np.maximum(other, _TINY), np.inf)
        if one.values.size == 1:  # of two numbers the cosine says only the sign
            cosine = 1 - distance
        else:
            cosine = np.einsum("en,en->e", mine, theirs) / np.maximum(size * other, _TINY)
        norms = np.linalg.norm(one.norms - self.norms, axis=1) < SAME * np.linalg.norm(self.norms, axis=1)
        return Likeness(distance, np.maximum(cosine, 0), (cosine > ALIKE) | norms, known.mean(axis=1))


Shapes = Mapping[str, tuple[int, ...]]


class TensorPart(NamedTuple):
    """A recorded tensor, or a slice of it."""

    recorded: Recorded
    source: str  # what a map calls the tensor
    name: str  # the same with the slice: "t003[:, :896]"
    way: int = 0  # of several to cut it; 0 for the whole


@dataclass(frozen=True, slots=True, eq=False)
class EventGroup:
    """The events of one shape that the same layouts fit: their places among all events, an example's name,
    and the sketches of all rows or of the last row, by the shape that these have."""

    places: Array
    example: str
    stacks: Mapping[tuple[int, ...], Stack]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """How well each recorded tensor goes with each event, in the layout that goes best: [F, E]."""

    layout: Array  # letters, none where no layout fits
    several: Array  # booleans: layouts that fit
    distance: Array
    cosine: Array
    alike: Array  # booleans
    known: Array  # the share of elements that are finite in both

    @cached_property
    def agreeing(self) -> Array:
        """Where values agree, and with no other event much better (a stream may change by 1e-3): [F, E]"""
        best = self.distance.min(axis=1, keepdims=True)
        agree: Array = (self.distance < SAME) & (self.distance <= 3 * best + 1e-5)
        return agree

    @cached_property
    def strength(self) -> Array:
        """How well values agree, 0 where they do not: [F, E]"""
        return np.where(self.agreeing, 2 - self.distance, 0)


def source_name(recorded: Recorded) -> str:
    """What a map calls a recorded tensor: its file without `.npy`, where that does not look like a slice."""
    short = recorded.source.removesuffix(".npy")
    return recorded.source if short.endswith("]") else short


def grouped_events(events: Iterable[tuple[str, Array]], shapes: Shapes) -> tuple[list[str], list[EventGroup]]:
    """The names of events in order of computation, and what is kept of their values."""
    names: list[str] = []
    groups: dict[tuple[tuple[int, ...], bool, bool], list[tuple[int, Sketch, Sketch]]] = {}
    for name, value in events:
        if value.shape == shapes.get(name):
            causal = _is_causal(name)
            last = value[..., -1:, :] if value.ndim > 1 else value
            key = value.shape, kind_of(name) in kinds_in_heads(), causal
            kept = len(names), sketch(value, causal), sketch(last, causal)
            groups.setdefault(key, []).append(kept)
            names.append(name)
    found = []
    for (shape, _, _), members in groups.items():
        places, whole, last_rows = zip(*members, strict=True)
        last_shape = (*shape[:-2], 1, shape[-1]) if shape else ()
        stacks = {last_shape: Stack(last_rows), shape: Stack(whole)}
        found.append(EventGroup(np.array(places), names[places[0]], stacks))
    return names, found


def _is_causal(event: str) -> bool:
    row = known_row(event)
    return row is not None and row.causal


def compare(
    parts: Sequence[TensorPart], groups: Sequence[EventGroup], shapes: Shapes, head_dim: int
) -> ScoreTable:
    """Compare every tensor in every layout that fits with the events of each shape."""
    size = len(parts), sum(len(group.places) for group in groups)
    layouts, unlike, zeros = np.full(size, "", "U4"), np.full(size, np.inf, np.float32), np.zeros(size)
    no = np.zeros(size, bool)
    table = ScoreTable(layouts, no, unlike, zeros, no.copy(), zeros.copy())
    for row, part in enumerate(parts):
        array = None
        for group in groups:
            for layout in fits(group.example, part.recorded, shapes, head_dim):
                array = np.asarray(part.recorded.read()) if array is None else array
                once = replace(part.recorded, read=partial(np.asarray, array), layout=layout)
                value = fit(group.example, once, shapes, head_dim=head_dim).array
                if value.shape not in group.stacks:
                    continue
                found = group.stacks[value.shape].compare(sketch(value, _is_causal(group.example)))
                some = table.layout[row, group.places] != ""
                better = ~some | (found.distance < table.distance[row, group.places])
                at = group.places[better]
                table.several[row, group.places] |= some
                table.layout[row, at] = layout
                for column, values in found._asdict().items():
                    getattr(table, column)[row, at] = values[better]
    return table


# --- Slices of fused tensors -----------------------------------------------------------------


def products_side_by_side(plan: Plan) -> list[tuple[str, ...]]:
    """Products with one input that an engine may make at once, without their layer: q, k and v, some of
    these, gate and up."""
    products = (row for row in plan.of_kind(Linear) if row.kind.columns is None)
    found: dict[tuple[str, ...], None] = {}
    for rows in grouped(products, lambda row: row.inputs[0]).values():
        kinds = [kind_of(row.name) for row in rows]
        for count in range(len(kinds), 1, -1):
            runs = (tuple(kinds[start : start + count]) for start in range(len(kinds) - count + 1))
            found |= dict.fromkeys(runs)
    return list(found)


def parts_of(whole: Recorded, fused: Sequence[tuple[str, ...]], shapes: Shapes) -> Iterator[TensorPart]:
    """The tensor, then its slices, if it is as wide as `fused` products side by side."""
    source = source_name(whole)
    yield TensorPart(whole, source, source)
    for way, kinds in enumerate(fused, start=1):
        length = shapes[f"layer0.{kinds[0]}"][0]
        ends = np.cumsum([0, *(shapes[f"layer0.{kind}"][1] for kind in kinds)]).tolist()
        axes = [axis for axis, size in enumerate(whole.shape) if size == ends[-1]]
        if axes and math.prod(whole.shape) in (ends[-1], ends[-1] * length):
            for start, stop in pairwise(ends):
                yield _slice(whole, axes[-1], start, stop, way)


def _slice(whole: Recorded, axis: int, start: int, stop: int, way: int) -> TensorPart:
    index, words = [slice(None)] * len(whole.shape), [":"] * len(whole.shape)
    index[axis] = slice(start, stop)
    words[axis] = f"{start or ''}:{'' if stop == whole.shape[axis] else stop}"
    shape = (*whole.shape[:axis], stop - start, *whole.shape[axis + 1 :])
    part = replace(whole, shape=shape, read=lambda: whole.read()[tuple(index)])
    return TensorPart(part, source_name(whole), f"{source_name(whole)}[{', '.join(words)}]", way)


# --- Pairs of a table of scores ---------------------------------------------------------------------

UNDECIDED = 0.15  # another column that scores so little less would do as well
IN_ORDER, FEW = 0.8, 2  # share of the anchors in order, and more than how many, for the order to tell
ANCHOR = 100.0  # outweighs all that else speaks for a pair


def place(scores: Array, strength: Array) -> dict[int, int]:
    """The column of every row that has one: [R, C] twice -> row: column

    `strength` is positive where values agree: those pairs go first, and their rows get no other column.
    Where they are in order the order tells about the rest, else a clear winner does.
    """
    anchors = _strongest(strength)
    mask = np.zeros(strength.shape, bool)
    mask[list(anchors), list(anchors.values())] = True
    in_order = {row: column for row, column, _ in align(np.where(mask, strength, 0))}
    rest = np.where((strength > 0).any(axis=1, keepdims=True) | mask.any(axis=0), 0, scores)
    if len(anchors) > FEW and len(in_order) >= IN_ORDER * len(anchors):
        rest[list(in_order), list(in_order.values())] = ANCHOR
        decided = {row: column for row, column, loss in align(rest) if loss >= UNDECIDED}
    else:
        decided = _clear_winners(rest)
    return decided | anchors


def _strongest(strength: Array) -> dict[int, int]:
    """The strongest pairs first, no row and no column twice."""
    rows, columns = strength.nonzero()
    found: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.argsort(-strength[rows, columns], kind="stable").tolist():
        row, column = int(rows[at]), int(columns[at])
        if row not in found and column not in taken:
            found[row] = column
            taken.add(column)
    return found


def _clear_winners(scores: Array) -> dict[int, int]:
    """Rows whose best column is better than the others that are left, and of those with the same one the
    best. No row gets a column that is not its best."""
    free, found = scores.copy(), dict[int, int]()
    best: list[int] = scores.argmax(axis=1).tolist() if scores.size else []

    def margin(row: int) -> float:
        return float(free[row, best[row]] - np.delete(free[row], best[row]).max(initial=0))

    while True:
        clear = [row for row in range(len(best)) if row not in found and margin(row) >= UNDECIDED]
        if not clear:
            return found
        winners = {best[row]: row for row in sorted(clear, key=lambda row: float(scores[row, best[row]]))}
        found |= {row: column for column, row in winners.items()}
        free[:, list(winners)] = 0


def align(scores: Array) -> list[tuple[int, int, float]]:
    """The pairs, rows and columns both increasing, that score most together: [R, C] -> row, column, and
    what the sum loses where the row has its next best column.

    Needleman and Wunsch, "A general method applicable to the search for similarities in the amino acid
    sequence of two proteins" (1970); a gap costs nothing.
    """
    before, after = _best_sums(scores), _best_sums(scores[::-1, ::-1])[::-1, ::-1]
    through = np.where(scores > 0, before[:-1, :-1] + scores + after[1:, 1:], -np.inf)
    row, column = scores.shape
    found = []
    while row and column:
        if before[row, column] == before[row, column - 1]:
            column -= 1
        elif before[row, column] == before[row - 1, column]:
            row -= 1
        else:
            row, column = row - 1, column - 1
            others = np.delete(through[row], column).max(initial=-np.inf)
            found.append((row, column, float(through[row, column] - others)))
    return found[::-1]


def _best_sums(scores: Array) -> Array:
    """What the first rows and columns score at most: [R, C] -> [R + 1, C + 1]"""
    sums = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1))
    for row, gains in enumerate(scores):
        paired = np.maximum(sums[row, 1:], sums[row, :-1] + gains)
        np.maximum.accumulate(paired, out=sums[row + 1, 1:])
    return sums
