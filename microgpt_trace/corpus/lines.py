"""Bytes as lines, however they were cut into pieces. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

LONGEST = 1 << 26  # bytes of a line, and of a text
_MARK = b"\xef\xbb\xbf"
Made = TypeVar("Made")


def lines_of(chunks: Iterable[bytes], made: Callable[[bytes | None], Made]) -> Iterator[Made]:
    """What is made of each line's bytes, without the \\n or \\r\\n that ends it and without a byte order mark
    at the beginning.

    None stands in the place of a line longer than LONGEST. A line is not kept while what was made of it is
    looked at, nor is that kept while the next line is read: each may take 64 MB.
    """
    begun, length, mark = bytearray(), 0, _MARK
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun += first
        length += len(first)
        if length > LONGEST + 1:  # it may end in \r
            begun.clear()
        if others:
            yield made(_line(_taken(begun).removeprefix(mark), length))
            yield from (made(_line(line, len(line))) for line in others[:-1])
            begun, length, mark = bytearray(others[-1]), len(others[-1]), b""
    if length:
        yield made(_line(_taken(begun).removeprefix(mark), length))


def _taken(begun: bytearray) -> bytes:
    """The bytes, of which nothing is left behind."""
    line = bytes(begun)
    begun.clear()
    return line


def _line(line: bytes, length: int) -> bytes | None:
    line = line.removesuffix(b"\r")
    return line if max(len(line), length - 1) <= LONGEST else None
