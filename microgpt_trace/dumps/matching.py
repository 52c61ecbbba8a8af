"""Score how well tensors of a recording match events, by shape and values. Choose pairs by the scores.

Every tensor is loaded once. Only sketches stay in memory: small samples of the values of tensors and events.
Shape letters: F is the number of recorded tensors, E of events, N of elements and R of rows in a sketch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import Plan, kind_of
from ..arrays.stats import Array
from ..decoder.catalogue import kinds_in_heads
from ..grouping import grouped
from ..text.frozen import frozen
from .layouts import Recorded, Shapes, fit, fits

Events = Iterable[tuple[str, Array]]  # names and values, in order of computation
ROWS, ELEMENTS = 16, 512  # maximum numbers of rows and elements in a sketch
CLIP = np.float32(4)  # clip at 4 medians, so that a huge channel (as in SmolLM2) does not dominate
SAME = 1e-2  # values agree below this relative L2 distance; bfloat16 rounds by up to 4e-3
SIMILAR = 0.5  # arrays with a larger cosine seem to result from the same computation
_TINY = np.float32(1e-30)


class Sketch(NamedTuple):
    """Some elements [N] of some rows of an array, and the norms [R] of these rows, in float32."""

    values: Array
    norms: Array


def sketch(array: Array, causal: bool) -> Sketch:
    """Sample an array [.., T, W]. All arrays of one shape are sampled at the same places.

    If `causal` is True, the array is [.., T, S], and elements whose key is after the query are excluded.
    """
    array = np.atleast_2d(array)
    rows, columns, kept = _sample(array.shape, causal)
    sampled = array[np.unravel_index(rows, array.shape[:-1])].astype(np.float32)  # [R, W]
    return Sketch(sampled[:, columns][kept], np.linalg.norm(sampled, axis=1))


@lru_cache(maxsize=64)
def _sample(shape: tuple[int, ...], causal: bool) -> tuple[Array, Array, Array]:
    """Return the sampled rows [R] and columns [C], and a mask [R, C] of the elements to keep."""
    rng, height, width = np.random.default_rng(0), math.prod(shape[:-1]), shape[-1]
    rows = np.sort(rng.choice(height, min(height, ROWS), replace=False))
    columns = np.sort(rng.choice(width, min(width, ELEMENTS // len(rows)), replace=False))
    queries = rows % shape[-2] + width - shape[-2]
    return rows, columns, (columns <= queries[:, None]) | (not causal)


class Similarity(NamedTuple):
    """The similarity of one array to each array in a stack of E arrays.

    Only elements that are finite in both arrays count. Magnitudes are clipped at 4 medians.
    """

    distance: Array  # relative L2
    cosine: Array
    similar: Array  # booleans: both arrays seem to result from the same computation
    finite: Array  # the share of elements that are finite in both arrays


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

        Arrays with equal row norms are also similar, because wrong RoPE pairs and GGUF's order do not change
        the norms.
        """
        finite = self.finite & np.isfinite(one.values)
        mine = np.where(finite, np.clip(one.values / self.scale, -CLIP, CLIP), 0)
        theirs = np.where(finite, self.clipped, 0)
        size, other, gap = (np.linalg.norm(rows, axis=1) for rows in (mine, theirs, mine - theirs))
        distance = np.where(finite.any(axis=1), gap / np.maximum(other, _TINY), np.inf)
        if one.values.size == 1:  # the cosine of single numbers can only be 1 or -1
            cosine = 1 - distance
        else:
            cosine = np.einsum("en,en->e", mine, theirs) / np.maximum(size * other, _TINY)
        norms = np.linalg.norm(one.norms - self.norms, axis=1) < SAME * np.linalg.norm(self.norms, axis=1)
        return Similarity(distance, np.maximum(cosine, 0), (cosine > SIMILAR) | norms, finite.mean(axis=1))


class TensorPart(NamedTuple):
    """A recorded tensor, or a slice of a recorded tensor."""

    recorded: Recorded
    source: str  # the name of the tensor in a map
    name: str  # the name and slice in a map: "t003[:, :896]"
    split: int = 0  # the number of the entry of `fused` that defines the slices; 0 for the whole tensor


class EventGroup(NamedTuple):
    """All events with one shape and one list of possible layouts."""

    columns: Array  # the columns of these events in the score table
    example: str  # the name of the first event
    stacks: Mapping[tuple[int, ...], Stack]  # sketches of all rows and of the last row, by shape


