"""Score how well each tensor of a recording matches each event, by shape and values, and choose pairs.

Every tensor is read once. Only sketches of tensors and events, small samples of their values, stay in memory.
Letters: F recorded tensors, E events, N elements and R rows of a sketch.
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
from .layouts import Recorded, Shapes, fit, fits

ROWS, ELEMENTS = 16, 512  # maximum of a sketch
CLIP = np.float32(4)  # in medians: one huge channel, as in SmolLM2's residual stream, must not decide alone
SAME = 1e-2  # values agree below this relative L2 distance; bfloat16 rounds by up to 4e-3
SIMILAR = 0.5  # two arrays above this cosine are taken for the same computation
_TINY = np.float32(1e-30)


class Sketch(NamedTuple):
    """Some elements [N] of some rows of an array, and the norms [R] of these rows, in float32."""

    values: Array
    norms: Array


def sketch(array: Array, causal: bool) -> Sketch:
    """Sample an array [.., T, W], at the same places in all arrays of one shape.

    With `causal`, [.., T, S], only elements whose key is not later than their query are kept.
    """
    array = np.atleast_2d(array)
    rows, columns, kept = _sample(array.shape, causal)
    sampled = array[np.unravel_index(rows, array.shape[:-1])].astype(np.float32)  # [R, W]
    return Sketch(sampled[:, columns][kept], np.linalg.norm(sampled, axis=1))


@lru_cache(maxsize=64)
def _sample(shape: tuple[int, ...], causal: bool) -> tuple[Array, Array, Array]:
    """Return the rows [R] and columns [C] of a sketch, and which of their elements are kept [R, C]."""
    rng, height, width = np.random.default_rng(0), math.prod(shape[:-1]), shape[-1]
    rows = np.sort(rng.choice(height, min(height, ROWS), replace=False))
    columns = np.sort(rng.choice(width, min(width, ELEMENTS // len(rows)), replace=False))
    queries = rows % shape[-2] + width - shape[-2]
    return rows, columns, (columns <= queries[:, None]) | (not causal)


class Similarity(NamedTuple):
    """The similarity of an array to each of E others, over the elements that are finite in both.

    Magnitudes are clipped at 4 medians.
    """

    distance: Array  # relative L2
    cosine: Array
    similar: Array  # booleans: the two look like the same computation
    finite: Array  # the share of elements that are finite in both


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

    def compare(self, one: Sketch) -> Similarity:
        """Compare an array with each array of the stack.

        Rows of equal norms also count as the same computation: norms do not change if RoPE pairs the wrong
        channels or rows are in GGUF's order.
        """
        finite = self.finite & np.isfinite(one.values)
        mine = np.where(finite, np.clip(one.values / self.scale, -CLIP, CLIP), 0)
        theirs = np.where(finite, self.clipped, 0)
        size, other, gap = (np.linalg.norm(rows, axis=1) for rows in (mine, theirs, mine - theirs))
        distance = np.where(finite.any(axis=1), gap / np.maximum(other, _TINY), np.inf)
        if one.values.size == 1:  # the cosine of two numbers is only their sign
            cosine = 1 - distance
        else:
            cosine = np.einsum("en,en->e", mine, theirs) / np.maximum(size * other, _TINY)
        norms = np.linalg.norm(one.norms - self.norms, axis=1) < SAME * np.linalg.norm(self.norms, axis=1)
        return Similarity(distance, np.maximum(cosine, 0), (cosine > SIMILAR) | norms, finite.mean(axis=1))


class TensorPart(NamedTuple):
    """A recorded tensor, or a slice of it."""

    recorded: Recorded
    source: str  # the name of the tensor in a map
    name: str  # that name with the slice: "t003[:, :896]"
    split: int = 0  # the number of the way to split the tensor; 0 for the whole tensor


@dataclass(frozen=True, slots=True, eq=False)
class EventGroup:
    """The events of one shape that can have the same layouts."""

    columns: Array  # of these events in the score table
    example: str  # the name of one of them
    stacks: Mapping[tuple[int, ...], Stack]  # sketches of all rows and of the last row, by shape


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The match of each recorded tensor with each event, in its best layout: [F, E]."""

    layout: Array  # letters; empty if no layout fits
    several: Array  # booleans: more than one layout fits
    distance: Array  # this and the following are the fields of Similarity
    cosine: Array
    similar: Array
    finite: Array

    @cached_property
    def agreeing(self) -> Array:
        """True where values agree, and agree with no other event much better: [F, E]

        A layer may change the residual stream by only 1e-3, so several events can agree.
        """
        best = self.distance.min(axis=1, keepdims=True)
        agree: Array = (self.distance < SAME) & (self.distance <= 3 * best + 1e-5)
        return agree

    @cached_property
    def strength(self) -> Array:
        """The closeness of values that agree, and 0 for the others: [F, E]"""
        return np.where(self.agreeing, 2 - self.distance, 0)


