"""stdin, stdout and stderr as a command needs them, whatever the caller left open. Knows no command."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

from ..errors import ReaderGone


class Results(io.TextIOWrapper):
    """stdout. Where its reader has gone that is ReaderGone: rich and Typer take a BrokenPipeError for a
    failure of their own and end with exit code 1."""

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
    """stderr: whatever keeps a note from being read, the work goes on."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def prepare() -> None:
    """Take hold of the three streams. Writing results to a stdout that the caller closed is an OSError."""
    _fill_closed()
    sys.stdout = _over(sys.stdout, 1, Results, line_buffering=sys.stdout is not None and sys.stdout.isatty())
    sys.stderr = _over(sys.stderr, 2, Notes, line_buffering=True)


def release() -> None:
    """Write what is left. Where nobody takes it, it goes nowhere: else Python complains when it ends, with an
    exit code of its own."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, ReaderGone):  # a full disk, closed, or nobody reads it
        drop_output()
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def drop_output() -> None:
    """What is still to be written to stdout has no reader."""
    with suppress(OSError, ValueError):  # no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_closed() -> None:
    """Put something in the place of streams that are closed: else the first file that is opened becomes
    stderr, and what a library says there goes into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(
                os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY
            )  # takes the lowest that is free


def _over(stream: Any, descriptor: int, kind: type[io.TextIOWrapper], line_buffering: bool) -> Any:
    """A stream of our kind in the place of Python's own. Anything else, put there by somebody who calls us,
    is left alone."""
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
        # Unbuffered (python -u), Python takes no notice when a full disk takes only a part.
        raw = io.BufferedWriter(raw)
    return kind(raw, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)