@frozen(slots=False, eq=False)
class ScoreTable:
    """Scores for each pair of a recorded tensor and an event, in the best layout: [F, E]."""

    parts: Sequence[TensorPart]  # F tensors or slices of tensors
    names: Sequence[str]  # E events in order of computation
    layout: Array  # the letters of the layout, or "" if no layout fits
    several: Array  # True where more than one layout fits
    similarity: Similarity  # of arrays [F, E]

    @cached_property
    def agreeing(self) -> Array:
        """True where a tensor agrees with an event, and no other event agrees much better: [F, E].

        A layer may change the residual stream by only 1e-3, so a tensor can agree with several events.
        """
        distance = self.similarity.distance
        best = distance.min(axis=1, keepdims=True)
        agree: Array = (distance < SAME) & (distance <= 3 * best + 1e-5)
        return agree

    @cached_property
    def strength(self) -> Array:
        """The strength of agreement: 2 - distance where values agree, and 0 elsewhere: [F, E]."""
        return np.where(self.agreeing, 2 - self.similarity.distance, 0)


def source_name(recorded: Recorded) -> str:
    """Return the name of a tensor in a map: without `.npy`, unless the short name looks like a slice."""
    short = recorded.source.removesuffix(".npy")
    return recorded.source if short.endswith("]") else short


def grouped_events(events: Events, shapes: Shapes, plan: Plan) -> tuple[list[str], list[EventGroup]]:
    """Return the names of the events in order of computation, and groups with sketches of their values."""
    names: list[str] = []
    groups: dict[tuple[tuple[int, ...], bool, bool], list[tuple[int, Sketch, Sketch]]] = {}
    for name, value in events:
        if value.shape == shapes.get(name):
            causal = plan[name].causal
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


def compare(parts: Sequence[TensorPart], events: Events, shapes: Shapes, model: LanguageModel) -> ScoreTable:
    """Compare every tensor with every event of its shape, in every layout that fits."""
    (names, groups), head_dim = grouped_events(events, shapes, model.plan), model.config.head_dim
    size = len(parts), len(names)
    layouts, distances, zeros = np.full(size, "", "U4"), np.full(size, np.inf, np.float32), np.zeros(size)
    no = np.zeros(size, bool)
    best = Similarity(distances, zeros, no, zeros.copy())
    table = ScoreTable(parts, names, layouts, no.copy(), best)
    for row, part in enumerate(parts):
        read = cache(part.recorded.read)
        for group in groups:
            for layout in fits(group.example, part.recorded, shapes, head_dim):
                once = replace(part.recorded, read=read, layout=layout)
                value = fit(group.example, once, shapes, head_dim=head_dim).array
                sampled = sketch(value, model.plan[group.example].causal)
                similarity = group.stacks[value.shape].compare(sampled)
                seen = table.layout[row, group.columns] != ""
                better = ~seen | (similarity.distance < best.distance[row, group.columns])
                at = group.columns[better]
                table.several[row, group.columns] |= seen
                table.layout[row, at] = layout
                for values, own in zip(best, similarity, strict=True):
                    values[row, at] = own[better]
    return table


# --- Slices of fused tensors -----------------------------------------------------------------


def products_side_by_side(plan: Plan) -> list[tuple[str, ...]]:
    """Return all sequences of products with the same input, which an engine may fuse into one product.

    Examples are ("attn.q", "attn.k"), ("attn.q", "attn.k", "attn.v") and ("mlp.gate", "mlp.up").
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
    """Yield the whole tensor. For each entry of `fused` with the tensor's width, also yield a slice for each
    product."""
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

UNDECIDED = 0.15  # a pair is undecided if the next best score is lower by less than this
IN_ORDER, FEW = 0.8, 2  # the order decides if over FEW anchors exist, and at least 80 % are in order
ANCHOR = 100.0  # the score of an anchor, which outweighs all other scores


def place(scores: Array, strength: Array) -> dict[int, int]:
    """Return clear matches of rows and columns, {row: column}. `scores` and `strength` are [R, C].

    Pairs whose values agree (strength > 0) are anchors. Anchors are chosen first. If the anchors are in
    order, other rows are matched by order. Otherwise, a matching column must be clearly the best.
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
    """Choose pairs from the strongest to the weakest. Use each row and each column at most once."""
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
    """Match a row with the best column if no other free column scores nearly as much.

    If several rows have the same best column, choose the row with the highest score.
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
    """Return the pairs (row, column, loss) with the highest total score. Rows and columns must both increase.

    The loss is the decrease of the total score if the row is paired with the best other column. Source:
    Needleman and Wunsch, "A general method applicable to the search for similarities in the amino acid
    sequence of two proteins" (1970). In this version, gaps cost nothing.
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
    """Return the highest total for the first r rows and c columns: [R, C] -> [R + 1, C + 1]"""
    sums = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1))
    for row, gains in enumerate(scores):
        paired = np.maximum(sums[row, 1:], sums[row, :-1] + gains)
        np.maximum.accumulate(paired, out=sums[row + 1, 1:])
    return sums
