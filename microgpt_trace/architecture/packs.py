"""Packs: several texts for one pass, row after row without padding, shorter ones first. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array

UNKNOWN = -1  # in the place of a target


class ReadText(NamedTuple):
    """The tokens of a text, [T], and what follows each, [T], UNKNOWN where that is not known."""

    tokens: Array
    targets: Array


class EqualLengths(NamedTuple):
    """Texts of equal length that stand one after another in a pack."""

    rows: slice
    texts: int
    length: int


def equal_lengths(lengths: Sequence[int] | Array) -> tuple[EqualLengths, ...]:
    """The groups of a pack whose texts have these lengths, shorter ones first."""
    groups, start = [], 0
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        stop = start + int(length) * int(count)
        groups.append(EqualLengths(slice(start, stop), int(count), int(length)))
        start = stop
    return tuple(groups)


def passes(texts: Sequence[ReadText], most: int) -> Iterator[Sequence[ReadText]]:
    """The texts of a pack in passes of at most so many rows, or of one text; a pass of these is one again."""
    start = rows = 0
    for at, text in enumerate(texts):
        rows += len(text.tokens)
        if at > start and rows > most:
            yield texts[start:at]
            start, rows = at, len(text.tokens)
    if texts:
        yield texts[start:]
