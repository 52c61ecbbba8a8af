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
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError
from ..untrusted_files import check_regular, reading

STDIN = "-"
CHUNK = 1 << 20  # bytes that are read at once
_MAGIC = re.compile(r"[*?[]")


@dataclass
class CorpusFile:
    """What documents are read from: a file of this machine, if it is none of the other kinds. Its errors name
    it; what its path ends in tells what is in it."""

    name: str
    path: str

    def chunks(self) -> Iterator[bytes]:
        """Its bytes in pieces of at most CHUNK."""
        with self.opened() as file:
            while chunk := file.read1(CHUNK):  # what is there, without waiting
                yield chunk

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """For those who read it here and there."""
        path = Path(self.path)
        with reading(path), path.open("rb") as file:
            yield file


class StandardInput(CorpusFile):
    """The standard input, which can be read once."""

    taken = False

    @contextmanager
    def opened(self) -> Iterator[Any]:
        if self.taken:
            raise InputError("-: the standard input can be read once")
        if sys.stdin is None:  # as where the shell has closed it
            raise InputError("-: there is no standard input")
        self.taken = True
        with reading(Path(self.name)):
            yield sys.stdin.buffer


def local_files(source: str) -> list[CorpusFile]:
    """The file of this path, or those that match a glob, sorted; folders among these are passed over.

    A path that is there beats a glob. Raises FileFormatError where it is no regular file, and InputError for
    a glob that nothing matches.
    """
    path, names = Path(source), [source]
    with reading(path):
        if _MAGIC.search(source) and not path.exists():
            names = sorted(name for name in glob(source, recursive=True) if not Path(name).is_dir())  # noqa: PTH207
    if not names:
        raise InputError(f"{source}: no file matches")
    for name in names:
        check_regular(Path(name), "a file of documents")
    return [CorpusFile(name, name) for name in names]


PIECE = 1 << 8  # bytes unpacked at once: at most 256 KB by gzip, 8 MB by Zstandard
_GZIP = 16 + zlib.MAX_WBITS


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
