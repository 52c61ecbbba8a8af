"""What a training run looks like: progress while it runs, a report when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..text.printable import shown_token
from .curves import loss_section
from .screen import Screen
from .sections import Bar, Block, Column, Copyable, Labelled, Listing, Section, Table

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


def summary_sections(summary: Summary) -> list[Section]:
    """What a run came to: its facts, losses, predictions of the watched name, samples, where it is kept."""
    sections = [Section([Labelled(summary.facts)])]
    if len(summary.losses) > 1:
        sections.append(loss_section(summary.losses, 1, len(summary.losses)))
    losses = [("train", summary.train_loss), ("held out", summary.held_out_loss)]
    changes = Labelled([(label, _change(*pair)) for label, pair in losses])
    sections.append(Section([changes], "Mean loss per name"))
    columns = [
        Column("", lambda row: f"{row[0]:>4}"),
        Column("", lambda row: f"{row[1]:.3f} → {row[2]:.3f}"),
        Column("", lambda row: Bar(row[2], 20), bar=True, style=lambda row: "cyan"),
    ]
    targets = map(shown_token, summary.targets)
    rows = list(zip(targets, summary.p_before, summary.p_after, strict=True))
    sections.append(Section([Table(columns, rows)], f'P(target) of "{summary.watched}"'))
    new = sum(not known for _, known in summary.samples)
    empty = '""'
    names = [
        (name or empty, "") if known else (f"{name or empty}*", "green") for name, known in summary.samples
    ]
    aside = f"{new} of {len(summary.samples)} are not in the data (*)"
    sections.append(Section([Listing(names)], "Samples", aside))
    closing: list[Block] = [Labelled(summary.closing), Copyable("trace it", summary.trace_it)]
    return [*sections, Section(closing)]


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "no name is held out"
    return f"{before:.4f} → {after:.4f}"


def stderr_screen() -> Screen:
    """Where progress goes."""
    return Screen(file=sys.stderr)
