"""Sources as files, and files as rows, each by what its name ends in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from .parquet import check_parquet, parquet_rows
from .remote import remote_files
from .rows import Row, json_rows, text_rows
from .selection import STDIN
from .sources import CorpusFile, StandardInput, check_unpackable, local_files, unpacked

_PACKED = (".gz", ".zst")
_JSON = (".jsonl", ".ndjson")
_PARQUET = ".parquet"


def found_files(sources: Sequence[str]) -> list[CorpusFile]:
    """The files of all sources, in their order, none of which is opened.

    Raises InputError or FileFormatError where one is not there or cannot be read for want of a package.
    """
    files = [file for source in sources for file in _files_of(source)]
    for file in files:
        kind, packed = endings_of(file.path)
        check_unpackable(file.name, packed)
        if kind == _PARQUET:
            check_parquet(file.name)
    return files


def _files_of(source: str) -> Sequence[CorpusFile]:
    if source == STDIN:
        return [StandardInput()]
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
