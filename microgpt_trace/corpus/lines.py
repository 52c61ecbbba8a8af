"""Bytes as lines, however they were cut into pieces. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

LONGEST = 1 << 26  # bytes of a line, and of a text
_MARK = b"\xef\xbb\xbf"


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines that end in \\n or \\r\\n, without that, and without a byte order mark at the beginning.

    None stands in the place of a line longer than LONGEST, which is not kept.
    """
    found = _lines_of(chunks)
    for first in found:
        yield first and first.removeprefix(_MARK)
        yield from found


def _lines_of(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    begun, length = list[bytes](), 0
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        length += len(first)
        if length > LONGEST + 1:  # it may end in \r
            begun.clear()
        if others:
            yield _line(b"".join(begun), length)
            yield from (_line(line, len(line)) for line in others[:-1])
            begun, length = others[-1:], len(others[-1])
    if length:
        yield _line(b"".join(begun), length)


def _line(line: bytes, length: int) -> bytes | None:
    line = line.removesuffix(b"\r")
    return line if max(len(line), length - 1) <= LONGEST else None
