"""What a training run looks like: progress while it runs, a report when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, nan
from time import monotonic
from typing import Protocol

from rich.columns import Columns
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..text.printable import shown_token
from .screen import Screen, escape, labelled

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
    """Report on a terminal by a bar, elsewhere by a plain line each tenth of the run."""
    if not screen.is_terminal:
        yield _plain_lines(total, start, screen)
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


def _plain_lines(total: int, start: int, screen: Screen) -> Report:
    every = max((total - start) // 10, 1)
    due = start + every
    began = monotonic()

    def report(step: int, lr: float, losses: Sequence[float]) -> None:
        nonlocal due
        if step < due and step != total:
            return
        due += every
        speed = (step - start) / max(monotonic() - began, 1e-9)
        screen.say(f"step {step:,}/{total:,}  {_told(losses, lr, speed)}")

    return report


def _told(losses: Sequence[float], lr: float, speed: float) -> str:
    """The mean of the last losses, and how fast it goes on."""
    recent = losses[-SMOOTHED:]
    return f"loss {sum(recent) / len(recent):.3f}  lr {lr:.4g}  {speed:,.0f} steps/s"


@dataclass(frozen=True)
class Summary:
    """The outcome of a run, as the report needs it."""

    facts: Sequence[tuple[str, str]]
    losses: Sequence[float]  # one a step
    train_loss: tuple[float | None, float | None]  # before, after
    held_out_loss: tuple[float | None, float | None]
    watched: str
    targets: Sequence[str]
    p_before: Sequence[float]
    p_after: Sequence[float]
    samples: Sequence[tuple[str, bool]]  # a name, and whether the data has it
    closing: Sequence[tuple[str, str]]
    trace_it: str  # a command line


def print_summary(summary: Summary, screen: Screen) -> None:
    labelled(summary.facts, screen)
    if len(summary.losses) > 1:
        screen.say("\n[bold cyan]Loss[/bold cyan] [dim]per step, averaged over each column[/dim]")
        for line in loss_curve(summary.losses, screen):
            screen.print(Text(line, no_wrap=True))
    screen.say("\n[bold cyan]Mean loss per name[/bold cyan]")
    rows = [("train", summary.train_loss), ("held out", summary.held_out_loss)]
    labelled([(label, _change(*pair)) for label, pair in rows], screen)
    screen.say(f'\n[bold cyan]P(target) of "{escape(summary.watched)}"[/bold cyan]')
    targets = map(shown_token, summary.targets)
    for target, before, after in zip(targets, summary.p_before, summary.p_after, strict=True):
        screen.say(f"{escape(target):>4}  {before:.3f} → {after:.3f}  [cyan]{screen.bar(after, 20)}[/cyan]")
    new = sum(not known for _, known in summary.samples)
    screen.say(
        f"\n[bold cyan]Samples[/bold cyan] [dim]{new} of {len(summary.samples)} are not in the data (*)[/dim]"
    )
    empty = '""'
    names = [
        Text(name or empty) if known else Text(f"{name or empty}*", "green")
        for name, known in summary.samples
    ]
    screen.print(Columns(names, equal=True, column_first=False, padding=(0, 2)))
    screen.say()
    labelled(summary.closing, screen)
    # Not wrapped: it is there to be copied.
    command = Text.assemble(("trace it    ", "dim"), screen.words(summary.trace_it))
    screen.print(command, soft_wrap=True)


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "no name is held out"
    return f"{before:.4f} → {after:.4f}"


def loss_curve(losses: Sequence[float], screen: Screen, height: int = 8) -> list[str]:
    """The curve of the loss as dots, one column for a run of steps, with the scale beside it; "?" where
    a loss is not finite."""
    width = max(min(screen.width - 10, len(losses), 100), 1)
    edges = [round(i * len(losses) / width) for i in range(width + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]
    finite = [mean for mean in means if isfinite(mean)]
    low, high = min(finite, default=nan), max(finite, default=nan)
    span = high / 2 - low / 2 or 1  # halves, for the whole may be too large for a float
    levels = [round((m / 2 - low / 2) / span * (height - 1)) if isfinite(m) else -1 for m in means]
    dot, side = ("*", "|") if screen.ascii_only else ("•", "│")
    lines = []
    for level in reversed(range(height)):
        bound = {0: low, height - 1: high}.get(level, nan)
        scale = f"{bound:6.2f}" if abs(bound) < 1e5 else f"{bound:6.0e}" if isfinite(bound) else " " * 6
        marks = (dot if at == level else "?" if at < 0 and level == 0 else " " for at in levels)
        lines.append(f"{scale} {side}" + "".join(marks))
    first, last = "1", f"{len(losses):,}"
    lines.append(" " * 8 + first + last.rjust(max(len(means) - len(first), len(last) + 1)))
    return lines


def stderr_screen() -> Screen:
    """Where progress goes."""
    return Screen(file=sys.stderr)
