"""How far a training run has come: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .screen import Screen

REFRESH = 0.2  # seconds between two looks at the terminal
SMOOTHED = 100  # losses whose mean is shown


class Report(Protocol):
    """Told of the run now and then, with the losses so far."""

    def __call__(self, step: int, lr: float, losses: Sequence[float]) -> None: ...


def look_every(steps: int) -> int:
    """How many steps to take between two reports: looking at each would cost 1 us a step."""
    return max(1, min(25, steps // 10))


@contextmanager
def progress(total: int, start: int, screen: Screen) -> Iterator[Report]:
    """Report on a terminal by a bar, elsewhere not at all."""
    if not screen.is_terminal:
        yield lambda step, lr, losses: None
        return
    bar = Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(compact=True),
        console=screen,
        auto_refresh=False,
    )
    task = bar.add_task("", total=total, completed=start, told="")  # nothing is known before the first step
    began = shown = monotonic()

    def report(step: int, lr: float, losses: Sequence[float]) -> None:
        nonlocal shown
        now = monotonic()
        if now - shown < REFRESH and step != total:
            return
        shown = now
        told = _told(losses, lr, (step - start) / max(now - began, 1e-9))
        bar.update(task, completed=step, told=told, refresh=True)

    with bar:
        yield report


def _told(losses: Sequence[float], lr: float, speed: float) -> str:
    """The mean of the last losses, and how fast it goes on."""
    recent = losses[-SMOOTHED:]
    return f"loss {sum(recent) / len(recent):.3f}  lr {lr:.4g}  {speed:,.0f} steps/s"


def stderr_screen() -> Screen:
    """Where progress goes."""
    return Screen(file=sys.stderr)
