"""Where the bytes of a corpus are, files of this machine and the standard input, and how they are unpacked.
Knows nothing of what they mean.

The memory that unpacking takes is bounded by what it is given at a time: deflate makes at most 1,032 bytes of
one (zlib's technical details), Zstandard a block of 128 KB of four (RFC 8878, an RLE block).
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import FileFormatError, InputError, check_installed
from ..untrusted_files import check_regular, reading
from .selection import STDIN

CHUNK = 1 << 20  # bytes that are read at once
_MAGIC = re.compile(r"[*?[]")


class CorpusFile(Protocol):
    """What documents are read from. Its errors name it; what its path ends in tells what is in it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def chunks(self) -> Iterator[bytes]:
        """Its bytes in pieces of at most CHUNK."""

    def opened(self) -> AbstractContextManager[IO[bytes]]:
        """For those who read it here and there."""


@dataclass(frozen=True)
class LocalFile:
    path: str

    @property
    def name(self) -> str:
        return self.path

    def chunks(self) -> Iterator[bytes]:
        with self.opened() as file:
            yield from chunks_of(file)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        path = Path(self.path)
        with reading(path), path.open("rb") as file:
            yield file


@dataclass
class StandardInput:
    name: str = STDIN
    path: str = STDIN
    taken: bool = False

    def chunks(self) -> Iterator[bytes]:
        if self.taken:
            raise InputError("-: the standard input can be read once")
        self.taken = True
        with self.opened() as file:
            while chunk := file.read1(CHUNK):  # type: ignore[attr-defined]  # what is there, without waiting
                yield chunk

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        if sys.stdin is None:  # as where the shell has closed it
            raise InputError("-: there is no standard input")
        with reading(Path(self.name)):
            yield sys.stdin.buffer


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def local_files(source: str) -> list[LocalFile]:
    """The file of this path, or those that match a glob, sorted; folders among these are passed over.

    A path that is there beats a glob. Raises FileFormatError where it is no regular file, and InputError for
    a glob that nothing matches.
    """
    path, names = Path(source), [source]
    with reading(path):
        if _MAGIC.search(source) and not path.exists():
            names = sorted(name for name in glob(source, recursive=True) if not Path(name).is_dir())  # noqa: PTH207
    if not names:
        raise nothing_matches(source)
    for name in names:
        check_regular(Path(name), "a file of documents")
    return [LocalFile(name) for name in names]


def nothing_matches(source: str) -> InputError:
    return InputError(f"{source}: no file matches")


PIECE = 1 << 8  # bytes unpacked at once: at most 256 KB by gzip, 8 MB by Zstandard
_GZIP = 16 + zlib.MAX_WBITS


def check_unpackable(name: str, ending: str) -> None:
    """Raises InputError where the package is missing that unpacks it."""
    if ending == ".zst":
        check_installed("zstandard", f"{name}: .zst needs")


def unpacked(file: CorpusFile, ending: str) -> Iterator[bytes]:
    """The bytes of a file whose name ends so, in pieces of at most CHUNK; of any other its own."""
    if ending == ".gz":
        return _unpacked(file, "gzip", lambda: zlib.decompressobj(_GZIP), zlib.error)
    if ending == ".zst":
        import zstandard

        opened = zstandard.ZstdDecompressor().decompressobj
        return _unpacked(file, "Zstandard", opened, zstandard.ZstdError)
    return file.chunks()


def _unpacked(
    file: CorpusFile, what: str, begun: Callable[[], Any], failure: type[Exception]
) -> Iterator[bytes]:
    """One member, or frame, after another. Raises FileFormatError where one is damaged or ends early."""
    member = None
    read = whole = 0
    for chunk in file.chunks():
        for start in range(0, len(chunk), PIECE):
            piece = chunk[start : start + PIECE]
            read += len(piece)
            while piece and not (whole and member is None and not piece.strip(b"\0")):  # zeros may follow
                member = member or begun()
                try:
                    content = member.decompress(piece)
                except failure as error:
                    raise FileFormatError(f"{file.name}: expected {what} data ({error})") from error
                yield from (content[i : i + CHUNK] for i in range(0, len(content), CHUNK))
                piece = member.unused_data if member.eof else b""
                if member.eof:
                    member, whole = None, whole + 1
    if member is not None or not whole:
        raise FileFormatError(
            f"{file.name}: expected {what} data to its end, found it cut off after {read:,} bytes"
        )
