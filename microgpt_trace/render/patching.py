"""Patching as shaded tables: how much of the clean run each site brings back, layer by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text

from ..architecture.catalogue import leaving_kinds
from ..arrays.logit_difference import LogitDifference
from ..patching.results import (
    PAIRS_SCHEMA,
    PATCH_SCHEMA,
    MeanPatched,
    PairsResult,
    Patched,
    PatchedPair,
    PatchResult,
    PatchTable,
    Spot,
    moves,
    parts_of,
    runs_above,
    tables_of,
)
from ..text.printable import shown_token
from ..text.wording import counted
from .document import plain
from .grid import Grid, print_grid
from .layout import print_table
from .screen import Screen, labelled, probability, shorten
from .sections import Column

HALF = 0.5
FEW, LEAST = 3, 0.005  # sites that are named as the largest, and from where on
MAX_PAIRS = 20  # that are listed
MAX_TOKENS = 60  # of a text
RESTORED = (
    "restored: how far a run's difference has come from the corrupted run's (0) to the clean run's (1); it "
    "may go beyond"
)

Value = Callable[[Any], float | None]
Heads = list[tuple[str, Callable[[int], str]]]  # lines over columns: what one tells, and its texts


def print_patch(result: PatchResult, screen: Screen) -> None:
    """Both runs, a table for each kind of site, what stands out, and the check."""
    _print_runs(result, screen)
    heads = _heads_of([result])
    _print_tables(result.cells, "Restored by the clean value", _restored, heads, screen)
    _print_parts(result.cells, screen)
    _print_checks([result], screen)


def print_pairs(result: PairsResult, screen: Screen) -> None:
    """The pairs, then mean and spread of every site."""
    _print_list_of_pairs(result, screen)
    heads, count = _heads_of(result.pairs), len(result.pairs)
    _print_tables(result.cells, f"Restored, mean of {counted(count, 'pair')}", _mean, heads, screen)
    if count > 1:
        _print_tables(result.cells, "Spread over the pairs (std)", _spread, heads, screen, told=False)
    _print_mean_parts(result.cells, screen)
    _print_checks(result.pairs, screen)


def patch_document(result: PatchResult) -> dict[str, Any]:
    """The result as plain data."""
    return {"schema": PATCH_SCHEMA, **plain(result)}


def pairs_document(result: PairsResult) -> dict[str, Any]:
    """The result over several pairs as plain data."""
    return {"schema": PAIRS_SCHEMA, **plain(result)}


def _restored(cell: Patched) -> float | None:
    return cell.restored


def _mean(cell: MeanPatched) -> float | None:
    return cell.mean


def _spread(cell: MeanPatched) -> float | None:
    return cell.spread


def _print_runs(result: PatchResult, screen: Screen) -> None:
    contrast = result.contrast
    runs = (("clean", result.clean), ("corrupted", result.corrupt))
    pairs = [("model", result.model)]
    for which, run in runs:
        more = " …" * (len(run.labels) > MAX_TOKENS)
        pairs.append((which, " ".join(map(shown_token, run.labels[:MAX_TOKENS])) + more))
        pairs += [("", note) for note in run.notes]
    pairs.append(
        ("judged", f"{_question(contrast)} after position {contrast.position} {shown_token(contrast.seen)}")
    )
    labelled([(label, text) for label, text in pairs], screen)
    screen.say()
    target, against = (shorten(shown_token(t)) for t in (contrast.target_label, contrast.against_label))
    columns = [
        Column("run", lambda row: row[0]),
        Column("difference", lambda row: f"{row[1].difference:.2f}", right=True),
        Column("restored", lambda row: "1" if row[1] is result.clean else "0", right=True),
        Column(f"P({target})", lambda row: probability(row[1].p_target), right=True),
        Column(f"P({against})", lambda row: probability(row[1].p_against), right=True),
    ]
    print_table(columns, runs, screen)
    screen.tell(RESTORED, "dim", indent=0)


def _question(contrast: LogitDifference) -> str:
    return f"logit({shown_token(contrast.target_label)}) - logit({shown_token(contrast.against_label)})"


def _print_list_of_pairs(result: PairsResult, screen: Screen) -> None:
    labelled([("model", result.model), ("pairs", f"{len(result.pairs):,}")], screen)
    columns = [
        Column("clean", lambda p: p.clean.text, wrap=True),
        Column("corrupted", lambda p: p.corrupt.text, wrap=True),
        Column("target", lambda p: shown_token(p.contrast.target_label)),
        Column("against", lambda p: shown_token(p.contrast.against_label)),
        Column("clean", lambda p: f"{p.clean.difference:.2f}", right=True),
        Column("corrupted", lambda p: f"{p.corrupt.difference:.2f}", right=True),
    ]
    screen.say()
    print_table(columns, result.pairs[:MAX_PAIRS], screen)
    left = len(result.pairs) - MAX_PAIRS
    more = f"; {left:,} more pairs, --json has them all" if left > 0 else ""
    said = f"on the right: each run's difference, logit(target) - logit(against){more}"
    screen.tell(f"{said}; {RESTORED}", "dim", indent=0)


def _heads_of(pairs: Sequence[PatchedPair]) -> Heads:
    """The lines over the columns of positions: the clean tokens, and the corrupted ones that differ;
    tokens that not all the pairs have are left out."""
    clean, corrupt = ([getattr(p, run).labels for p in pairs] for run in ("clean", "corrupt"))

    def common(labels: Sequence[Sequence[str]], position: int) -> str:
        own = {row[position] for row in labels if position < len(row)}
        return shorten(shown_token(own.pop())) if len(own) == 1 else ""

    def corrupted(position: int) -> str:
        said = common(corrupt, position)
        return said if said != common(clean, position) else ""

    return [("clean", lambda position: common(clean, position)), ("corrupted", corrupted)]


def _print_tables(
    cells: Sequence[Any], title: str, value: Value, heads: Heads,
    screen: Screen, told: bool = True,
) -> None:  # fmt: skip
    for table in tables_of(cells):
        where = "at one position" if table.across == "position" else "of one head, at all positions"
        screen.print(
            Text.assemble(("\n" + screen.words(title), "bold cyan"), (f"  {table.title} {where}", "dim"))
        )
        by_position = table.across == "position"
        lines: Heads = [(table.across, str), *(heads if by_position else [])]
        rows = [(label, [None if cell is None else value(cell) for cell in row]) for label, row in table.rows]
        print_grid(Grid(lines, table.columns, rows), screen)
        if told:
            _tell(table, value, heads, screen)


def _tell(table: PatchTable[Any], value: Value, heads: Heads, screen: Screen) -> None:
    """What stands out: where the stream restores more than half and which layer moves that to another
    position, or the largest values."""
    runs = list(runs_above(table, HALF, value)) if table.kind in leaving_kinds() else []
    for column, of_column in runs:
        rows = ", ".join(first if first == last else f"{first} to {last}" for first, last in of_column)
        tokens = "/".join(text for _, token in heads if (text := token(column)))
        place = f"position {column} {tokens}".rstrip()
        screen.tell(f"{place} restores more than half: {rows}", indent=0)
    for here, there, before, after in moves(table, HALF, value) if runs else ():
        moved = f"between {before} and {after} it moves from position {here} to {there}"
        screen.tell(moved + _heads_hint(before, after), indent=0)
    if not runs:
        screen.tell(_largest([cell for _, row in table.rows for cell in row if cell], value), indent=0)


def _heads_hint(before: str, after: str) -> str:
    """Which sites tell more, where one layer lies between two rows: only its heads move anything."""
    layer = after.removeprefix("layer ")
    next_to = layer == "0" or (layer.isdigit() and before == f"layer {int(layer) - 1}")
    return f"; --sites 'layer{layer}.attn.head*' tells by which heads" if next_to else ""


def _largest(cells: Sequence[Spot], value: Value) -> str:
    known = [(value(cell), cell) for cell in cells]
    finite = [(number, cell) for number, cell in known if number is not None and math.isfinite(number)]
    finite.sort(key=lambda pair: -abs(pair[0]))
    shown = [pair for pair in finite[:FEW] if abs(pair[0]) >= LEAST] or finite[:1]
    said = ", ".join(f"{cell.site} {number:.2f}" for number, cell in shown)
    return f"largest: {said}" if said else "no value is finite"


def _print_parts(cells: Sequence[Patched], screen: Screen) -> None:
    parts = parts_of(cells)
    if not parts:
        return
    screen.say("\n[bold cyan]Restored by the clean value of a part[/bold cyan]")
    columns = [
        Column("site", lambda c: c.site, whole=True),
        Column("restored", lambda c: f"{c.restored:.4f}", right=True),
        Column("", lambda c: screen.bar(c.restored, 20), bar=True, style=lambda c: "cyan"),
        Column("difference", lambda c: f"{c.difference:.4f}", right=True),
    ]
    print_table(columns, parts, screen)


def _print_mean_parts(cells: Sequence[MeanPatched], screen: Screen) -> None:
    parts = parts_of(cells)
    if not parts:
        return
    screen.say("\n[bold cyan]Restored by the clean value of a part[/bold cyan]")
    columns = [
        Column("site", lambda c: c.site, whole=True),
        Column("mean", lambda c: _number(c.mean), right=True),
        Column("std", lambda c: _number(c.spread), right=True),
        Column("", lambda c: screen.bar(c.mean or 0.0, 20), bar=True, style=lambda c: "cyan"),
        Column("pairs", lambda c: f"{c.count:,}", right=True),
    ]
    print_table(columns, parts, screen)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _print_checks(pairs: Sequence[PatchedPair], screen: Screen) -> None:
    """The one line of the built-in check, of the pair farthest off."""
    worst = max((pair.check for pair in pairs), key=lambda c: _off(c.deviation) / c.tolerance)
    held = sum(pair.check.holds is True for pair in pairs)
    style = "green" if held == len(pairs) else "bold red"
    head = "Self-check holds" if held == len(pairs) else "Self-check FAILED"
    many = f" in {held:,} of {len(pairs):,} pairs" if len(pairs) > 1 else ""
    screen.say()
    off = f"off by {_off(worst.deviation):.1g}, rounding allows {worst.tolerance:.1g}"
    screen.tell(f"{head}{many}: {worst.claim} ({off})", style, indent=0)


def _off(deviation: float | None) -> float:
    return math.inf if deviation is None or math.isnan(deviation) else deviation
