"""Shows the progress of long computations on stderr, on one line that is rewritten. Prints nothing if stderr
is not a terminal, or in the first second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from time import monotonic

from ..signals import tidied

PATIENCE = 1.0  # seconds before the line appears
AGAIN = 0.1  # seconds between two updates of the line


@contextmanager
def progress(noun: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function `report(done, total)` that shows the number of completed steps and the total."""
    with rewritten_line() as write:

        def report(done: int, total: int) -> None:
            if done < total:
                write(lambda: f"{noun} {done:,} of {total:,}")

        yield report


@contextmanager
def rated_progress(
    noun: str, count: Callable[[], int | None]
) -> Iterator[tuple[Callable[[int, int], None], Callable[[int], None]]]:
    """Yield two functions. `report(of_all, of_this_run)` takes the number of steps that all runs completed,
    and the number of steps of this run. `reading(size)` takes the number of bytes read.

    `count` is called once and returns the total number of steps or None. The line shows the steps per second
    and the time left. If the total is None, the line shows the number of bytes read instead of the time left.
    """
    start, total_of = monotonic(), cache(count)
    done = now = read = 0

    def line() -> str:
        total = total_of()
        rate = now / max(monotonic() - start, 1e-9)
        if total is None:
            return f"{noun} {done:,}, {rate:,.1f} per second, {read / 1e6:,.0f} MB read"
        if done >= total:
            return ""
        left = timedelta(seconds=round((total - done) / rate)) if rate else "?"
        return f"{noun} {done:,} of {total:,}, {rate:,.1f} per second, {left} left"

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
    """Yield `write(line)`, which prints the text that `line()` returns, at most 10 times per second."""
    on_terminal, due, width = sys.stderr.isatty(), monotonic() + PATIENCE, 0

    def write(line: Callable[[], str]) -> None:
        nonlocal due, width
        if not on_terminal or monotonic() < due or not (text := line()):
            return
        due = monotonic() + AGAIN
        sys.stderr.write(f"\r{text:<{width}}")
        sys.stderr.flush()
        width = len(text)

    def erase() -> None:
        if width:
            sys.stderr.write(f"\r{' ' * width}\r")
            sys.stderr.flush()

    with tidied(erase):
        yield write
