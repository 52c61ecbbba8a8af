"""How far a long computation has come, on stderr: one line that rewrites itself on a terminal, else a
line now and then. Nothing is said of what takes less than a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

PATIENCE = 1.0  # seconds before anything is said
AGAIN = {True: 0.1, False: 10.0}  # seconds between two reports, on a terminal and elsewhere


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be told how many are done of how many."""
    on_terminal, due, written = sys.stderr.isatty(), monotonic() + PATIENCE, 0

    def report(done: int, total: int) -> None:
        nonlocal due, written
        now = monotonic()
        if now < due or done == total:
            return
        due = now + AGAIN[on_terminal]
        line = f"{what} {done:,} of {total:,}"
        sys.stderr.write(f"\r{line:<{written}}" if on_terminal else f"{line}\n")
        sys.stderr.flush()
        written = len(line)

    try:
        yield report
    finally:
        if on_terminal and written:
            sys.stderr.write(f"\r{' ' * written}\r")
            sys.stderr.flush()
