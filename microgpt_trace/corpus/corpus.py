"""A corpus: the documents of a selection, one after another, and what was passed over. Keeps none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from hashlib import blake2b
from itertools import compress, count, islice
from random import Random
from typing import NamedTuple

from ..errors import FileFormatError, InputError, RunError
from ..text.brief import one_line
from ..text.wording import abridged, counted
from .reading import found_files, rows_of
from .rows import BLANK, NoText, Row
from .selection import CorpusSelection
from .sources import CHUNK, CorpusFile

Told = Callable[[int], object]  # of bytes that were read


class Document(NamedTuple):
    """A text, its number among those that are taken, from 0, and where it stands: a file, and its line or row
    there, from 1. `unfit` is why a model does not read it, where that is known without its text."""

    number: int
    text: str
    file: str
    row: int
    unfit: str = ""

    @property
    def place(self) -> str:
        """ "names.txt:17" """
        return f"{self.file}:{self.row}"


class Skipped(NamedTuple):
    """Rows that are no documents for one reason: how many, and where the first stands."""

    rows: int
    first: str


class Corpus:
    """The documents of a selection: an iterable, of which one iteration at a time is made. `told` is told
    again and again how many bytes were read and unpacked so far.

    An iteration raises FileFormatError with its place for a row that is no document (a blank one is passed
    over), InputError where there is no document at all, and RunError where a transfer fails.

    Of the iteration that was made last, and complete when that is: `documents`, how many there were,
    `skipped`, what was passed over by reason, of all the corpus where a sample was taken, and `fingerprint`.
    """

    def __init__(self, selection: CorpusSelection, told: Told = lambda count: None) -> None:
        self.selection = selection
        self._bytes, self._told = 0, told
        self._begin()

    def __repr__(self) -> str:
        return one_line(self, sources=self.selection.sources, documents=self.documents)

    def _begin(self) -> None:
        self.documents = 0
        self.skipped: dict[str, Skipped] = {}
        self._hash = blake2b(digest_size=16)

    @property
    def fingerprint(self) -> str:
        """Identifies the texts and their order, wherever they stand: BLAKE2b of each as its length in bytes
        (64 bits, little-endian) and its UTF-8."""
        return self._hash.hexdigest()

    @cached_property
    def files(self) -> list[CorpusFile]:
        """What is read, in order. Raises what `found_files` does."""
        return found_files(self.selection.sources)

    def __iter__(self) -> Iterator[Document]:
        self._begin()
        yield from map(self._document, self._selected())  # and nothing here keeps the text
        if not self.documents:
            raise InputError(f"{self._sources}: expected documents, found none{self._why_none()}")

    def _document(self, found: tuple[str, str, int]) -> Document:
        text = found[0]
        self._hash.update((len(text) if text.isascii() else len(text.encode())).to_bytes(8, "little"))
        add_text(self._hash, text)
        self.documents += 1
        return Document(self.documents - 1, *found)

    def _selected(self) -> Iterator[tuple[str, str, int]]:
        asked = self.selection
        if asked.sample is None:
            yield from islice(self._texts(self.skipped), asked.limit)
            return
        total = sum(map(bool, self._texts(self.skipped)))
        yield from compress(self._texts({}), _chosen(total, asked.sample, asked.seed))
        if self.documents < min(total, asked.sample):
            raise RunError(f"{self._sources}: changed while the sample was read")

    def _texts(self, skipped: dict[str, Skipped]) -> Iterator[tuple[str, str, int]]:
        """Every document, its file and its row there. Nothing here keeps a text, which may take 64 MB, while
        the next is read."""
        for file in self.files:
            rows = rows_of(file, self.selection.field, self._count)
            yield from filter(None, map(partial(self._found, skipped, file.name), rows, count(1)))

    def _found(
        self, skipped: dict[str, Skipped], file: str, row: Row, number: int
    ) -> tuple[str, str, int] | None:
        """The document of a row, or None where it is passed over."""
        if not isinstance(row, NoText):
            if row and not row.isspace():
                return row, file, number
            row = BLANK
        place = f"{file}:{number}"
        if row is not BLANK and not self.selection.skip_bad:
            raise FileFormatError(f"{place}: {row.error}")
        rows, first = skipped.get(row.reason, (0, place))
        skipped[row.reason] = Skipped(rows + 1, first)
        return None

    def _count(self, read: int) -> None:
        self._bytes += read
        self._told(self._bytes)

    @property
    def _sources(self) -> str:
        return abridged(self.selection.sources)

    def _why_none(self) -> str:
        what = [f"{counted(found.rows, 'row')} {reason}" for reason, found in self.skipped.items()]
        return f" ({', '.join(what)})" if what else ""


def add_text(digest: blake2b, text: str) -> None:
    """Take in the UTF-8 of a text, of a long one piece by piece."""
    for start in range(0, len(text), CHUNK):
        digest.update(text[start : start + CHUNK].encode())


def _chosen(total: int, size: int, seed: int) -> Iterator[bool]:
    """Which of so many are in a sample, each set of that size equally likely: selection sampling (Knuth, The
    Art of Computer Programming 2, 3.4.2, algorithm S). Of Python's generator only random() is used, whose
    numbers are the same in every version."""
    draw = Random(seed).random
    for left in range(total, 0, -1):
        if not size:
            return
        taken = draw() * left < size
        size -= taken
        yield taken
