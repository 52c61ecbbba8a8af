"""A corpus: what is asked for, its sources as files, these as rows, each by what its name ends in, and the
documents of all of them, one after another, with what was passed over. Keeps none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import compress, count, islice
from pathlib import PurePosixPath
from random import Random
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import FileFormatError, InputError, RunError, check_installed
from ..text.brief import brief, one_line
from ..text.wording import abridged, counted
from .remote import remote_files
from .rows import BLANK, NoText, Row, json_rows, parquet_rows, text_rows
from .sources import STDIN, CorpusFile, StandardInput, local_files, unpacked

MOST = (1 << 63) - 1  # of a number of texts, and of a seed
_PACKED = (".gz", ".zst")
_JSON = (".jsonl", ".ndjson")
_PARQUET = ".parquet"
_NEEDS = {_PARQUET: "pyarrow", ".zst": "zstandard"}
Told = Callable[[int], object]  # of bytes that were read


@dataclass(frozen=True)
class CorpusSelection:
    """Sources in their order, and the documents to take from them: all, the first so many, or a sample.

    A source is the path of a file, a glob, a URL that fsspec opens, or "-" for the standard input, which is
    text whatever is in it. `field` names what is read of the records of .jsonl, .ndjson and .parquet. A
    `sample` is chosen uniformly, without replacement and by the seed, and keeps the order of the corpus; of
    a smaller corpus it is all. With `skip_bad` what is no document is counted instead of refused.
    """

    sources: tuple[str, ...]
    field: str = "text"
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Raises InputError where it asks for nothing, or for what contradicts itself."""
        if not self.sources or not all(self.sources):
            raise InputError(f"sources of a corpus: expected names of files, found {brief(self.sources)}")
        if self.sources.count(STDIN) > 1:
            raise InputError("sources of a corpus: - is the standard input, which can be read once")
        if not self.field:
            raise InputError("field: expected the name of a field, found an empty one")
        for name, least in (("limit", 1), ("sample", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected at least {least}, found {value:,}")
            if value is not None and value > MOST:
                raise InputError(f"{name}: expected at most {MOST:,}, found a larger number")
        if self.sample and self.limit:
            raise InputError("a limit takes the first documents, a sample any of them: give one of the two")
        if self.sample and STDIN in self.sources:
            raise InputError("a sample is read twice, and - can be read once: write it to a file first")


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
            what = [f"{counted(found.rows, 'row')} {reason}" for reason, found in self.skipped.items()]
            why = f" ({', '.join(what)})" if what else ""
            raise InputError(f"{self._sources}: expected documents, found none{why}")

    def _document(self, found: tuple[str, str, int]) -> Document:
        text = found[0]
        content = text.encode()
        self._hash.update(len(content).to_bytes(8, "little"))
        self._hash.update(content)
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


# --- Files and their rows ---------------------------------------------------------------------


def found_files(sources: Sequence[str]) -> list[CorpusFile]:
    """The files of all sources, in their order, none of which is opened.

    Raises InputError or FileFormatError where one is not there or cannot be read for want of a package.
    """
    files = [file for source in sources for file in _files_of(source)]
    for file in files:
        for ending in endings_of(file.path):
            if ending in _NEEDS:
                check_installed(_NEEDS[ending], f"{file.name}: {ending} needs")
    return files


def _files_of(source: str) -> Sequence[CorpusFile]:
    if source == STDIN:
        return [StandardInput(STDIN, STDIN)]
    return remote_files(source) if "://" in source else local_files(source)


def rows_of(file: CorpusFile, field: str, count: Callable[[int], None]) -> Iterator[Row]:
    """The rows of a file in order; their numbers count from 1. `count` is told how many bytes come."""
    kind, packed = endings_of(file.path)
    if kind == _PARQUET:
        return parquet_rows(file, packed, field, count)
    chunks = _counted(unpacked(file, packed), count)
    return json_rows(chunks, field) if kind in _JSON else text_rows(chunks)


def _counted(chunks: Iterable[bytes], count: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        count(len(chunk))
        yield chunk


def endings_of(path: str) -> tuple[str, str]:
    """What kind of file this is, and how it is packed: (".jsonl", ".gz"). Of a URL its path counts."""
    name = urlsplit(path).path if "://" in path else path
    *_, kind, last = ["", "", *PurePosixPath(name.lower()).suffixes]
    return (kind, last) if last in _PACKED else (last, "")
