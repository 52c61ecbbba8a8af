"""The table of `gradcheck`."""

from __future__ import annotations

from collections.abc import Sequence

from ..text.wording import counted
from ..tracing.gradient_check import GradientCheck
from .layout import Column, print_table
from .screen import Screen, escape, ratio


def _verdict(row: GradientCheck) -> str:
    return "NO" if not row.holds else "not judged" if row.kinks + row.unsettled == row.count else "ok"


def print_gradcheck(rows: Sequence[GradientCheck], text: str, screen: Screen) -> None:
    """A row per parameter and activation, then the verdict."""
    columns = [
        Column("tensor", lambda r: r.name, whole=True),
        Column("elements", lambda r: f"{r.count:,}", right=True),
        Column("worst at", lambda r: ",".join(map(str, r.worst_index))),
        Column("analytic", lambda r: f"{r.analytic:.8f}", right=True),
        Column("numeric", lambda r: f"{r.numeric:.8f}", right=True),
        Column("error", lambda r: ratio(r.relative_error), right=True),
        Column("", _verdict, style=lambda r: "" if r.holds else "red"),
    ]
    screen.say(
        f'[bold]Gradients of the loss of "{escape(text)}" against central differences in float64[/bold]'
    )
    print_table(columns, rows, screen)
    screen.tell(
        "parameters as training and as a trace work them out, activations as a trace shows them",
        "dim",
        indent=0,
    )
    failed = [row.name for row in rows if not row.holds]
    kinks, unsettled = (sum(getattr(row, what) for row in rows) for what in ("kinks", "unsettled"))
    if kinks:
        screen.say(f"{counted(kinks, 'element')} not judged: a ReLU switches within the step")
    if unsettled:
        screen.say(
            f"{counted(unsettled, 'element')} not judged: the differences do not settle, or a P is next to 0"
        )
    hooked = [row for row in rows if row.hooked is not None]
    if hooked:
        worst = max(hooked, key=lambda row: row.hooked or 0.0)
        screen.say(
            f"with hooks that give every value another slope: {counted(len(hooked), 'parameter')} along one "
            f"direction, at worst off by {worst.hooked:.1e} ({worst.name})"
        )
    total = sum(row.count for row in rows)
    if failed:
        disagree = f"{counted(len(failed), 'tensor')} disagree{'s' * (len(failed) == 1)}"
        screen.say(f"[bold red]{disagree}: {', '.join(failed)}[/bold red]")
    else:
        error = max(row.relative_error for row in rows)
        screen.say(
            f"[green]all {total - kinks - unsettled:,} gradients agree[/green], at worst {error:.1e} of the "
            "tensor's largest gradient (allowed 1e-06)"
        )