def source_name(recorded: Recorded) -> str:
    """Return the name of a tensor in a map: its file without `.npy`, unless that looks like a slice."""
    short = recorded.source.removesuffix(".npy")
    return recorded.source if short.endswith("]") else short


def grouped_events(events: Iterable[tuple[str, Array]], shapes: Shapes) -> tuple[list[str], list[EventGroup]]:
    """Return the names of the events in order of computation, and the sketches of their values by group."""
    names: list[str] = []
    groups: dict[tuple[tuple[int, ...], bool, bool], list[tuple[int, Sketch, Sketch]]] = {}
    for name, value in events:
        if value.shape == shapes.get(name):
            causal = _is_causal(name)
            last = value[..., -1:, :] if value.ndim > 1 else value
            key = value.shape, kind_of(name) in kinds_in_heads(), causal
            groups.setdefault(key, []).append((len(names), sketch(value, causal), sketch(last, causal)))
            names.append(name)
    result = []
    for (shape, _, _), members in groups.items():
        columns, all_rows, last_rows = zip(*members, strict=True)
        last_shape = (*shape[:-2], 1, shape[-1]) if shape else ()
        stacks = {last_shape: Stack(last_rows), shape: Stack(all_rows)}
        result.append(EventGroup(np.array(columns), names[columns[0]], stacks))
    return names, result


def _is_causal(event: str) -> bool:
    row = known_row(event)
    return row is not None and row.causal


def compare(
    parts: Sequence[TensorPart], groups: Sequence[EventGroup], shapes: Shapes, head_dim: int
) -> ScoreTable:
    """Compare every tensor, in every layout that fits, with the events of each group."""
    size = len(parts), sum(len(group.columns) for group in groups)
    layouts, distances, zeros = np.full(size, "", "U4"), np.full(size, np.inf, np.float32), np.zeros(size)
    no = np.zeros(size, bool)
    table = ScoreTable(layouts, no, distances, zeros, no.copy(), zeros.copy())
    for row, part in enumerate(parts):
        array = None
        for group in groups:
            for layout in fits(group.example, part.recorded, shapes, head_dim):
                array = np.asarray(part.recorded.read()) if array is None else array
                once = replace(part.recorded, read=partial(np.asarray, array), layout=layout)
                value = fit(group.example, once, shapes, head_dim=head_dim).array
                if value.shape not in group.stacks:
                    continue
                similarity = group.stacks[value.shape].compare(sketch(value, _is_causal(group.example)))
                seen = table.layout[row, group.columns] != ""
                better = ~seen | (similarity.distance < table.distance[row, group.columns])
                at = group.columns[better]
                table.several[row, group.columns] |= seen
                table.layout[row, at] = layout
                for field, values in similarity._asdict().items():
                    getattr(table, field)[row, at] = values[better]
    return table


# --- Slices of fused tensors -----------------------------------------------------------------


def products_side_by_side(plan: Plan) -> list[tuple[str, ...]]:
    """Return the products that an engine may fuse, because they have one input: q, k and v, or gate and up.

    Each is a run of two or more kinds of events, such as ("attn.q", "attn.k").
    """
    products = (row for row in plan.of_kind(Linear) if row.kind.columns is None)
    result: dict[tuple[str, ...], None] = {}
    for rows in grouped(products, lambda row: row.inputs[0]).values():
        kinds = [kind_of(row.name) for row in rows]
        for count in range(len(kinds), 1, -1):
            runs = (tuple(kinds[start : start + count]) for start in range(len(kinds) - count + 1))
            result |= dict.fromkeys(runs)
    return list(result)


def parts_of(recorded: Recorded, fused: Sequence[tuple[str, ...]], shapes: Shapes) -> Iterator[TensorPart]:
    """Yield the tensor, then its slices for each run of `fused` products that are as wide together."""
    source = source_name(recorded)
    yield TensorPart(recorded, source, source)
    for split, kinds in enumerate(fused, start=1):
        length = shapes[f"layer0.{kinds[0]}"][0]
        ends = np.cumsum([0, *(shapes[f"layer0.{kind}"][1] for kind in kinds)]).tolist()
        axes = [axis for axis, size in enumerate(recorded.shape) if size == ends[-1]]
        if axes and math.prod(recorded.shape) in (ends[-1], ends[-1] * length):
            for start, stop in pairwise(ends):
                yield _slice(recorded, axes[-1], start, stop, split)


