"""Pack: texts that share one pass without padding, sorted from short to long. This module needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array

UNKNOWN = -1  # the target of a position whose next token is not known


class ReadText(NamedTuple):
    """The T tokens of a text, then the token that follows the text, which may be UNKNOWN: [T + 1]"""

    ids: Array

    @property
    def tokens(self) -> Array:
        """The tokens of the text: [T]"""
        return self.ids[:-1]

    @property
    def targets(self) -> Array:
        """The token after each position: [T]"""
        return self.ids[1:]


class EqualLengths(NamedTuple):
    """Consecutive texts of a pack that have the same length."""

    rows: slice
    texts: int
    length: int


def equal_lengths(lengths: Sequence[int] | Array) -> tuple[EqualLengths, ...]:
    """Group the texts of a pack by length, from short to long."""
    groups, start = [], 0
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        stop = start + int(length) * int(count)
        groups.append(EqualLengths(slice(start, stop), int(count), int(length)))
        start = stop
    return tuple(groups)


class Pack:
    """The texts of one pass, sorted from short to long. Shapes: B texts with N rows in all."""

    def __init__(self, texts: Sequence[ReadText]) -> None:
        self.texts = texts
        self.lengths = np.array([len(text.ids) - 1 for text in texts])  # [B]
        self.groups = equal_lengths(self.lengths)
        self.rows = int(self.lengths.sum())

    @cached_property
    def _ids(self) -> Array:
        return np.concatenate([text.ids for text in self.texts])

    @cached_property
    def tokens(self) -> Array:
        """[N]"""
        return self._ids[np.arange(self.rows) + self.text_at]

    @cached_property
    def targets(self) -> Array:
        """[N]"""
        return self._ids[np.arange(self.rows) + self.text_at + 1]

    @cached_property
    def text_at(self) -> Array:
        """The number of the text that each row belongs to: [N]"""
        return np.repeat(np.arange(len(self.texts)), self.lengths)

    @cached_property
    def starts(self) -> Array:
        """The first row of each text: [B]"""
        return self.lengths.cumsum() - self.lengths

    @cached_property
    def positions(self) -> Array:
        """The position of each row within its text: [N]"""
        return np.arange(self.rows) - self.starts[self.text_at]


def passes(texts: Sequence[ReadText], most: int) -> Iterator[slice]:
    """Divide texts, sorted from short to long, into passes of at most `most` rows. A text with more than
    `most` rows fills a separate pass.

    Dividing the texts of one pass again returns a single pass.
    """
    start = rows = 0
    for at, text in enumerate(texts):
        rows += len(text.ids) - 1
        if at > start and rows > most:
            yield slice(start, at)
            start, rows = at, len(text.ids) - 1
    if texts:
        yield slice(start, len(texts))
