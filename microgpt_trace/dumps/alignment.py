"""Alignment: pair rows with columns, in their order or not, so that the scores add up to the most.

Knows only numbers. Letters: F rows and E columns of a table of scores, 0 where a pair is ruled out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array


class Aligned(NamedTuple):
    """A pair of the best alignment, the next best column for its row and what the sum loses by it."""

    row: int
    column: int
    other: int  # of `assign` -1 where that is none
    loss: float  # of `align` infinite where no other column is possible


def align(scores: Array) -> list[Aligned]:
    """The pairs, rows and columns both increasing, of a table [F, E] that score most together.

    Needleman and Wunsch, "A general method applicable to the search for similarities in the amino acid
    sequence of two proteins" (1970); a gap costs nothing.
    """
    before, after = _best_sums(scores), _best_sums(scores[::-1, ::-1])[::-1, ::-1]
    through = np.where(scores > 0, before[:-1, :-1] + scores + after[1:, 1:], -np.inf)
    found = []
    for row, column in _trace_back(scores, before):
        others = through[row].copy()
        others[column] = -np.inf
        other = int(others.argmax())
        found.append(Aligned(row, column, other, float(through[row, column] - others[other])))
    return found


def _best_sums(scores: Array) -> Array:
    """What the first rows and columns score at most: [F, E] -> [F + 1, E + 1]"""
    sums = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1))
    for row, gains in enumerate(scores):
        paired = np.maximum(sums[row, 1:], sums[row, :-1] + gains)
        np.maximum.accumulate(paired, out=sums[row + 1, 1:])
    return sums


def _trace_back(scores: Array, sums: Array) -> list[tuple[int, int]]:
    """The pairs of the best alignment, in order; of equal ones that with the earliest columns."""
    row, column = scores.shape
    pairs = []
    while row and column:
        if sums[row, column] == sums[row, column - 1]:
            column -= 1
        elif sums[row, column] == sums[row - 1, column]:
            row -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs[::-1]


def assign(scores: Array) -> list[Aligned]:
    """The pairs, in any order, of a table [F, E] that score most together, no row or column twice."""
    chosen = _assigned(scores)
    found = []
    for row in np.flatnonzero(chosen >= 0).tolist():
        without = scores.copy()
        without[row, chosen[row]] = 0
        others = _assigned(without)
        loss = _total(scores, chosen) - _total(without, others)
        found.append(Aligned(row, int(chosen[row]), int(others[row]), float(loss)))
    return found


def _total(scores: Array, chosen: Array) -> float:
    rows = np.flatnonzero(chosen >= 0)
    return float(scores[rows, chosen[rows]].sum())


def _assigned(scores: Array) -> Array:
    """The column of each row, -1 for none: [F, E] -> [F]

    Shortest augmenting paths: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and
    sparse linear assignment problems" (1987). A row may stay alone for nothing: each has a column of 0.
    """
    count, width = scores.shape
    costs = np.hstack([-scores, np.zeros((count, count))])  # [F, E + F]
    by_row, by_column = np.zeros(count), np.zeros(width + count)  # prices
    owner = np.full(width + count, -1)  # the row of each column
    for start in range(count):
        _augment(costs, by_row, by_column, owner, start)
    chosen = np.full(count, -1)
    for column in np.flatnonzero(owner[:width] >= 0).tolist():
        if scores[owner[column], column] > 0:
            chosen[owner[column]] = column
    return chosen


def _augment(costs: Array, by_row: Array, by_column: Array, owner: Array, start: int) -> None:
    """Give a row its column, and others new ones where that is cheaper; changes prices and owners."""
    shortest, before = np.full(costs.shape[1], np.inf), np.full(costs.shape[1], -1)
    done = np.zeros(costs.shape[1], bool)
    row, reached, visited = start, 0.0, [start]
    while True:
        paths = reached + costs[row] - by_row[row] - by_column
        shorter = ~done & (paths < shortest)
        shortest[shorter], before[shorter] = paths[shorter], row
        column = int(np.where(done, np.inf, shortest).argmin())
        reached = float(shortest[column])
        if owner[column] < 0:
            break
        done[column] = True
        row = int(owner[column])
        visited.append(row)
    mine = {int(owner[at]): at for at in np.flatnonzero(done).tolist()}
    by_row[start] += reached
    for other in visited[1:]:
        by_row[other] += reached - shortest[mine[other]]
    by_column[done] -= reached - shortest[done]
    while True:
        row = int(before[column])
        owner[column] = row
        column = mine.get(row, -1)
        if row == start:
            break
