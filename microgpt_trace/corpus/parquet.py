"""Rows of Parquet files, by pyarrow, one at a time. Only the column that is asked for is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any

from ..errors import FileFormatError, RunError
from ..text.brief import brief
from ..text.wording import abridged
from .rows import Row, decoded, text_of
from .sources import CHUNK, CorpusFile, unpacked

LARGEST_COPY = 1 << 34  # bytes of a temporary file


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
