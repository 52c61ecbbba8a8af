"""Meter: what a pass is measured by, and PackLayout: which rows of the pass belong to which documents.

A meter is given the values of the events that it wants, pack after pack, and keeps tallies. Rows of a value
are summed by document, in float64 and position after position; documents are put together exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.packs import Pack, ReadText
from ..arrays.stats import Array, causal_mask
from ..text.printable import on_one_line
from .tallies import ENTRY, Tally, TopList

if TYPE_CHECKING:
    from ..corpus.corpus import Document

EXCERPT = 64  # bytes of UTF-8: the token and what stands before it
MORE = "…".encode()  # where a text goes on
MARK = "\x1f"  # before the token in an excerpt


class PackLayout(Pack):
    """A pack of documents, which knows where they stand and sums over them.

    `parts` tell to which part of the corpus each of the documents belongs, [B].
    """

    def __init__(
        self, texts: Sequence[ReadText], documents: Sequence[Document], parts: Sequence[int],
        label: Callable[[int], str], spelled: Callable[[Sequence[int]], str], bos: int | None,
    ) -> None:  # fmt: skip
        super().__init__(texts)
        self._label, self._spelled, self._bos = label, spelled, bos
        self._documents, self.parts = documents, np.array(parts)
        self._excerpt_at: dict[int, bytes] = {}  # by row: many units are most active at the same
        self._numbers = np.array([document.number for document in documents], np.int64)
        self._in_file = np.array([document.row for document in documents], np.int64)
        self._by_position = np.argsort(self.positions, kind="stable")  # [N], of each those of all documents
        self._reach = np.bincount(self.positions).tolist()  # how many documents have each: the last so many

    def in_turn(self, values: Array) -> Array:
        """Rows in order of their positions: [N, C] -> [N, C]"""
        return values if len(self.texts) == 1 else values.take(self._by_position, 0)

    def sums(self, wide: Array) -> Array:
        """The sum of every document's rows, position after position: [N, C] float64 in turn -> [B, C]"""
        if len(self.texts) == 1:
            return wide.sum(axis=0, keepdims=True)  # row after row
        sums, start = wide[: len(self.texts)].copy(), len(self.texts)
        for count in self._reach[1:]:
            sums[-count:] += wide[start : start + count]
            start += count
        return sums

    def sums_of_part(self, start: int, wide: Array) -> Array:
        """The same of rows [n, C] from `start` on as they stand, of the documents that are among them."""
        return np.add.reduceat(wide, first_rows(self.text_at[start : start + len(wide)]), axis=0)

    def entries(self, rows: Array, values: Array, channels: Array | int) -> Array:
        """Numbers at some rows and channels with where they are from, for a TopList: [n] each -> [n]"""
        found, documents = np.empty(len(rows), ENTRY), self.text_at[rows]
        found["value"], found["channel"], found["position"] = values, channels, self.positions[rows]
        found["document"], found["row"] = self._numbers[documents], self._in_file[documents]
        return found

    def enter(self, top: TopList, units: Array, rows: Array, values: Array, channels: Array) -> None:
        """Offer numbers at some rows and channels to the lists of units: [n] each"""
        top.add(units, self.entries(rows, values, channels), lambda chosen: self.excerpts(rows[chosen]))

    def excerpts(self, rows: Array) -> Array:
        """What is read at some rows, with what stands before it: [n] -> [n, EXCERPT]"""
        for row in dict.fromkeys(rows.tolist()):
            if row not in self._excerpt_at:
                self._excerpt_at[row] = self._excerpt(int(self.text_at[row]), int(self.positions[row]))
        return _as_bytes([self._excerpt_at[row] for row in rows.tolist()])

    def beginnings(self, documents: Array) -> Array:
        """How the texts of some of the B documents begin: [n] -> [n, EXCERPT]"""
        texts = []
        for own in documents.tolist():
            text = on_one_line(self._documents[own].text).encode("utf-8", "replace")
            if len(text) > EXCERPT:
                text = text[: EXCERPT - len(MORE)].decode("utf-8", "ignore").encode() + MORE
            texts.append(_fitting(text))
        return _as_bytes(texts)

    def _excerpt(self, document: int, position: int) -> bytes:
        tokens = self.texts[document].tokens[max(0, position - EXCERPT // 2) : position + 1]
        own = f"{MARK}{self._label(int(tokens[-1]))}".encode()[:EXCERPT]
        before = self._read(tokens[:-1])
        return _fitting(before[max(0, len(before) + len(own) - EXCERPT) :] + own)

    def _read(self, tokens: Array) -> bytes:
        """Tokens as one reads them, the one that begins every text left out."""
        return self._spelled([token for token in tokens.tolist() if token != self._bos]).encode()


class Meter:
    """What a pass is measured by: begun with the rows of the pass, then called with each value, or with rows
    or heads of it, of the events in `names`."""

    names: Collection[str]
    tallies: Mapping[str, Tally]  # all that it knows, by name
    layout: PackLayout

    def begin(self, layout: PackLayout) -> None:
        """The rows of the pass that comes."""
        self.layout = layout
        self._seen: dict[str, int] = {}

    def __call__(self, name: str, value: Array) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """All of the pass has come."""

    def next(self, name: str, count: int) -> int:
        """How many rows or groups of this event came before, and these come now."""
        start = self._seen.get(name, 0)
        self._seen[name] = start + count
        return start


def first_rows(texts: Array) -> Array:
    """Where the rows of another text begin: the numbers of the texts, row by row, [n] -> [k]"""
    return np.flatnonzero(np.diff(texts, prepend=-1))


def _fitting(text: bytes) -> bytes:
    """Whole characters, filled up with zeros."""
    return text.decode("utf-8", "ignore").encode().ljust(EXCERPT, b"\0")


def _as_bytes(texts: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(texts), np.uint8).reshape(-1, EXCERPT)


@lru_cache(maxsize=64)
def causal_places(length: int) -> Array:
    """The places of [T, T], flattened, where a key is not later than its query."""
    return np.flatnonzero(causal_mask(length, length))