def _slice(recorded: Recorded, axis: int, start: int, stop: int, split: int) -> TensorPart:
    index, words = [slice(None)] * len(recorded.shape), [":"] * len(recorded.shape)
    index[axis] = slice(start, stop)
    words[axis] = f"{start or ''}:{'' if stop == recorded.shape[axis] else stop}"
    shape = (*recorded.shape[:axis], stop - start, *recorded.shape[axis + 1 :])
    part = replace(recorded, shape=shape, read=lambda: recorded.read()[tuple(index)])
    source = source_name(recorded)
    return TensorPart(part, source, f"{source}[{', '.join(words)}]", split)


# --- Pairs of a table of scores ---------------------------------------------------------------------

UNDECIDED = 0.15  # a pair is undecided if the next best column scores less than this much lower
IN_ORDER, FEW = 0.8, 2  # the order decides if more than FEW anchors exist and this share is in order
ANCHOR = 100.0  # outweighs all other scores


def place(scores: Array, strength: Array) -> dict[int, int]:
    """Choose a column for the rows where one is clear: [R, C] twice -> {row: column}

    `strength` is positive where values agree. These pairs, the anchors, are chosen first. If they are in
    order, the order decides on the other rows. If they are not, only a clear best score does.
    """
    anchors = _strongest(strength)
    mask = np.zeros(strength.shape, bool)
    mask[list(anchors), list(anchors.values())] = True
    in_order = {row: column for row, column, _ in align(np.where(mask, strength, 0))}
    rest = np.where((strength > 0).any(axis=1, keepdims=True) | mask.any(axis=0), 0, scores)
    if len(anchors) > FEW and len(in_order) >= IN_ORDER * len(anchors):
        rest[list(in_order), list(in_order.values())] = ANCHOR
        others = {row: column for row, column, loss in align(rest) if loss >= UNDECIDED}
    else:
        others = _clear_winners(rest)
    return others | anchors


def _strongest(strength: Array) -> dict[int, int]:
    """Choose pairs, the strongest first, so that no row and no column occurs twice."""
    rows, columns = strength.nonzero()
    pairs: dict[int, int] = {}
    used: set[int] = set()
    for at in np.argsort(-strength[rows, columns], kind="stable").tolist():
        row, column = int(rows[at]), int(columns[at])
        if row not in pairs and column not in used:
            pairs[row] = column
            used.add(column)
    return pairs


def _clear_winners(scores: Array) -> dict[int, int]:
    """Choose each row's best column if it is clearly better than the other free columns.

    If several rows have the same best column, the row with the highest score gets it.
    """
    free, pairs = scores.copy(), dict[int, int]()
    best: list[int] = scores.argmax(axis=1).tolist() if scores.size else []

    def margin(row: int) -> float:
        return float(free[row, best[row]] - np.delete(free[row], best[row]).max(initial=0))

    while True:
        clear = [row for row in range(len(best)) if row not in pairs and margin(row) >= UNDECIDED]
        if not clear:
            return pairs
        winners = {best[row]: row for row in sorted(clear, key=lambda row: float(scores[row, best[row]]))}
        pairs |= {row: column for column, row in winners.items()}
        free[:, list(winners)] = 0


def align(scores: Array) -> list[tuple[int, int, float]]:
    """Return the pairs with the highest total score whose rows and columns both increase.

    [R, C] -> (row, column, loss): the total falls by the loss if the row has its next best column.
    Source: Needleman and Wunsch, "A general method applicable to the search for similarities in the amino
    acid sequence of two proteins" (1970), with gaps that cost nothing.
    """
    before, after = _best_sums(scores), _best_sums(scores[::-1, ::-1])[::-1, ::-1]
    through = np.where(scores > 0, before[:-1, :-1] + scores + after[1:, 1:], -np.inf)
    row, column = scores.shape
    pairs = []
    while row and column:
        if before[row, column] == before[row, column - 1]:
            column -= 1
        elif before[row, column] == before[row - 1, column]:
            row -= 1
        else:
            row, column = row - 1, column - 1
            others = np.delete(through[row], column).max(initial=-np.inf)
            pairs.append((row, column, float(through[row, column] - others)))
    return pairs[::-1]


def _best_sums(scores: Array) -> Array:
    """Return the highest totals of the first rows and columns: [R, C] -> [R + 1, C + 1]"""
    sums = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1))
    for row, gains in enumerate(scores):
        paired = np.maximum(sums[row, 1:], sums[row, :-1] + gains)
        np.maximum.accumulate(paired, out=sums[row + 1, 1:])
    return sums
