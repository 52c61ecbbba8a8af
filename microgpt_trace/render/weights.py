"""Two models' parameters as a table."""

from __future__ import annotations

from ..comparison.quantisation_error import BLOCK
from ..comparison.weights import WeightRow, WeightsComparison
from .comparison import both, error
from .layout import Column, print_table
from .screen import Screen, escape, labelled

FEW = 40  # rows that are all shown without --verbose


def print_weights(result: WeightsComparison, screen: Screen, *, verbose: bool = False) -> None:
    """The verdict, then a row per parameter: those that differ first to be seen."""
    allowed = (
        f"{result.factor:g} times what the rounding of the stored types leaves, more in {BLOCK} neighbours"
        if result.rtol is None
        else f"relative L2 of {result.rtol:g}"
    )
    labelled([("A", result.a), ("B", result.b), ("allowed", allowed)], screen)
    if result.agree:
        _print_agreeing(result, screen)
    else:
        _print_differing(result, screen)
    nowhere = [row for row in result.rows if row.nowhere]
    for row in nowhere[:FEW]:
        alike = f"{row.nowhere:,} of {row.count:,} elements are NaN or infinite on both sides"
        screen.tell(f"{row.name}: {alike}")
    rows = result.rows if verbose or len(result.rows) <= FEW else _shown(result)
    screen.say()
    print_table(_columns(screen), rows, screen)
    left_out = len(result.rows) - len(rows)
    if left_out:
        screen.say(f"[dim]{left_out:,} more that agree no worse: --verbose shows all[/dim]")
    for letter, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            screen.say(escape(f"only in {letter}: {', '.join(names)}"))


def _print_agreeing(result: WeightsComparison, screen: Screen) -> None:
    count = len(result.rows)
    if result.same:
        verdict = f"The same, number for number: all {count:,} parameters"
    elif all(row.equal for row in result.rows):
        verdict = f"The {count:,} of {result.of:,} parameters named are equal, number for number"
    else:
        which = f"{count:,} parameters" if count == result.of else f"the {count:,} of {result.of:,} named"
        equal = sum(row.equal for row in result.rows)
        verdict = f"None of {which} differs by more than is allowed; {equal:,} are equal, number for number"
    screen.say(f"\n[bold green]{verdict}[/bold green]")
    _print_unequal(result, screen)


def _print_differing(result: WeightsComparison, screen: Screen) -> None:
    failed = [row for row in result.rows if not row.holds]
    lacking = len(result.only_a) + len(result.only_b)
    lack = f", {lacking:,} more {'is' if lacking == 1 else 'are'} on one side alone" if lacking else ""
    screen.say(f"\n[bold red]{len(failed):,} of {len(result.rows):,} parameters differ{lack}[/bold red]")
    for row in failed[:FEW]:
        screen.say(escape(f"  {row.name}: {_what(row)}"))
    if len(failed) < len(result.rows):
        equal = sum(row.equal for row in result.rows)
        screen.tell(f"of the others {equal:,} are equal, number for number")
        _print_unequal(result, screen)


def _print_unequal(result: WeightsComparison, screen: Screen) -> None:
    """What is told of parameters that are not equal and yet hold, by the types of both sides."""
    by_types: dict[tuple[str, str], list[WeightRow]] = {}
    for row in result.rows:
        if row.holds and not row.equal:
            by_types.setdefault((row.type_a, row.type_b), []).append(row)
    for (a, b), rows in by_types.items():
        types = f"{a} on both sides" if a == b else f"{a} in A, {b} in B"
        which = rows[0].name if len(rows) == 1 else f"{len(rows):,} parameters"
        unequal, count = sum(row.unequal or 0 for row in rows), sum(row.count for row in rows)
        farthest = max(rows, key=lambda row: row.relative_l2 or 0.0)
        told = f"relative L2 {error(farthest.relative_l2 or 0.0)}{' at most' * (len(rows) > 1)}"
        if farthest.expected is not None:
            told += f", where rounding leaves {error(farthest.expected)}"
        screen.tell(f"{which}, {types}: {unequal:,} of {count:,} elements unequal, {told}")


def _what(row: WeightRow) -> str:
    """In what a row differs: what is known of the cause, else where it differs most."""
    if row.shape_a != row.shape_b:
        shapes = f"shape {list(row.shape_a)} in A, {list(row.shape_b)} in B"
        return f"{shapes}; {row.cause}" if row.cause else shapes
    if row.cause or row.index is None:
        return row.cause or "differs"
    a, b = both(row.value_a or 0.0, row.value_b or 0.0)
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
