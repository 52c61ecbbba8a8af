"""Prepares stdin, stdout and stderr for a command, also if the caller closed some. Knows no command."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

from ..errors import ReaderGone


class Results(io.TextIOWrapper):
    """stdout, which raises ReaderGone if its reader has closed the pipe. A BrokenPipeError would make rich
    and Typer end with exit code 1."""

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
    """stderr, which ignores errors: a note that cannot be written must not stop the work."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def prepare() -> None:
    """Replace the streams by ours. Writing results to a stdout that the caller closed raises OSError."""
    _fill_closed()
    sys.stdout = _over(sys.stdout, 1, Results, line_buffering=sys.stdout is not None and sys.stdout.isatty())
    sys.stderr = _over(sys.stderr, 2, Notes, line_buffering=True)


def release() -> None:
    """Flush the streams, and drop what cannot be written: Python would report it at its end, with an exit
    code of its own."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, ReaderGone):  # a full disk, a closed stream, or no reader
        drop_output()
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def drop_output() -> None:
    """Send what is still to be written to stdout to the null device."""
    with suppress(OSError, ValueError):  # stdout is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_closed() -> None:
    """Open the null device in the place of closed streams: otherwise the first file that is opened would
    become stderr, and messages of libraries would go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # takes the lowest free descriptor, which is this one
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)


def _over(stream: Any, descriptor: int, kind: type[io.TextIOWrapper], line_buffering: bool) -> Any:
    """Return our stream over Python's own. Any other stream, which a caller put there, is returned as it
    is."""
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
        # Unbuffered (python -u), Python does not notice that a full disk took only a part.
        raw = io.BufferedWriter(raw)
    return kind(raw, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)
