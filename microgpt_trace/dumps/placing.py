"""Placing: pair rows with columns of a table of scores, by clear winners or in their order.

Knows only numbers. Letters: R rows and C columns, 0 where a pair is ruled out.
"""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array

UNDECIDED = 0.2  # another column that scores so little less would do as well
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
    """Rows whose best column is better than their others, and of those with the same one the best."""
    winners: dict[int, int] = {}  # by column
    for row, line in enumerate(scores):
        best = int(line.argmax())
        clear = line[best] - np.delete(line, best).max(initial=0) >= UNDECIDED
        if clear and (best not in winners or scores[winners[best], best] < line[best]):
            winners[best] = row
    return {row: column for column, row in winners.items()}


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
