"""Alignment: pair two sequences in their order so that the scores of the pairs add up to the most.

Knows only numbers. Letters: F rows and E columns of a table of scores, 0 where a pair is ruled out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..stats import Array


class Aligned(NamedTuple):
    """A pair of the best alignment, the next best column for its row and what the sum loses by it."""

    row: int
    column: int
    other: int
    loss: float  # infinite where no other column is possible


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
