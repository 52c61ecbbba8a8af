"""Rows of a corpus: a text each, or what is wrong with it. They are lines of text or of JSON, or stand in a
Parquet file, of which pyarrow reads one row at a time, and only the column that is asked for."""

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
from .sources import CHUNK, CorpusFile, unpacked

LONGEST = 1 << 26  # bytes of a line, and of a text
LARGEST_COPY = 1 << 34  # bytes of a temporary file
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


# --- Parquet ----------------------------------------------------------------------------------


def parquet_rows(file: CorpusFile, ending: str, field: str, count: Callable[[int], None]) -> Iterator[Row]:
    """The column of this name, row by row, of which `count` is told the bytes. Raises FileFormatError where
    there is none, or none of text.

    A file that is packed once more, or of a server that gives no parts of files, is copied into a
    temporary file.
    """
    with _seekable(file, ending) as content, _failing(file.name):
        import pyarrow.parquet

        with _memory_given_back():
            opened = pyarrow.parquet.ParquetFile(content, buffer_size=CHUNK, pre_buffer=False)
        with opened as table:
            _check_column(table.schema_arrow, field, file.name)
            batches = table.iter_batches(1, columns=[field], use_threads=False)
            yield from map(partial(_row, field, count), batches)


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """What is opened within takes its memory from the C library, which gives a long text's back at once."""
    import pyarrow

    before = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    try:
        yield
    finally:
        pyarrow.set_memory_pool(before)


@contextmanager
def _seekable(file: CorpusFile, ending: str) -> Iterator[IO[bytes]]:
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
            raise RunError(f"{file.name}: cannot copy it to a temporary file ({error.strerror})") from error
        yield copy


def _copy(chunks: Iterable[bytes], copy: IO[bytes], name: str) -> None:
    for chunk in chunks:
        copy.write(chunk)
        if copy.tell() > LARGEST_COPY:
            raise FileFormatError(f"{name}: expected Parquet of at most {LARGEST_COPY:,} bytes, found more")
    copy.seek(0)


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """What pyarrow finds wrong with a file, as a FileFormatError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # the second of a column's name
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # of the file's own reading
        said = str(error).partition("\n")[0]
        raise FileFormatError(f"{name}: expected a Parquet file ({said})") from error


def _check_column(schema: Any, field: str, name: str) -> None:
    from pyarrow import types

    found = schema.get_all_field_indices(field)
    if len(found) != 1:
        columns = abridged([brief(column) for column in schema.names], 8)
        raise FileFormatError(f"{name}: expected one column {brief(field)}, found the columns {columns}")
    kind = schema.field(found[0]).type
    held = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(held) or types.is_large_string(held) or types.is_string_view(held)):
        raise FileFormatError(f"{name}: expected text in the column {brief(field)}, found {kind}")


def _row(field: str, count: Callable[[int], None], batch: Any) -> Row:
    (value,) = batch.column(0).cast("binary")
    count(batch.nbytes)
    return text_of(None, field) if value.as_py() is None else decoded(value.as_py())
