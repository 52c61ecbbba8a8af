"""Read and unpack the bytes of local files and of standard input.

Files are unpacked in small pieces, which limits the memory for the result. Deflate expands a byte to at most
1,032 bytes (zlib's technical details). Zstandard expands 4 bytes to at most 128 KB (RFC 8878, RLE blocks).
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..errors import FileFormatError, InputError
from ..untrusted_files import check_regular, reading

STDIN = "-"
CHUNK = 1 << 20  # largest number of bytes to read at a time
_MAGIC = re.compile(r"[*?[]")
_PACKED = (".gz", ".zst")


@dataclass
class CorpusFile:
    """A local file of documents. Errors contain `name`. The extension of `path` determines the format."""

    name: str
    path: str

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most CHUNK."""
        with self.opened() as file:
            while chunk := file.read1(CHUNK):  # read1 does not wait for more bytes than are available
                yield chunk

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file for reading and seeking."""
        path = Path(self.path)
        with reading(path), path.open("rb") as file:
            yield file


class StandardInput(CorpusFile):
    """Standard input, which can be read only once."""

    used = False

    @contextmanager
    def opened(self) -> Iterator[Any]:
        if self.used:
            raise InputError("-: standard input can be read only once")
        if sys.stdin is None:  # for example, the shell has closed stdin
            raise InputError("-: there is no standard input")
        self.used = True
        with reading(Path(self.name)):
            yield sys.stdin.buffer


def local_files(source: str) -> list[CorpusFile]:
    """Return the file at a path, or the files that match a glob, sorted and without folders. A source that
    exists is a path, even if it looks like a glob. Raises FileFormatError if a path is not a regular file,
    and InputError if nothing matches a glob.
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


def extensions(path: str) -> tuple[str, str]:
    """Return the file extensions for format and compression in a path or URL: (".jsonl", ".gz")."""
    name = urlsplit(path).path if "://" in path else path
    *_, kind, last = ["", "", *PurePosixPath(name.lower()).suffixes]
    return (kind, last) if last in _PACKED else (last, "")


PIECE = 1 << 8  # bytes to unpack at a time, which become at most 256 KB (gzip) or 8 MB (Zstandard)
_GZIP = 16 + zlib.MAX_WBITS


def unpacked(file: CorpusFile, ending: str) -> Iterator[bytes]:
    """Return the bytes of a file in pieces of at most CHUNK. Unpack .gz and .zst files."""
    if ending == ".gz":
        return _unpack(file, "gzip", lambda: zlib.decompressobj(_GZIP), zlib.error)
    if ending == ".zst":
        import zstandard

        decoder = zstandard.ZstdDecompressor().decompressobj
        return _unpack(file, "Zstandard", decoder, zstandard.ZstdError)
    return file.chunks()


def _unpack(
    file: CorpusFile, form: str, decoder: Callable[[], Any], failure: type[Exception]
) -> Iterator[bytes]:
    """Unpack all gzip members or Zstandard frames. Raises FileFormatError for a damaged or cut file."""
    member = None
    size = complete = 0
    for chunk in file.chunks():
        for start in range(0, len(chunk), PIECE):
            piece = chunk[start : start + PIECE]
            size += len(piece)
            while piece and not (complete and member is None and not piece.strip(b"\0")):  # zeros may follow
                member = member or decoder()
                try:
                    content = member.decompress(piece)
                except failure as error:
                    raise FileFormatError(f"{file.name}: expected {form} data ({error})") from error
                yield from (content[i : i + CHUNK] for i in range(0, len(content), CHUNK))
                piece = member.unused_data if member.eof else b""
                if member.eof:
                    member, complete = None, complete + 1
    if member is not None or not complete:
        raise FileFormatError(
            f"{file.name}: expected complete {form} data, found a file that is cut off after {size:,} bytes"
        )
