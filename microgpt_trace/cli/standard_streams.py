"""Prepares stdin, stdout and stderr for a command, even if a stream is closed, or its width is wrong."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

from ..errors import ReaderGone

NARROWEST, WIDEST = 20, 1000  # characters: on narrower lines tables vanish, and wider lines take megabytes


class Results(io.TextIOWrapper):
    """Standard output. `Results` raises ReaderGone if the reader of a pipe is gone, because a BrokenPipeError
    would make Rich and Typer exit with code 1."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError as error:
            raise ReaderGone from error


class Notes(io.TextIOWrapper):
    """Standard error. Errors are ignored, because a note that cannot be written must not stop a command."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def prepare() -> None:
    """Replace the standard streams. If the caller closed stdout, writing results raises OSError."""
    _fill_closed()
    _limit_sizes()
    sys.stdout = _over(sys.stdout, 1, Results, line_buffering=sys.stdout is not None and sys.stdout.isatty())
    sys.stderr = _over(sys.stderr, 2, Notes, line_buffering=True)


def release() -> None:
    """Flush the streams and drop all output that cannot be written. Otherwise Python would report the failed
    write at exit, with another exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, ReaderGone):  # a full disk, a closed stream, or no reader
        drop_output()
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def drop_output() -> None:
    """Redirect stdout to the null device."""
    with suppress(OSError, ValueError):  # stdout is closed or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_closed() -> None:
    """Open the null device for each closed stream. Otherwise the first file that is opened would become
    stderr, and libraries would write messages into this file."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # os.open uses the lowest free descriptor, which is `descriptor` here
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)


def _limit_sizes() -> None:
    """Limit the sizes of the terminal in the environment, and remove sizes that are not positive numbers."""
    for name in {"COLUMNS", "LINES", "TERMINAL_WIDTH"} & os.environ.keys():  # Rich and Typer read these
        digits = os.environ.pop(name).lstrip("0")
        if digits.isascii() and digits.isdigit():
            os.environ[name] = str(min(max(int(digits[:9]), NARROWEST), WIDEST))


def _over(stream: Any, descriptor: int, kind: type[io.TextIOWrapper], line_buffering: bool) -> Any:
    """Replace a closed stream, or a stream that Python opened, by a stream of the class `kind`. Return a
    stream of another class unchanged."""
    if stream is None:
        raw: Any = io.FileIO(descriptor, "w", closefd=False)
        encoding = "utf-8"
    elif type(stream) is io.TextIOWrapper:
        encoding = stream.encoding
        stream.flush()
        raw = stream.detach()
    else:
        return stream
    if not isinstance(raw, io.BufferedWriter):
        # With python -u, Python does not notice if a full disk stores only a part of the text.
        raw = io.BufferedWriter(raw)
    return kind(raw, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)
