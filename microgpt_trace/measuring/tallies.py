"""Tallies: sums, counts, ranges and lists of the largest numbers, which merge in any order.

Merging is exact, so a result has the same bits however the corpus was divided. Tallies need no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..arrays.exact_sum import ExactSum
from ..arrays.stats import Array
from ..text.brief import one_line

NOBODY = -1  # the document number of an empty entry
ENTRY = np.dtype([
    ("value", np.float64), ("document", np.int64), ("row", np.int64), ("position", np.int32),
    ("channel", np.int32),
])  # fmt: skip
Record = TypeVar("Record")
Excerpts = Callable[[Array], Array]  # indices of entries [n] -> their excerpts [n, bytes]


class Tally:
    """A mergeable statistic of numbers."""

    KIND: ClassVar[str]

    def __repr__(self) -> str:
        return one_line(self, shape=next(iter(self.arrays().values())).shape)

    def merge(self, other: Any) -> None:
        """Add the numbers of another tally of the same kind and size."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays by name. The order of the added numbers does not change the arrays."""
        raise NotImplementedError

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Copy the arrays of another tally of the same kind and size into a tally without numbers."""
        for part, own in self.arrays().items():
            own[...] = arrays[part]


class Sums(Tally):
    """Exact sums of float64 numbers, one for each element of `shape`."""

    KIND: ClassVar[str] = "sum"

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.exact = ExactSum(int(np.prod(shape, dtype=np.int64)))

    def add(self, values: Array) -> None:
        self.exact.add(values.reshape(len(values), self.exact.size))

    def values(self) -> Array:
        """Return the sums, rounded once."""
        return self.exact.values().reshape(self.shape)

    def merge(self, other: Sums) -> None:
        self.exact.merge(other.exact)

    def arrays(self) -> dict[str, Array]:
        first, *rest = self.exact.terms()
        more = {"rest": np.array(rest).reshape(len(rest), *self.shape)} if rest else {}
        return {"": first.reshape(self.shape)} | more

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.add(arrays[""][None])
        if "rest" in arrays:
            self.add(arrays["rest"])


class Counts(Tally):
    """Exact sums of integers."""

    KIND: ClassVar[str] = "count"

    def __init__(self, *shape: int) -> None:
        self.numbers = np.zeros(shape, np.int64)

    def values(self) -> Array:
        return self.numbers

    def merge(self, other: Counts) -> None:
        self.numbers += other.numbers

    def arrays(self) -> dict[str, Array]:
        return {"": self.numbers}


class Ranges(Tally):
    """The least and the largest number of each element, or inf and -inf for an element without numbers."""

    KIND: ClassVar[str] = "range"

    def __init__(self, *shape: int) -> None:
        self.least, self.largest = np.full(shape, np.inf), np.full(shape, -np.inf)

    def take(self, least: Array, largest: Array) -> None:
        """Extend the ranges by the least and the largest new number of each element."""
        np.minimum(self.least, least, out=self.least)
        np.maximum(self.largest, largest, out=self.largest)

    def merge(self, other: Ranges) -> None:
        self.take(other.least, other.largest)

    def arrays(self) -> dict[str, Array]:
        return {"least": self.least, "largest": self.largest}


class TopList(Tally):
    """The `most` largest numbers of each unit, the largest first, with their places and excerpts of text. An
    excerpt has `excerpt` bytes of UTF-8, padded with zeros. Equal numbers are ordered by document, then by
    position."""

    KIND: ClassVar[str] = "top"

    def __init__(self, units: int, most: int, excerpt: int, least: float = -np.inf) -> None:
        self.units, self.most = units, most
        self.entries = np.zeros((units, most), ENTRY)
        self.entries["value"], self.entries["document"] = -np.inf, NOBODY
        self.excerpt = np.zeros((units, most, excerpt), np.uint8)
        self._least = least

    def __repr__(self) -> str:
        return one_line(self, units=self.units, most=self.most)

    @property
    def bar(self) -> Array:
        """The number that a later document must exceed to enter a list, for each unit: [units]."""
        return np.maximum(self.entries["value"][:, -1], self._least)

    def add(self, unit: Array, entries: Array, excerpts: Excerpts) -> None:
        """Add each of n entries to the list of its unit. An entry must not be added twice. `excerpts` is
        called only with the entries that enter a list. `n` may be 0."""
        if not len(entries):
            return
        units, local = np.unique(unit, return_inverse=True)
        held = len(units) * self.most
        every = np.concatenate((self.entries[units].ravel(), entries))
        unit = np.concatenate((np.repeat(np.arange(len(units)), self.most), local))
        order = np.lexsort((every["position"], every["document"], -every["value"], unit))
        first = np.searchsorted(unit[order], np.arange(len(units)))
        kept = order[first[:, None] + np.arange(self.most)]  # [units, most]
        self.entries[units] = every[kept]
        texts = self.excerpt[units].reshape(held, -1)[np.minimum(kept, held - 1)]
        texts[kept >= held] = excerpts(kept[kept >= held] - held)
        self.excerpt[units] = texts

    def merge(self, other: TopList) -> None:
        filled = other.entries["document"] != NOBODY
        texts = other.excerpt[filled]
        self.add(np.nonzero(filled)[0], other.entries[filled], lambda chosen: texts[chosen])

    def arrays(self) -> dict[str, Array]:
        return {name: self.entries[name] for name in ENTRY.names or ()} | {"excerpt": self.excerpt}


def named(records: Mapping[str, Mapping[str, Tally]]) -> dict[str, Tally]:
    """Return the tallies of several records, with names of the form RECORD/TALLY."""
    return {f"{record}/{name}": tally for record, own in records.items() for name, tally in own.items()}


def gathered(kind: Callable[[int], Record], prefix: str, tallies: Mapping[str, Any]) -> Record:
    """Return the tallies with names PREFIX/TALLY as one record. `named` is the inverse."""
    own = kind(1)
    vars(own).update({name: tallies[f"{prefix}/{name}"] for name in vars(own)})
    return own


def merge_all(into: dict[str, Tally], other: Mapping[str, Tally]) -> None:
    """Merge every tally of `other` into the tally of the same name. Drop a tally that only one side has,
    because this tally lacks the numbers of the other side."""
    for name in [*into]:
        if name in other:
            into[name].merge(other[name])
        else:
            del into[name]
