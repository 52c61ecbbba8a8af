"""The rows of a corpus file: lines of text, lines of JSON, or rows of a Parquet file.

A row is a text, or the reason why the row is not a text. pyarrow reads one column of a Parquet file row by
row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from ..errors import FileFormatError, RunError
from ..text.brief import brief
from ..text.json_reading import from_json
from ..text.wording import abridged
from .sources import CHUNK, CorpusFile, extensions, unpacked

LONGEST = 1 << 26  # largest number of bytes of a line or text
LARGEST_COPY = 1 << 34  # largest number of bytes of a temporary file
_BOM = b"\xef\xbb\xbf"  # the byte order mark
_JSON = (".jsonl", ".ndjson")


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Yield the bytes of each line, without the line break (\\n or \\r\\n) and without a byte order mark.

    A line longer than LONGEST becomes None. Lines may take 64 MB, so no line stays in memory while the next
    line is read.
    """
    pending, length, bom = bytearray(), 0, _BOM
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pending += first
        length += len(first)
        if length > LONGEST + 1:  # + 1, because the line may end in \r
            pending.clear()
        if others:
            yield _line(_drain(pending).removeprefix(bom), length)
            yield from (_line(line, len(line)) for line in others[:-1])
            pending, length, bom = bytearray(others[-1]), len(others[-1]), b""
    if length:
        yield _line(_drain(pending).removeprefix(bom), length)


def _drain(pending: bytearray) -> bytes:
    """Return the bytes of a buffer and empty the buffer."""
    line = bytes(pending)
    pending.clear()
    return line


def _line(line: bytes, length: int) -> bytes | None:
    line = line.removesuffix(b"\r")
    return line if max(len(line), length - 1) <= LONGEST else None


class NoText(NamedTuple):
    """A row that is not a text. Skipped rows are counted by `reason`, and `error` is an error message."""

    reason: str
    error: str


Row = str | NoText
TOO_LONG = NoText(
    f"longer than {LONGEST >> 20} MB", f"expected a text of at most {LONGEST:,} bytes, found a longer text"
)
BLANK = NoText("blank", "expected a text, found a blank row")


def rows_of(file: CorpusFile, field: str, count: Callable[[int], None]) -> Iterator[Row]:
    """Return the rows of a file in order. `count` is called with the size of each piece that is read."""
    kind, packed = extensions(file.path)
    if kind == ".parquet":
        return _parquet_rows(file, packed, field, count)
    lines = lines_of(_counted(unpacked(file, packed), count))
    return map(partial(_field_of_record, field=field), lines) if kind in _JSON else map(_decode, lines)


def _counted(chunks: Iterable[bytes], count: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        count(len(chunk))
        yield chunk


def _decode(content: Any) -> Row:
    """Decode bytes or a buffer as UTF-8. `content` is None if the row is too long."""
    if content is None or len(content) > LONGEST:
        return TOO_LONG
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        place = f"offset {error.start:,} of the row"
        return NoText("not UTF-8", f"expected UTF-8 text, found byte {content[error.start]:#04x} at {place}")


def _text_of(value: Any, field: str) -> Row:
    """Return the value of a field, or the reason why the value is not a text that UTF-8 can encode."""
    if not isinstance(value, str):
        return NoText(
            f"field {field!r} is not text", f"expected text in the field {brief(field)}, found {brief(value)}"
        )
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        half = value[error.start].encode("unicode_escape").decode()
        return NoText("lone surrogate", f"expected valid Unicode, found the lone surrogate {half}")
    return TOO_LONG if size > LONGEST else value


def _field_of_record(line: bytes | None, field: str) -> Row:
    if line is None:
        return TOO_LONG
    if line.isspace() or not line:
        return BLANK
    try:
        record = from_json(line)
    except UnicodeDecodeError:
        return _decode(line)
    except ValueError as error:
        start = brief(line[:400].decode("utf-8", "replace"))
        return NoText("not JSON", f"expected a JSON object ({error}), found {start}")
    if not isinstance(record, dict):
        return NoText("not a JSON object", f"expected a JSON object, found {brief(record)}")
    if field not in record:
        fields = abridged([brief(name) for name in record], 8) or "none"
        return NoText(f"no field {field!r}", f"expected a field {brief(field)}, found {fields}")
    return _text_of(record[field], field)


# --- Parquet ----------------------------------------------------------------------------------


def _parquet_rows(file: CorpusFile, ending: str, field: str, count: Callable[[int], None]) -> Iterator[Row]:
    """Yield the rows of the column `field`. `count` is called with the size of each row. A compressed file,
    or a file on a server without byte ranges, is first copied to a temporary file. Raises FileFormatError if
    the file is not Parquet or has no text column of this name."""
    with _seekable(file, ending) as content, _parquet_errors(file.name):
        import pyarrow.parquet

        before = pyarrow.default_memory_pool()
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # frees a long text at once
        try:
            parquet = pyarrow.parquet.ParquetFile(content, buffer_size=CHUNK, pre_buffer=False)
        finally:
            pyarrow.set_memory_pool(before)
        with parquet as table:
            _check_column(table.schema_arrow, field, file.name)
            batches = table.iter_batches(1, columns=[field], use_threads=False)
            yield from map(partial(_row, field, count), batches)


@contextmanager
def _seekable(file: CorpusFile, ending: str) -> Iterator[IO[bytes]]:
    """Open the file. If the file is compressed or cannot seek, open an unpacked temporary copy."""
    if not ending:
        with file.opened() as content:
            if getattr(content, "size", 0) is not None:
                yield content
                return
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(TemporaryFile())
            _copy(unpacked(file, ending), copy, file.name)
        except OSError as error:
            raise RunError(f"{file.name}: cannot create a temporary copy ({error.strerror})") from error
        yield copy


def _copy(chunks: Iterable[bytes], copy: IO[bytes], name: str) -> None:
    for chunk in chunks:
        copy.write(chunk)
        if copy.tell() > LARGEST_COPY:
            raise FileFormatError(f"{name}: expected at most {LARGEST_COPY:,} bytes of Parquet, found more")
    copy.seek(0)


@contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    """Turn the errors of pyarrow into FileFormatError. A column name may cause a UnicodeDecodeError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # the file could not be read
        reason = str(error).partition("\n")[0]
        raise FileFormatError(f"{name}: expected a Parquet file ({reason})") from error


def _check_column(schema: Any, field: str, name: str) -> None:
    from pyarrow import types

    indices = schema.get_all_field_indices(field)
    if len(indices) != 1:
        columns = abridged([brief(column) for column in schema.names], 8)
        raise FileFormatError(f"{name}: expected one column {brief(field)}, found the columns {columns}")
    kind = schema.field(indices[0]).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        raise FileFormatError(f"{name}: expected text in the column {brief(field)}, found {kind}")


def _row(field: str, count: Callable[[int], None], batch: Any) -> Row:
    (value,) = batch.column(0).cast("binary")
    count(batch.nbytes)
    return _text_of(None, field) if value.as_py() is None else _decode(value.as_py())
