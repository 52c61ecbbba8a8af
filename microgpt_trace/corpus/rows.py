"""Rows of a corpus: a text each, or what is wrong with it. Text and JSON lines are read here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..text.brief import brief
from ..text.json_reading import from_json
from ..text.wording import abridged

LONGEST = 1 << 26  # bytes of a line, and of a text
_MARK = b"\xef\xbb\xbf"


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Each line's bytes, without the \\n or \\r\\n that ends it and without a byte order mark
    at the beginning.

    None stands in the place of a line longer than LONGEST. A line, which may take 64 MB, is not kept while
    the next one is read.
    """
    begun, length, mark = bytearray(), 0, _MARK
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun += first
        length += len(first)
        if length > LONGEST + 1:  # it may end in \r
            begun.clear()
        if others:
            yield _line(_taken(begun).removeprefix(mark), length)
            yield from (_line(line, len(line)) for line in others[:-1])
            begun, length, mark = bytearray(others[-1]), len(others[-1]), b""
    if length:
        yield _line(_taken(begun).removeprefix(mark), length)


def _taken(begun: bytearray) -> bytes:
    """The bytes, of which nothing is left behind."""
    line = bytes(begun)
    begun.clear()
    return line


def _line(line: bytes, length: int) -> bytes | None:
    line = line.removesuffix(b"\r")
    return line if max(len(line), length - 1) <= LONGEST else None


class NoText(NamedTuple):
    """Why a row is no document: in a few words that others share, and as this one's error."""

    reason: str
    error: str


Row = str | NoText
TOO_LONG = NoText(
    f"longer than {LONGEST >> 20} MB", f"expected a text of at most {LONGEST:,} bytes, found a longer one"
)
BLANK = NoText("blank", "expected a text, found a blank one")


def text_rows(chunks: Iterable[bytes]) -> Iterator[Row]:
    """Each line of a text."""
    return map(decoded, lines_of(chunks))


def json_rows(chunks: Iterable[bytes], field: str) -> Iterator[Row]:
    """The field of each record, which is a JSON object in a line of its own."""
    return map(partial(_field_of_record, field=field), lines_of(chunks))


def decoded(content: Any) -> Row:
    """The text of bytes, or of a buffer; of None, that it was too long."""
    if content is None or len(content) > LONGEST:
        return TOO_LONG
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        return NoText(
            "not UTF-8",
            f"expected UTF-8 text, found byte {content[error.start]:#04x} at offset {error.start:,} of it",
        )


def text_of(value: Any, field: str) -> Row:
    """A field's value, if it is text that a file can hold."""
    if not isinstance(value, str):
        return NoText(
            f"field {field!r} is no text", f"expected text in the field {brief(field)}, found {brief(value)}"
        )
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        half = value[error.start].encode("unicode_escape").decode()
        return NoText("half a surrogate pair", f"expected text that UTF-8 can hold, found {half} by itself")
    return TOO_LONG if size > LONGEST else value


def _field_of_record(line: bytes | None, field: str) -> Row:
    if line is None:
        return TOO_LONG
    if line.isspace() or not line:
        return BLANK
    try:
        record = from_json(line)
    except UnicodeDecodeError:
        return decoded(line)
    except ValueError as error:
        found = brief(line[:400].decode("utf-8", "replace"))
        return NoText("no JSON", f"expected a JSON object ({error}), found {found}")
    if not isinstance(record, dict):
        return NoText("no JSON object", f"expected a JSON object, found {brief(record)}")
    if field not in record:
        fields = abridged([brief(name) for name in record], 8) or "none"
        return NoText(f"no field {field!r}", f"expected a field {brief(field)}, found {fields}")
    return text_of(record[field], field)
