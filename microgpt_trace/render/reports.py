"""The table of `gradcheck`."""

from __future__ import annotations

from collections.abc import Sequence

from ..gradient_check import GradientCheck
from .layout import Column, print_table
from .screen import Screen, escape, ratio


def _verdict(row: GradientCheck) -> str:
    return "NO" if not row.holds else "not judged" if row.kinks == row.count else "ok"


def print_gradcheck(rows: Sequence[GradientCheck], text: str, screen: Screen) -> None:
    """A row per parameter, then the verdict."""
    columns = [
        Column("parameter", lambda r: r.name),
        Column("elements", lambda r: f"{r.count:,}", right=True),
        Column("worst at", lambda r: str(list(r.worst_index))),
        Column("analytic", lambda r: f"{r.analytic:.8f}", right=True),
        Column("numeric", lambda r: f"{r.numeric:.8f}", right=True),
        Column("error", lambda r: ratio(r.relative_error), right=True),
        Column("", _verdict, style=lambda r: "" if r.holds else "red"),
    ]
    screen.say(
        f'[bold]Gradients of the loss of "{escape(text)}" against central differences in float64[/bold]'
    )
    print_table(columns, rows, screen)
    failed = [row.name for row in rows if not row.holds]
    kinks = sum(row.kinks for row in rows)
    if kinks:
        screen.say(f"{kinks} elements not judged: a ReLU switches within the step")
    total = sum(row.count for row in rows)
    if failed:
        screen.say(f"[bold red]{len(failed)} parameters disagree: {', '.join(failed)}[/bold red]")
    else:
        worst = max(row.relative_error for row in rows)
        screen.say(
            f"[green]all {total - kinks:,} gradients agree[/green], at worst {worst:.1e} of the "
            "parameter's largest gradient (allowed 1e-06)"
        )
