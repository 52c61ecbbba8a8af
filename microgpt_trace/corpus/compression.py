"""Compressed bytes, unpacked piece by piece. Knows nothing of what they mean.

What is unpacked at once is bounded by what is given at once: deflate makes at most 1,032 bytes of one
(zlib's technical details), Zstandard a block of 128 KB of four (RFC 8878, an RLE block).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import FileFormatError
from ..packages import check_installed
from .sources import CHUNK, CorpusFile

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
