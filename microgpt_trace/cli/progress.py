"""How far a long computation has come, on stderr: one line that rewrites itself. Nothing is said where stderr
is no terminal, nor of what takes less than a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from ..signals import tidied

PATIENCE = 1.0  # seconds before anything is said
AGAIN = 0.1  # seconds between two reports


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be told how many are done of how many."""
    with rewritten_line() as write:

        def report(done: int, total: int) -> None:
            if done < total:
                write(lambda: f"{what} {done:,} of {total:,}")

        yield report


@contextmanager
def rated_progress(
    what: str, count: Callable[[], int | None]
) -> Iterator[tuple[Callable[[int, int], None], Callable[[int], None]]]:
    """Gives a function to be told how many are done, and how many of them now, and one to be told how many
    bytes were read. The line says how many come a second, and how long the rest takes or, where nobody knows
    how many there are, how much was read. How many there are is asked once, when something is said."""
    began, known = monotonic(), list[int | None]()
    done = now = read = 0

    def line() -> str:
        if not known:
            known.append(count())
        rate, total = now / max(monotonic() - began, 1e-9), known[0]
        if total is None:
            return f"{what} {done:,}, {rate:,.1f} a second, {read / 1e6:,.0f} MB read"
        if done >= total:
            return ""
        left = timedelta(seconds=round(max(total - done, 0) / rate)) if rate else "?"
        return f"{what} {done:,} of {total:,}, {rate:,.1f} a second, {left} left"

    with rewritten_line() as write:

        def report(of_all: int, of_this_run: int) -> None:
            nonlocal done, now
            done, now = of_all, of_this_run
            write(line)

        def reading(size: int) -> None:
            nonlocal read
            read = size
            write(line)

        yield report, reading


@contextmanager
def rewritten_line() -> Iterator[Callable[[Callable[[], str]], None]]:
    """Gives a function that writes a line, which it asks for, where it is time for one."""
    on_terminal, due, written = sys.stderr.isatty(), monotonic() + PATIENCE, 0

    def write(line: Callable[[], str]) -> None:
        nonlocal due, written
        if not on_terminal or monotonic() < due or not (text := line()):
            return
        due = monotonic() + AGAIN
        sys.stderr.write(f"\r{text:<{written}}")
        sys.stderr.flush()
        written = len(text)

    def erase() -> None:
        if written:
            sys.stderr.write(f"\r{' ' * written}\r")
            sys.stderr.flush()

    with tidied(erase):
        yield write
