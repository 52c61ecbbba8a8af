"""A corpus yields the documents of its files, one after another, and counts the skipped rows. The
extension of a file decides how its rows are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from itertools import compress, count, islice
from random import Random
from typing import NamedTuple

from ..errors import FileFormatError, InputError, OptionError, RunError, check_installed
from ..text.brief import brief, one_line
from ..text.frozen import frozen
from ..text.wording import abridged, counted
from .remote import remote_files
from .rows import BLANK, NoText, Row, rows_of
from .sources import STDIN, CorpusFile, StandardInput, extensions, local_files

MOST = (1 << 63) - 1  # largest value of limit, sample and seed
_NEEDS = {".parquet": "pyarrow", ".zst": "zstandard"}  # extension -> the package that reads it
ReportBytes = Callable[[int], object]  # called with the number of bytes read so far


@frozen(slots=False)
class CorpusSelection:
    """The sources of a corpus, and the documents to read: all, the first `limit`, or a random `sample`.

    A source is the path of a file, a glob, a URL that fsspec opens, or "-" for standard input. Standard input
    is always read as lines of text. `field` is the name of the text field in .jsonl and .ndjson records, or
    of the text column in Parquet. `seed` determines the sample. Samples are uniform, without replacement, and
    stay in the order of the corpus. If the corpus is smaller than the sample, all documents are selected.
    With `skip_bad`, rows that are not text are skipped and counted instead of raising an error.
    """

    sources: tuple[str, ...]
    field: str = "text"
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Raise InputError if a value is out of range or two values contradict each other."""
        if not self.sources or not all(self.sources):
            raise InputError(f"sources of a corpus: expected names of files, found {brief(self.sources)}")
        if self.sources.count(STDIN) > 1:
            raise InputError("sources of a corpus: standard input (-) can be read only once")
        if not self.field:
            raise OptionError("{field}: expected the name of a field, found an empty name")
        for name, least in (("limit", 1), ("sample", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST:
                size = "smaller" if value < least else "larger"  # because Python cannot print huge integers
                expected = f"expected a number from {least} to {MOST:,}, found a {size} number"
                raise OptionError(f"{{{name}}}: {expected}")
        if self.sample and self.limit:
            raise OptionError("{limit} and {sample} cannot be combined: give only one")
        if self.sample and STDIN in self.sources:
            raise InputError("a sample reads each file twice, but standard input (-) can be read only once")


class Document(NamedTuple):
    """A text of a corpus. `number` counts the selected documents from 0, and `row` counts the lines or rows
    of `file` from 1. If the model cannot read the text, `unfit` contains the reason.
    """

    number: int
    text: str
    file: str
    row: int
    unfit: str = ""

    @property
    def place(self) -> str:
        """The place, such as "names.txt:17"."""
        return f"{self.file}:{self.row}"


class Skipped(NamedTuple):
    """The number of rows that were skipped for one reason, and the place of the first such row."""

    rows: int
    first: str


class Corpus:
    """The documents of a selection, as an iterable. Only one iteration may run at a time.

    An iteration calls `report` with the number of unpacked bytes so far, and skips blank rows. Iterating
    raises FileFormatError if a row is not text, InputError if there are no documents, and RunError if a
    transfer fails.

    When an iteration ends, `documents` counts its documents, `skipped` counts the skipped rows by reason, and
    `fingerprint` identifies its texts. If a sample is taken, `skipped` counts the rows of all files, not only
    of the sample.
    """

    def __init__(self, selection: CorpusSelection, report: ReportBytes = lambda count: None) -> None:
        self.selection = selection
        self._bytes, self._report = 0, report
        self._reset()

    def __repr__(self) -> str:
        return one_line(self, sources=self.selection.sources, documents=self.documents)

    def _reset(self) -> None:
        self.documents = 0
        self.skipped: dict[str, Skipped] = {}
        self._hash = blake2b(digest_size=16)

    @property
    def fingerprint(self) -> str:
        """The BLAKE2b hash of the texts in order. Each text is hashed as its length in bytes (64 bits,
        little-endian), followed by the text in UTF-8. File names are not hashed."""
        return self._hash.hexdigest()

    @cached_property
    def files(self) -> list[CorpusFile]:
        """The files of all sources, in order, which are not opened here. Raises InputError or FileFormatError
        if a file does not exist, and InputError if a package is missing."""
        files = [file for source in self.selection.sources for file in _files_of(source)]
        for file in files:
            for extension in extensions(file.path):
                if extension in _NEEDS:
                    check_installed(_NEEDS[extension], f"{file.name}: {extension} needs")
        return files

    def __iter__(self) -> Iterator[Document]:
        self._reset()
        yield from map(self._document, self._selected())  # a loop variable would keep a text in memory
        if not self.documents:
            rows = [f"{reason}: {counted(skipped.rows, 'row')}" for reason, skipped in self.skipped.items()]
            why = f" ({', '.join(rows)})" if rows else ""
            raise InputError(f"{self._sources}: expected documents, found none{why}")

    def _document(self, placed: tuple[str, str, int]) -> Document:
        content = placed[0].encode()
        self._hash.update(len(content).to_bytes(8, "little"))
        self._hash.update(content)
        self.documents += 1
        return Document(self.documents - 1, *placed)

    def _selected(self) -> Iterator[tuple[str, str, int]]:
        """Yield each selected text with its file and row."""
        selection = self.selection
        if selection.sample is None:
            yield from islice(self._texts(self.skipped), selection.limit)
            return
        total = sum(map(bool, self._texts(self.skipped)))
        yield from compress(self._texts({}), _sample_mask(total, selection.sample, selection.seed))
        if self.documents < min(total, selection.sample):
            raise RunError(f"{self._sources}: changed while the sample was read")

    def _texts(self, skipped: dict[str, Skipped]) -> Iterator[tuple[str, str, int]]:
        """Yield every text with its file and row. There is no loop variable, because it would keep a text of
        up to 64 MB in memory while the next text is read."""
        for file in self.files:
            rows = rows_of(file, self.selection.field, self._count)
            yield from filter(None, map(partial(self._placed, skipped, file.name), rows, count(1)))

    def _placed(
        self, skipped: dict[str, Skipped], file: str, row: Row, number: int
    ) -> tuple[str, str, int] | None:
        """Return the text of a row with its place, or None if the row is skipped."""
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

    def _count(self, size: int) -> None:
        self._bytes += size
        self._report(self._bytes)

    @property
    def _sources(self) -> str:
        return abridged(self.selection.sources)


def _sample_mask(total: int, size: int, seed: int) -> Iterator[bool]:
    """For each of `total` documents, yield True if the sample contains the document. Each set of `size`
    documents is equally likely. Source: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S
    (selection sampling). Random numbers come only from `random()`, which returns the same numbers in every
    version of Python."""
    uniform = Random(seed).random
    for left in range(total, 0, -1):
        if not size:
            return
        take = uniform() * left < size
        size -= take
        yield take


def _files_of(source: str) -> Sequence[CorpusFile]:
    if source == STDIN:
        return [StandardInput(STDIN, STDIN)]
    return remote_files(source) if "://" in source else local_files(source)
