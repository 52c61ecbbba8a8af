"""A corpus: the documents of a selection, one after another, and what was passed over. Keeps none of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b
from itertools import compress, islice
from random import Random
from typing import NamedTuple

from ..errors import FileFormatError, InputError, RunError
from ..text.brief import one_line
from ..text.wording import abridged, counted
from .reading import found_files, rows_of
from .rows import BLANK, NoText
from .selection import CorpusSelection
from .sources import CorpusFile


class Document(NamedTuple):
    """A text, its number among those that are taken, from 0, and where it stands: a file, and its line or row
    there, from 1."""

    number: int
    text: str
    file: str
    row: int

    @property
    def place(self) -> str:
        """ "names.txt:17" """
        return f"{self.file}:{self.row}"


class Skipped(NamedTuple):
    """Rows that are no documents for one reason: how many, and where the first stands."""

    rows: int
    first: str


class Corpus:
    """The documents of a selection: an iterable, of which one iteration at a time is made.

    An iteration raises FileFormatError with its place for a row that is no document (a blank one is passed
    over), InputError where there is no document at all, and RunError where a transfer fails.

    Of the iteration that was made last, and complete when that is: `documents`, how many there were,
    `skipped`, what was passed over by reason, of all the corpus where a sample was taken, and `fingerprint`.
    """

    def __init__(self, selection: CorpusSelection) -> None:
        self.selection = selection
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
        for text, file, row in self._selected():
            content = text.encode()
            self._hash.update(len(content).to_bytes(8, "little") + content)
            self.documents += 1
            yield Document(self.documents - 1, text, file, row)
        if not self.documents:
            raise InputError(f"{self._sources}: expected documents, found none{self._why_none()}")

    def _selected(self) -> Iterator[tuple[str, str, int]]:
        asked = self.selection
        if asked.sample is None:
            yield from islice(self._texts(self.skipped), asked.limit)
            return
        total, found = sum(1 for _ in self._texts(self.skipped)), 0
        for text in compress(self._texts({}), _chosen(total, asked.sample, asked.seed)):
            found += 1
            yield text
        if found < min(total, asked.sample):
            raise RunError(f"{self._sources}: changed while the sample was read")

    def _texts(self, skipped: dict[str, Skipped]) -> Iterator[tuple[str, str, int]]:
        """Every document, its file and its row there."""
        for file in self.files:
            name = file.name
            for number, row in enumerate(rows_of(file, self.selection.field), 1):
                if isinstance(row, NoText):
                    self._pass_over(row, f"{name}:{number}", skipped)
                elif not row or row.isspace():
                    self._pass_over(BLANK, f"{name}:{number}", skipped)
                else:
                    yield row, name, number

    def _pass_over(self, row: NoText, place: str, skipped: dict[str, Skipped]) -> None:
        if row is not BLANK and not self.selection.skip_bad:
            raise FileFormatError(f"{place}: {row.error}")
        rows, first = skipped.get(row.reason, (0, place))
        skipped[row.reason] = Skipped(rows + 1, first)

    @property
    def _sources(self) -> str:
        return abridged(self.selection.sources)

    def _why_none(self) -> str:
        what = [f"{counted(found.rows, 'row')} {reason}" for reason, found in self.skipped.items()]
        return f" ({', '.join(what)})" if what else ""


def _chosen(total: int, count: int, seed: int) -> Iterator[bool]:
    """Which of so many are in a sample, each set of that size equally likely: selection sampling (Knuth, The
    Art of Computer Programming 2, 3.4.2, algorithm S). Of Python's generator only random() is used, whose
    numbers are the same in every version."""
    draw = Random(seed).random
    for left in range(total, 0, -1):
        if not count:
            return
        taken = draw() * left < count
        count -= taken
        yield taken
