"""A grid of shares between 0 and 1 as shaded numbers, in blocks of columns. Knows not what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from ..sections import Grid
from .heat import heat_cell
from .screen import Screen

MAX_BLOCKS = 8  # of columns, one below the other


def print_grid(grid: Grid, screen: Screen) -> None:
    """The grid as far as it is wide, the rest of it below. Where that takes more than one block,
    columns that are 0.00 throughout are left out."""
    chosen = list(range(len(grid.numbers)))
    margin, widths = _widths(grid, screen)
    if margin + sum(widths) > screen.width:
        chosen = [n for n in chosen if any(_text(row[n]) != "0.00" for _, row in grid.rows)] or chosen
    left_out = [number for n, number in enumerate(grid.numbers) if n not in set(chosen)]
    blocks = _blocks(chosen, widths, screen.width - margin)
    for block in blocks[:MAX_BLOCKS]:
        _print_block(grid, block, widths, margin, screen)
    if left_out:
        what = grid.heads[0][0]
        screen.tell(f"left out, 0.00 throughout: {what} {_listed(left_out)}", "dim", indent=0)
    if len(blocks) > MAX_BLOCKS:
        more = sum(map(len, blocks[MAX_BLOCKS:]))
        screen.tell(f"… {more:,} more columns; --json has them all", "dim", indent=0)


def _widths(grid: Grid, screen: Screen) -> tuple[int, list[int]]:
    """The width of the labels and of each column, the blank before it included."""
    margin = max(
        cell_len(label) for label in (*(h for h, _ in grid.heads), *(label for label, _ in grid.rows))
    )
    widths = []
    for n in range(len(grid.numbers)):
        heads = [cell_len(screen.words(texts[n])) for _, texts in grid.heads]
        numbers = [len(_text(row[n])) + 1 for _, row in grid.rows]  # a shade before each
        widths.append(2 + max(*heads, *numbers))
    return margin, widths


def _blocks(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    blocks: list[list[int]] = []
    free = 0
    for n in columns:
        if not blocks or widths[n] > free:
            blocks.append([])
            free = room
        blocks[-1].append(n)
        free -= widths[n]
    return blocks


def _print_block(
    grid: Grid, block: Sequence[int], widths: Sequence[int], margin: int, screen: Screen
) -> None:
    for head, of_columns in grid.heads:
        texts = [screen.words(of_columns[n]) for n in block]
        if any(texts):
            cells = "".join(" " * (widths[n] - cell_len(t)) + t for n, t in zip(block, texts, strict=True))
            screen.print(Text(f"{head:<{margin}}{cells}".rstrip(), "dim", no_wrap=True), crop=False)
    for label, row in grid.rows:
        line = Text(f"{label:<{margin}}", "dim", no_wrap=True)
        for n in block:
            value = row[n]
            share = value if value is not None and math.isfinite(value) else None
            line.append_tokens(heat_cell(_text(value), share, widths[n], screen))
        screen.print(line, crop=False)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:g}"
    text = f"{value:.2f}" if abs(value) < 1e4 else f"{value:.0e}"
    return "0.00" if text == "-0.00" else text


def _listed(numbers: Sequence[int]) -> str:
    """0-3, 7 for 0, 1, 2, 3, 7"""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
