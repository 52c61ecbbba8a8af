"""Which tensor of a recording is which event: a draft from names, shapes, values and order.

Letters: F recorded tensors, E events, P series of tensors, K kinds of events within a layer ("attn.q").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.catalogue import residual_kinds
from ..architecture.plans.plan import kind_of, layer_of
from ..arrays.stats import Array
from .matching import (
    ScoreTable,
    Shapes,
    TensorPart,
    compare,
    grouped_events,
    parts_of,
    products_side_by_side,
    source_name,
)
from .patterns import Series, find_series
from .recording import Recording

Columns = Mapping[int | None, int]  # of the table, by layer
FITS = 1.0  # what a shape speaks for a pair, beside a cosine of at most 1
NAMED = 0.5  # what the words of a name speak for it
EARLIER = 0.8  # what a layer counts of what the one before it counts: early ones agree before a fault


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
    unreadable = [left for left in recording.leftovers if not left.readable]
    unplaced = [
        Unplaced(source_name(left.recorded), left.recorded.shape, 1, left.reason) for left in unreadable
    ]
    for one in series:
        rest = [row for row in one.rows.values() if parts[row].name not in taken]
        if rest:
            shape, reason = parts[rest[0]].recorded.shape, _reason(rest[0], names, table)
            unplaced.append(Unplaced(one.name, shape, len(rest), reason))
    return found, unplaced


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts t2 before t10."""
    return [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.findall(r"[0-9]+|[^0-9]+", name)
    ]


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
