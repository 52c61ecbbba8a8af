"""Two models' parameters as a table."""

from __future__ import annotations

from ..comparison.weights import WeightRow, WeightsComparison
from .comparison import error, number
from .layout import Column, print_table
from .screen import Screen, escape, labelled

FEW = 40  # rows that are all shown without --verbose


def print_weights(result: WeightsComparison, screen: Screen, *, verbose: bool = False) -> None:
    """The verdict, then a row per parameter: those that differ first to be seen."""
    allowed = (
        f"{result.factor:g} times what the rounding of the stored types explains"
        if result.rtol is None
        else f"relative L2 of {result.rtol:g}"
    )
    labelled([("A", result.a), ("B", result.b), ("allowed", allowed)], screen)
    failed = [row for row in result.rows if not row.holds]
    if result.same:
        screen.say(f"\n[bold green]The same: all {len(result.rows):,} parameters agree[/bold green]")
    else:
        lacking = len(result.only_a) + len(result.only_b)
        lack = f", {lacking:,} more {'is' if lacking == 1 else 'are'} on one side alone" if lacking else ""
        screen.say(f"\n[bold red]{len(failed):,} of {len(result.rows):,} parameters differ{lack}[/bold red]")
        for row in failed[:FEW]:
            screen.say(escape(f"  {row.name}: {_what(row)}"))
    rows = result.rows if verbose or len(result.rows) <= FEW else _shown(result)
    screen.say()
    print_table(_columns(screen), rows, screen)
    left_out = len(result.rows) - len(rows)
    if left_out:
        screen.say(f"[dim]{left_out:,} more that agree better: --verbose shows all[/dim]")
    for letter, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            screen.say(escape(f"only in {letter}: {', '.join(names)}"))


def _what(row: WeightRow) -> str:
    """In what a row differs: what is known of the cause, else where it differs most."""
    if row.shape_a != row.shape_b:
        shapes = f"shape {list(row.shape_a)} in A, {list(row.shape_b)} in B"
        return f"{shapes}; {row.cause}" if row.cause else shapes
    if row.cause or row.index is None:
        return row.cause or "differs"
    a, b = number(row.value_a or 0.0), number(row.value_b or 0.0)
    return f"element {list(row.index)}: A has {a}, B has {b}"


def _shown(result: WeightsComparison) -> list[WeightRow]:
    """Those that differ, and of the others those nearest to what is allowed, in order of use."""
    ranked = sorted(result.rows, key=lambda row: (row.holds, -_excess(row)))
    chosen = {row.name for row in ranked[:FEW]}
    return [row for row in result.rows if row.name in chosen]


def _excess(row: WeightRow) -> float:
    return (row.relative_l2 or 0.0) / (row.expected or 1.0)


def _columns(screen: Screen) -> list[Column]:
    columns = [
        Column("parameter", lambda r: r.name, whole=True, style=_alarm),
        Column("A", lambda r: r.type_a),
        Column("B", lambda r: r.type_b),
        Column("relative L2", _relative, right=True, style=_alarm),
        Column("expected", lambda r: "exact" if r.expected is None else error(r.expected), right=True),
        Column("max |a-b|", lambda r: "–" if r.max_abs is None else f"{r.max_abs:.2g}", right=True),
        Column("at", lambda r: str(list(r.index)) if r.index is not None and r.max_abs else "–"),
        Column("", lambda r: "" if r.holds else "NO", style=_alarm),
    ]
    if screen.width >= 100:
        columns.insert(1, Column("shape", lambda r: str(list(r.shape_a))))
    return columns


def _relative(row: WeightRow) -> str:
    return "–" if row.relative_l2 is None else error(row.relative_l2)


def _alarm(row: WeightRow) -> str:
    return "" if row.holds else "red"
