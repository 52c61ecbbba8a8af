"""What `gradcheck` found, as sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ...text.wording import counted
from ...tracing.gradient_check import GradientCheck
from ..numbers import exponent, figure, ratio
from ..sections import Column, Section, Table, Words, alarm, fields, name_of, words


def _verdict(row: GradientCheck) -> str:
    return "NO" if not row.holds else "not judged" if row.kinks + row.unsettled == row.count else "ok"


def gradcheck_sections(rows: Sequence[GradientCheck], text: str) -> list[Section]:
    """A row per parameter and activation, then the verdict."""
    head = f'Gradients of the loss of "{text}" against central differences in float64'
    ways = "parameters as training and as a trace work them out, activations as a trace shows them"
    return [Section([words(head, "bold"), _table(rows), words(ways, "dim"), *_verdicts(rows)])]


def gradient_sections(row: GradientCheck) -> list[Section]:
    """One of these rows by itself."""
    return [Section([_table([row])])]


def _table(rows: Sequence[GradientCheck]) -> Table:
    columns = [
        Column("tensor", name_of, whole=True),
        *fields("{:,}".format, {"elements": "count"}),
        Column("worst at", lambda r: ",".join(map(str, r.worst_index))),
        *fields(partial(figure, digits=8), {"analytic": "analytic", "numeric": "numeric"}),
        *fields(ratio, {"error": "relative_error"}),
        Column("", _verdict, style=alarm),
    ]
    return Table(columns, rows, about=name_of)


def _verdicts(rows: Sequence[GradientCheck]) -> Iterator[Words]:
    kinks, unsettled = (sum(getattr(row, what) for row in rows) for what in ("kinks", "unsettled"))
    if kinks:
        yield words(f"{counted(kinks, 'element')} not judged: a ReLU switches within the step")
    if unsettled:
        why = "the differences do not settle, or a P is next to 0"
        yield words(f"{counted(unsettled, 'element')} not judged: {why}")
    hooked = [row for row in rows if row.hooked is not None]
    if hooked:
        worst = max(hooked, key=lambda row: row.hooked or 0.0)
        yield words(
            f"with hooks that give every value another slope: {counted(len(hooked), 'parameter')} along one "
            f"direction, at worst off by {exponent(worst.hooked or 0.0)} ({worst.name})"
        )
    failed = [row.name for row in rows if not row.holds]
    if failed:
        disagree = f"{counted(len(failed), 'tensor')} disagree{'s' * (len(failed) == 1)}"
        yield words(f"{disagree}: {', '.join(failed)}", "bold red")
        return
    total, error = sum(row.count for row in rows), max(row.relative_error for row in rows)
    agree = f"all {total - kinks - unsettled:,} gradients agree"
    at_worst = f", at worst {exponent(error)} of the tensor's largest gradient (allowed 1e-06)"
    yield Words(((agree, "green"), (at_worst, "")))
