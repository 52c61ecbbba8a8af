"""Read the records of a training log line by line, and check the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FileFormatError
from ..text.frozen import frozen
from ..text.json_reading import OutOfBounds, from_json
from ..untrusted_files import check_regular, reading

LOG_SCHEMA = "microgpt.log/1"
LONGEST = 1 << 24  # largest number of bytes of a line (usually a few hundred)
BEGINNING = b'{"record": "run", "schema": "microgpt.log/'
_NONFINITE = ("NaN", "Infinity", "-Infinity")  # texts that float() reads
T = TypeVar("T")


def is_log(path: Path) -> bool:
    """Return True if a file is a log. A log may be empty or end in the middle of its first line."""
    try:
        next(log_records(path, []), None)
    except FileFormatError:
        return False
    return True


def watched_before(path: Path) -> str | None:
    """Return the name that an existing log watches, or None if there is no log."""
    try:
        record = next(log_records(path, []), None)
        return None if record is None else record.get("watched", a_text)
    except FileFormatError:
        return None


def log_records(path: Path, notes: list[str]) -> Iterator[LogRecord]:
    """Yield the records of a log. The first record describes a run. An incomplete last line is left out,
    and `notes` receives a note. Raises FileFormatError with the file and the line."""
    check_regular(path, "the log of a training run")
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
            is_log_line = number > 1 or BEGINNING.startswith(line[: len(BEGINNING)])
            if is_log_line and not line.endswith(b"\n") and len(line) < LONGEST:
                notes.append(
                    f"{path}, line {number:,}: the last line is incomplete and was left out; the run was "
                    "stopped while writing it, or is still running"
                )
                return
            record = LogRecord(path, f"line {number:,}", _parsed(path, number, line), file.tell())
            if number == 1:
                _check_first(record)
            yield record


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where = f"{path}, line {number:,}"
    expected = "expected a JSON record of the log of a training run"
    if len(line) == LONGEST:
        raise FileFormatError(f"{where}: {expected}, found a line of more than {LONGEST:,} bytes")
    try:
        values = from_json(line)
    except ValueError as error:
        found = repr(line[:40].decode("utf-8", "replace").strip()) if line.strip() else "an empty line"
        found = str(error) if isinstance(error, OutOfBounds) else found
        raise FileFormatError(f"{where}: {expected}, found {found}") from error
    if not isinstance(values, dict):
        raise FileFormatError(f"{where}: expected a JSON object, found a {type(values).__name__}")
    return values


def _check_first(record: LogRecord) -> None:
    kind, schema = record.values.get("record"), record.values.get("schema")
    if (kind, schema) != ("run", LOG_SCHEMA):
        found = f"schema {schema!r:.60}" if schema != LOG_SCHEMA and schema is not None else f"{kind!r:.60}"
        raise record.error(
            f'expected the log of a training run, whose first record is "run" of schema "{LOG_SCHEMA}", '
            f"found {found}"
        )


@frozen
class LogRecord:
    """The JSON object of a line, or an object within it. The line ends at byte `end` of the file."""

    path: Path
    where: str  # "line 17", or "line 17, model" for an object within it
    values: dict[str, Any]
    end: int = 0

    def error(self, fact: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, {self.where}: {fact}")

    def get(self, field: str, read: Callable[[Any], T]) -> T:
        """Return the value of a field, as converted by `read`. For an invalid value, `read` raises ValueError
        with the expected value in words. Raises FileFormatError with the file, line and field if the value is
        invalid or missing."""
        if field not in self.values:
            raise self.error(f"the field {field!r} is missing")
        value = self.values[field]
        try:
            return read(value)
        except ValueError as error:
            raise self.error(f"{field}: expected {error}, found {value!r:.60}") from error

    def part(self, field: str) -> LogRecord:
        """Return the object in a field as a record."""
        return LogRecord(self.path, f"{self.where}, {field}", self.get(field, an_object))


def reader(expected: str, accepts: Callable[[Any], bool], convert: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return a function that converts a value, or raises ValueError(expected) if `accepts` rejects it."""

    def read(value: Any) -> T:
        if not accepts(value):
            raise ValueError(expected)
        return convert(value)

    return read


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in _NONFINITE


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


a_text = reader("a text", lambda value: isinstance(value, str), str)
an_object: Callable[[Any], dict[str, Any]] = reader("an object", lambda v: isinstance(v, dict), dict)
a_count = reader("a whole number of at least 0", is_count, int)
a_number = reader("a number", _is_number, float)  # NaN and infinities included


def or_null(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Return a reader that also accepts null."""
    return lambda value: None if value is None else read(value)
