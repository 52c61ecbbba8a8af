"""TopList: the largest numbers that came, for each of many units, with where they are from. Knows no model.

The order is total (the larger value, then the earlier document, then the earlier position), so that the
lists of parts of a corpus make those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..text.brief import one_line

NOBODY = -1  # the document where a list has fewer entries than it may
FIELDS = ("value", "document", "row", "position", "channel")
Excerpts = Callable[[Array], Array]  # of some entries, by their indices: [n] -> [n, bytes]


class Entries(NamedTuple):
    """Numbers with the units that they are of, [n], and where they are from: documents, their rows in a file,
    positions and channels, [n]."""

    unit: Array
    value: Array
    document: Array
    row: Array
    position: Array
    channel: Array


class TopList:
    """The `most` largest numbers of each of `units`, the largest first, each with an excerpt: so many bytes
    of UTF-8, filled up with zeros."""

    KIND: ClassVar[str] = "top"

    def __init__(self, units: int, most: int, excerpt: int, least: float = -np.inf) -> None:
        self.units, self.most = units, most
        shape = (units, most)
        self.value = np.full(shape, -np.inf)
        self.document = np.full(shape, NOBODY, np.int64)
        self.row = np.zeros(shape, np.int64)
        self.position = np.zeros(shape, np.int32)
        self.channel = np.zeros(shape, np.int32)
        self.excerpt = np.zeros((*shape, excerpt), np.uint8)
        self._least = least

    def __repr__(self) -> str:
        return one_line(self, units=self.units, most=self.most)

    @property
    def bar(self) -> Array:
        """What a number of a later document must exceed to come into the list of each unit, [units]."""
        return np.maximum(self.value[:, -1], self._least)

    def add(self, entries: Entries, excerpts: Excerpts) -> None:
        """Take in numbers of documents that have not come yet; of what does not stay no excerpt is asked."""
        units, local = np.unique(entries.unit, return_inverse=True)
        held = len(units) * self.most
        known = [getattr(self, field)[units].ravel() for field in FIELDS]
        every = [np.concatenate(pair) for pair in zip(known, entries[1:], strict=True)]
        value, document, _, position, _ = every
        unit = np.concatenate((np.repeat(np.arange(len(units)), self.most), local))
        order = np.lexsort((position, document, -value, unit))
        first = np.searchsorted(unit[order], np.arange(len(units)))
        kept = order[first[:, None] + np.arange(self.most)]  # [units, most]
        for field, values in zip(FIELDS, every, strict=True):
            getattr(self, field)[units] = values[kept]
        texts = self.excerpt[units].reshape(held, -1)[np.minimum(kept, held - 1)]
        texts[kept >= held] = excerpts(kept[kept >= held] - held)
        self.excerpt[units] = texts

    def merge(self, other: TopList) -> None:
        there = other.document != NOBODY
        if there.any():
            texts = other.excerpt[there]
            own = (getattr(other, field)[there] for field in FIELDS)
            self.add(Entries(np.nonzero(there)[0], *own), lambda chosen: texts[chosen])

    def arrays(self) -> dict[str, Array]:
        return {field: getattr(self, field) for field in (*FIELDS, "excerpt")}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> TopList:
        units, most, excerpt = arrays["excerpt"].shape
        own = cls(units, most, excerpt)
        for field in (*FIELDS, "excerpt"):
            getattr(own, field)[...] = arrays[field]
        return own
