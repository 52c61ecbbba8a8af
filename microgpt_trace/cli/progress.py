"""How far a long computation has come, on stderr: one line that rewrites itself on a terminal, else a
line now and then. Nothing is said of what takes less than a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from ..signals import tidied

PATIENCE = 1.0  # seconds before anything is said
AGAIN = {True: 0.1, False: 10.0}  # seconds between two reports, on a terminal and elsewhere


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be told how many are done of how many."""
    with _rewritten_line() as write:

        def report(done: int, total: int) -> None:
            if done < total:
                write(lambda: f"{what} {done:,} of {total:,}")

        yield report


@contextmanager
def rated_progress(what: str, count: Callable[[], int | None]) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be told how many are done, and how many of them now: it says too how many come a
    second and how long the rest takes. How many there are is asked once, when something is said."""
    began, known = monotonic(), list[int | None]()

    def line(done: int, now: int) -> str:
        if not known:
            known.append(count())
        rate, total = now / max(monotonic() - began, 1e-9), known[0]
        if total is None:
            return f"{what} {done:,}, {rate:,.1f} a second"
        if done >= total:
            return ""
        left = timedelta(seconds=round(max(total - done, 0) / rate)) if rate else "?"
        return f"{what} {done:,} of {total:,}, {rate:,.1f} a second, {left} left"

    with _rewritten_line() as write:
        yield lambda done, now: write(lambda: line(done, now))


@contextmanager
def _rewritten_line() -> Iterator[Callable[[Callable[[], str]], None]]:
    """Gives a function that writes a line, which it asks for, where it is time for one."""
    on_terminal, due, written = sys.stderr.isatty(), monotonic() + PATIENCE, 0

    def write(line: Callable[[], str]) -> None:
        nonlocal due, written
        if monotonic() < due:
            return
        if not (text := line()):
            return
        due = monotonic() + AGAIN[on_terminal]
        sys.stderr.write(f"\r{text:<{written}}" if on_terminal else f"{text}\n")
        sys.stderr.flush()
        written = len(text)

    def erase() -> None:
        if on_terminal and written:
            sys.stderr.write(f"\r{' ' * written}\r")
            sys.stderr.flush()

    with tidied(erase):
        yield write
