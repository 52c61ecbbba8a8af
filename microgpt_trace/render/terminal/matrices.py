"""Print matrices of numbers with labels, in blocks of columns. A number can have a background colour or a
shade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.color_triplet import ColorTriplet
from rich.text import Text

from ...arrays.stats import Array
from ...text.wording import counted
from ..characters import shade
from ..colors import SCALES, Kind, color_at, is_dark
from ..numbers import two_decimals
from ..sections import Figures, Grid
from .screen import Screen, at_right

MAX_BLOCKS = 8  # largest number of column blocks to print
GAP = 2  # blanks between columns


class _Matrix(NamedTuple):
    """`heads` are the header lines, and `rows` are the lines with cells. Every line has a label. A cell is a
    text and a share. The share determines the colour: it is from -1 to 1, or None for no colour."""

    heads: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]]

    def widths(self) -> list[int]:
        """Return the width of each column. A coloured number needs one more character for the shade."""
        titles = zip(*(texts for _, texts in self.heads), strict=True)
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [
            GAP + max(*map(cell_len, title), *(len(text) + (share is not None) for text, share in cells))
            for title, cells in zip(titles, columns, strict=True)
        ]

    def margin(self) -> int:
        """Return the width of the labels."""
        return max(cell_len(label) for label, _ in (*self.heads, *self.rows))


def _blocks(matrix: _Matrix, screen: Screen, chosen: Sequence[int]) -> list[list[int]]:
    """Split the chosen columns into blocks that fit on the screen."""
    widths, room = matrix.widths(), screen.width - matrix.margin()
    blocks, free = list[list[int]](), 0
    for n in chosen:
        if not blocks or widths[n] > free:
            blocks.append([])
            free = room
        blocks[-1].append(n)
        free -= widths[n]
    return blocks


def _print_blocks(matrix: _Matrix, blocks: Sequence[Sequence[int]], screen: Screen) -> int:
    """Print the first MAX_BLOCKS blocks. Return the number of columns that were not printed."""
    widths, margin = matrix.widths(), matrix.margin()
    for block in blocks[:MAX_BLOCKS]:
        for label, texts in matrix.heads:
            if any(texts[n] for n in block):
                line = set_cell_size(label, margin) + "".join(at_right(texts[n], widths[n]) for n in block)
                screen.print(Text(line.rstrip(), "dim", no_wrap=True), crop=False)
        for label, cells in matrix.rows:
            row = Text(set_cell_size(label, margin), "dim", no_wrap=True)
            for n in block:
                row.append_tokens(heat_cell(*cells[n], widths[n], screen))
            screen.print(row, crop=False)
    return sum(map(len, blocks[MAX_BLOCKS:]))


def print_figures(block: Figures, screen: Screen) -> None:
    """Print matrices in blocks of columns. Also print how many rows and columns are not shown."""
    matrices = list(block.values) if block.captions else [block.values]
    for number, values in enumerate(matrices):
        if block.captions:
            screen.print(Text(block.captions[number], "dim"))
        matrix = _of_figures(values, block.rows, block.columns, screen)
        blocks = _blocks(matrix, screen, range(len(block.columns)))
        columns_left = _print_blocks(matrix, blocks, screen)
    left = {"rows": block.row_count - len(matrices[0]), "columns": columns_left}
    counts = " and ".join(f"{count:,} more {axis}" for axis, count in left.items() if count)
    if counts:
        screen.print(Text(screen.words(f"… {counts}{block.more}"), "dim"))


def has_room(values: Array, labels: Sequence[str], screen: Screen) -> bool:
    """Return True if `print_figures` prints all columns of a square matrix."""
    matrix = _of_figures(values, labels, labels, screen)
    return len(_blocks(matrix, screen, range(len(labels)))) <= MAX_BLOCKS


def _of_figures(values: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> _Matrix:
    cells = ([(_figure(value), None) for value in row] for row in values.tolist())
    labelled = list(zip(map(screen.words, rows), cells, strict=False))
    return _Matrix([("", list(map(screen.words, columns)))], labelled)


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0e}" if value and (abs(value) < 5e-4 or abs(value) >= 1e4) else f"{value:.3f}"


def print_grid(grid: Grid, screen: Screen) -> None:
    """Print a grid. If the grid does not fit in one block, omit the columns that contain only 0.00."""
    matrix = _Matrix(
        [(head, list(map(screen.words, texts))) for head, texts in grid.heads],
        [(label, _shares(row)) for label, row in grid.rows],
    )
    chosen = every = list(range(len(grid.numbers)))
    if len(_blocks(matrix, screen, every)) > 1:
        chosen = [n for n in every if any(cells[n][0] != "0.00" for _, cells in matrix.rows)] or every
    more = _print_blocks(matrix, _blocks(matrix, screen, chosen), screen)
    if left_out := [str(grid.numbers[n]) for n in every if n not in chosen]:
        note = f"not shown, since all values round to 0.00: {grid.heads[0][0]} {', '.join(left_out)}"
        screen.tell(note, "dim", indent=0)
    if more:
        screen.tell(f"… {counted(more, 'more column')}; --json has all of them", "dim", indent=0)


def _shares(values: Sequence[float | None]) -> list[tuple[str, float | None]]:
    """Return the text and the share of each cell. A value that is not finite has no colour."""
    return [(two_decimals(v), v if v is not None and math.isfinite(v) else None) for v in values]


def heat(share: float, kind: Kind = "signed") -> str:
    """Return the style for a share, from 0 to 1 or from -1 to 1. The text is black or white, with a contrast
    of at least 4.5 to the colour."""
    color = color_at(SCALES[kind].dark, share if kind == "share" else (share + 1) / 2)
    text = "rgb(255,255,255)" if is_dark(color) else "rgb(0,0,0)"
    return f"{text} on {ColorTriplet(*color).rgb}"


def heat_cell(
    text: str, share: float | None, width: int, screen: Screen, kind: Kind = "signed"
) -> list[tuple[str, str]]:
    """Return a right-aligned cell as pieces of text, each with its style. A coloured cell begins with a space
    without colour. If `share` is None, the cell has no colour and no shade."""
    if share is None:
        return [(f"{text:>{width}}", "not dim")]
    if screen.many_colors:
        return [(" ", ""), (f"{text:>{width - 1}}", f"not dim {heat(share, kind)}")]
    return [(f"{shade(share, screen.ascii_only)}{text}".rjust(width), "not dim")]
