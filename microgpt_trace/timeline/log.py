"""The records of a training log, read line by line and held to their types. Knows not what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import FileFormatError, InputError
from ..text.brief import frozen
from ..text.json_reading import OutOfBounds, from_json
from ..untrusted_files import check_regular, reading

LOG_SCHEMA = "microgpt.log/1"
LONGEST = 1 << 24  # bytes of a line: a log's have a few hundred
BEGINNING = b'{"record": "run", "schema": "microgpt.log/'
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
T = TypeVar("T")


def is_log(path: Path) -> bool:
    """Whether a file that is there is a log, maybe one cut in its first line, or empty."""
    with path.open("rb") as file:
        line = file.readline(LONGEST)
    if not line.endswith(b"\n"):
        return BEGINNING.startswith(line[: len(BEGINNING)])
    try:
        return next(log_records(path, [])) is not None
    except FileFormatError:
        return False


def watched_before(path: Path) -> str | None:
    """The name that a log which is gone on with watches; None where there is no such log."""
    try:
        record = next(log_records(path, []))
    except FileFormatError:
        return None
    watched = record.values.get("watched")
    return watched if isinstance(watched, str) else None


def log_records(path: Path, notes: list[str]) -> Iterator[LogRecord]:
    """The records of a log, the first of which tells of a run. A last line that is cut is left out, with a
    note. Raises FileFormatError naming the file and the line."""
    check_regular(path, "the log of a training run")
    with reading(path), path.open("rb") as file:
        yield from _records(file, path, notes)


def _records(file: IO[bytes], path: Path, notes: list[str]) -> Iterator[LogRecord]:
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        try:
            record = _parsed(path, number, line)
        except FileFormatError:
            if number == 1 or line.endswith(b"\n") or len(line) == LONGEST:
                raise
            notes.append(
                f"{path}, line {number:,}: the last line is cut and was left out; the run was stopped while "
                "it was written, or goes on"
            )
            return
        if number == 1:
            _check_first(record)
        yield record
    if not number:
        raise FileFormatError(f"{path}: expected the log of a training run, found an empty file")


def _parsed(path: Path, number: int, line: bytes) -> LogRecord:
    if len(line) == LONGEST:
        raise FileFormatError(f"{path}, line {number:,}: expected a JSON record, found a line without an end")
    try:
        values = from_json(line)
    except ValueError as error:
        found = repr(line[:40].decode("utf-8", "replace").strip()) if line.strip() else "an empty line"
        found = str(error) if isinstance(error, OutOfBounds) else found
        raise FileFormatError(f"{path}, line {number:,}: expected a JSON record, found {found}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise FileFormatError(f"{path}, line {number:,}: expected a JSON object, found a {kind}")
    return LogRecord(path, f"line {number:,}", values)


def _check_first(record: LogRecord) -> None:
    kind, schema = record.values.get("record"), record.values.get("schema")
    if (kind, schema) != ("run", LOG_SCHEMA):
        found = f"schema {schema!r:.60}" if schema != LOG_SCHEMA and schema is not None else f"{kind!r:.60}"
        raise record.error(
            f'expected "run" of schema "{LOG_SCHEMA}", as `train --log` writes it, found {found}'
        )


@frozen
class LogRecord:
    """A JSON object of a line. Every question about a field raises FileFormatError where it is missing or
    of another type, naming file, line and field."""

    path: Path
    where: str  # "line 17", then the members that lead here
    values: dict[str, Any]

    def error(self, fact: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, {self.where}: {fact}")

    def checked(self, make: Callable[[], T]) -> T:
        """What `make` makes of the fields; what it does not accept is an error of this line."""
        try:
            return make()
        except (InputError, TypeError) as error:
            raise self.error(f"{error!s:.200}") from error

    def text(self, field: str) -> str:
        return self._of(field, (str,), "a text")

    def choice(self, field: str, among: Sequence[str]) -> str:
        value = self.text(field)
        if value not in among:
            raise self.error(f"{field}: expected one of {', '.join(among)}, found {value!r:.60}")
        return value

    def count(self, field: str) -> int:
        value = self._of(field, (int,), "a whole number")
        if isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.error(f"{field}: expected a whole number from 0 on, found {value!r:.60}")
        return value

    def counts(self, field: str, below: int) -> list[int]:
        values = self._of(field, (list,), "a list")
        for value in values:
            if type(value) is not int or not 0 <= value < below:
                raise self.error(f"{field}: expected whole numbers below {below:,}, found {value!r:.60}")
        return values

    def number(self, field: str) -> float | None:
        """A number, which may be NaN or infinite; None where the record says null."""
        value = self._of(field, (int, float, str, type(None)), "a number")
        if value is None:
            return None
        if isinstance(value, str) and value in _NONFINITE:
            return _NONFINITE[value]
        if isinstance(value, bool | str):
            raise self.error(f"{field}: expected a number, found {value!r:.60}")
        return float(value)

    def real(self, field: str) -> float:
        """A number that is there, which may be NaN or infinite."""
        value = self.number(field)
        if value is None:
            raise self.error(f"{field}: expected a number, found null")
        return value

    def labelled(self, field: str) -> list[tuple[str, float]]:
        """Texts with a number each."""
        found = []
        for pair in self._of(field, (list,), "a list"):
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise self.error(f"{field}: expected pairs of a text and a number, found {pair!r:.60}")
            found.append((pair[0], self._element(field, pair[1])))
        return found

    def causal_weights(self, field: str, heads: int) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """Of so many heads the numbers of each row, one more in every row: [H][T][1..T]"""
        planes = self._of(field, (list,), "a list")
        lengths = {len(plane) if isinstance(plane, list) else -1 for plane in planes}
        if len(planes) != heads or len(lengths) != 1 or min(lengths) < 1:
            raise self.error(f"{field}: expected {heads:,} lists of rows, of one length")
        for plane in planes:
            for n, row in enumerate(plane, 1):
                if not isinstance(row, list) or len(row) != n:
                    raise self.error(f"{field}: expected {n:,} numbers in row {n - 1:,}, found {row!r:.60}")
        return tuple(
            tuple(tuple(self._element(field, value) for value in row) for row in plane) for plane in planes
        )

    def _element(self, field: str, value: Any) -> float:
        """A number of a list, which may be NaN or infinite."""
        return LogRecord(self.path, self.where, {field: value}).real(field)

    def part(self, field: str) -> LogRecord:
        return LogRecord(self.path, f"{self.where}, {field}", self._of(field, (dict,), "an object"))

    def _of(self, field: str, kinds: tuple[type, ...], wanted: str) -> Any:
        if field not in self.values:
            raise self.error(f"expected the field {field!r}, found none")
        value = self.values[field]
        if not isinstance(value, kinds):
            raise self.error(f"{field}: expected {wanted}, found {value!r:.60}")
        return value
