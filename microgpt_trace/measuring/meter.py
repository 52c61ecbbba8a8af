"""Meter: the base class of all meters. PackLayout: the documents that the rows of a pass belong to.

A meter receives the values of its events, pack after pack, and keeps tallies. Rows are summed by document, in
float64 and in order of position. Adding the sums of several documents is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..arrays.stats import Array, causal_mask
from ..models.packs import Pack, ReadText
from ..text.printable import on_one_line
from .tallies import ENTRY, Tally, TopList

if TYPE_CHECKING:
    from ..corpus.corpus import Document
    from ..models.language_model import LanguageModel

EXCERPT = 64  # bytes of UTF-8: a token and the text before it
SIDE = 16  # most characters of a token of a pair, and of the text before or between the tokens
PAIR = 4 * 4 * SIDE + 8  # bytes of UTF-8: the text of a pair, with the marks of both tokens
MORE = "…".encode()  # the mark after the beginning of a longer text
MARK = "\x1f"  # the mark before the token in an excerpt


class PackLayout(Pack):
    """A pack of documents that can sum the rows of each document and quote the texts. `parts` [B] is the part
    of the corpus that each document belongs to."""

    def __init__(
        self, model: LanguageModel, texts: Sequence[ReadText], documents: Sequence[Document]
    ) -> None:
        super().__init__(texts)
        self._model, self._bos, self._documents = model, model.bos, documents
        self.parts = np.array([model.corpus_part(document.text) for document in documents])
        self._excerpt_at: dict[int, bytes] = {}  # row -> excerpt, since many units can quote one row
        self._pair_at: dict[tuple[int, int], bytes] = {}  # (row, key) -> pair
        self._numbers = np.array([document.number for document in documents], np.int64)
        self._in_file = np.array([document.row for document in documents], np.int64)
        self._by_position = np.argsort(self.positions, kind="stable")  # [N], position by position
        self._reach = np.bincount(self.positions).tolist()  # position -> number of documents that reach it

    def in_turn(self, values: Array) -> Array:
        """Sort rows by position: [N, C] -> [N, C]"""
        return values if len(self.texts) == 1 else values.take(self._by_position, 0)

    def sums(self, wide: Array) -> Array:
        """Sum the float64 rows of each document, in the order of `in_turn`: [N, C] -> [B, C]"""
        texts, everywhere = len(self.texts), self._reach.count(len(self.texts))  # positions of all documents
        start = everywhere * texts
        sums = wide[:start].reshape(everywhere, texts, -1).sum(axis=0)
        for count in self._reach[everywhere:]:
            sums[-count:] += wide[start : start + count]
            start += count
        return sums

    def sums_of_part(self, start: int, wide: Array) -> Array:
        """Sum the rows of each document in `wide` [n, C], which begins at row `start` of the pack."""
        return np.add.reduceat(wide, first_rows(self.text_at[start : start + len(wide)]), axis=0)

    def entries(self, rows: Array, values: Array, channels: Array | int) -> Array:
        """Return TopList entries with these rows, values and channels: [n] each -> [n]"""
        entries, documents = np.empty(len(rows), ENTRY), self.text_at[rows]
        entries["value"], entries["channel"], entries["position"] = values, channels, self.positions[rows]
        entries["document"], entries["row"] = self._numbers[documents], self._in_file[documents]
        return entries

    def enter(self, top: TopList, units: Array, rows: Array, values: Array, channels: Array) -> None:
        """Add each value, with its row and channel, to the list of its unit: [n] each"""
        top.add(units, self.entries(rows, values, channels), lambda chosen: self.excerpts(rows[chosen]))

    def enter_pairs(self, top: TopList, units: Array, rows: Array, values: Array, keys: Array) -> None:
        """Add values of some rows and key positions to the lists of some units: [n] each"""
        at, entries = np.stack((rows, keys), axis=1), self.entries(rows, values, keys)
        top.add(units, entries, lambda own: _as_bytes([self._pair(*own) for own in at[own].tolist()], PAIR))

    def excerpts(self, rows: Array) -> Array:
        """Return the token of each row, with the text before the token: [n] -> [n, EXCERPT]"""
        return _as_bytes([*map(self._excerpt, rows.tolist())])

    def beginnings(self, documents: Array) -> Array:
        """Return the beginning of each document's text: [n] -> [n, EXCERPT]"""
        texts = []
        for document in documents.tolist():
            text = on_one_line(self._documents[document].text).encode("utf-8", "replace")
            if len(text) > EXCERPT:
                text = text[: EXCERPT - len(MORE)].decode("utf-8", "ignore").encode() + MORE
            texts.append(_fitting(text))
        return _as_bytes(texts)

    def _pair(self, row: int, key: int) -> bytes:
        """Return the text up to the query at a row, with the key in ‹ › and the query in [ ]."""
        if (row, key) not in self._pair_at:
            tokens, query = self.texts[self.text_at[row]].tokens, self.positions[row]
            before = [own for own in tokens[max(0, key - SIDE // 2) : key].tolist() if own != self._bos]
            inner, half = tokens[key + 1 : query].tolist(), SIDE // 2 + 1
            texts = [self._model.label(int(tokens[at])) for at in (key, query)]
            texts.append(self._model.spelled(inner[:half] + inner[half:][-half:]))  # more is left out anyway
            of_key, of_query, between = (
                text if len(text) <= SIDE else f"{text[: SIDE // 2]}…{text[1 - SIDE // 2 :]}"
                for text in texts
            )
            rest = f"‹{of_key}›{between}[{of_query}]" if key < query else f"[‹{of_key}›]"
            text = self._model.spelled(before)[-SIDE:] + rest
            self._pair_at[row, key] = text.encode().ljust(PAIR, b"\0")
        return self._pair_at[row, key]

    def _excerpt(self, row: int) -> bytes:
        if row not in self._excerpt_at:
            position = int(self.positions[row])
            tokens = self.texts[self.text_at[row]].tokens[max(0, position - EXCERPT // 2) : position + 1]
            token = f"{MARK}{self._model.label(int(tokens[-1]))}".encode()[:EXCERPT]
            before = self._model.spelled([own for own in tokens[:-1].tolist() if own != self._bos]).encode()
            self._excerpt_at[row] = _fitting(before[max(0, len(before) + len(token) - EXCERPT) :] + token)
        return self._excerpt_at[row]


class Meter:
    """Measures values that a model computes. Before a pass, call `begin` with the layout of the pass. Then
    call the meter with each value (or its parts) of the events `names`. After the pass, call `finish`."""

    names: Collection[str]
    tallies: Mapping[str, Tally]  # the results of the meter, by name
    layout: PackLayout

    def begin(self, layout: PackLayout) -> None:
        self.layout = layout
        self._seen: dict[str, int] = {}

    def __call__(self, name: str, value: Array) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """End the pass."""

    def next(self, name: str, count: int) -> int:
        """Add `count` to the number of rows or groups of an event, and return the previous number."""
        start = self._seen.get(name, 0)
        self._seen[name] = start + count
        return start


def first_rows(texts: Array) -> Array:
    """Return the first row of each text: [n] -> [k]. `texts` lists the text number of each row."""
    return np.flatnonzero(np.diff(texts, prepend=-1))


def _fitting(text: bytes) -> bytes:
    """Drop an incomplete character at either end of a text, and pad the text with zeros."""
    return text.decode("utf-8", "ignore").encode().ljust(EXCERPT, b"\0")


def _as_bytes(texts: Sequence[bytes], size: int = EXCERPT) -> Array:
    return np.frombuffer(b"".join(texts), np.uint8).reshape(-1, size)


@lru_cache(maxsize=64)
def causal_places(length: int) -> Array:
    """Return the indices of the elements on and below the diagonal of a flattened [T, T] matrix."""
    return np.flatnonzero(causal_mask(length, length))
