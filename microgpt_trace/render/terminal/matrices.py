"""Matrices on a terminal: number by number under their labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ...arrays.stats import Array
from ..sections import Figures
from .screen import Screen, at_right

MAX_BLOCKS = 8  # of columns, one below the other


def print_figures(block: Figures, screen: Screen) -> None:
    """In as many blocks of columns as the width asks for, the rows and columns left out counted below."""
    matrices = list(block.values) if block.heads else [block.values]
    for number, matrix in enumerate(matrices):
        if block.heads:
            screen.print(Text(f"head {block.heads[number]}", "dim"))
        columns_left = _print_matrix(matrix, block.rows, block.columns, screen)
    left = {"rows": block.row_count - len(matrices[0]), "columns": columns_left}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    if said:
        screen.print(Text(screen.words(f"… {said}{block.more}"), "dim"))


def has_room(matrix: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> bool:
    """Whether the blocks have all of its columns."""
    return len(columns) <= MAX_BLOCKS * _in_blocks(matrix, rows, columns, screen).fitting


class _Blocks(NamedTuple):
    """The texts of a matrix, how many cells of the screen those of rows and columns take, and how many
    columns stand side by side."""

    cells: Sequence[Sequence[str]]
    rows: Sequence[str]
    columns: Sequence[str]
    margin: int
    width: int
    fitting: int


def _in_blocks(matrix: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> _Blocks:
    cells = [[_cell(value) for value in row] for row in matrix.tolist()]
    rows, columns = (list(map(screen.words, labels)) for labels in (rows, columns))
    margin = max(map(cell_len, rows)) + 1
    width = 2 + max(cell_len(text) for text in (*columns, *(cell for row in cells for cell in row)))
    return _Blocks(cells, rows, columns, margin, width, max((screen.width - margin) // width, 1))


def _print_matrix(matrix: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> int:
    """Print the matrix in blocks of columns; how many columns are left out."""
    cells, rows, columns, margin, width, fitting = _in_blocks(matrix, rows, columns, screen)
    edges = [*range(0, len(columns), fitting), len(columns)]
    for start, stop in list(pairwise(edges))[:MAX_BLOCKS]:
        head = " " * margin + "".join(at_right(label, width) for label in columns[start:stop])
        screen.print(Text(head, "dim", no_wrap=True))
        for label, row in zip(rows, cells, strict=False):
            text = Text(set_cell_size(label, margin), "dim", no_wrap=True)
            screen.print(text.append("".join(f"{cell:>{width}}" for cell in row[start:stop]), "not dim"))
    return len(columns) - min(len(columns), MAX_BLOCKS * fitting)


def _cell(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return f"{value:.0e}" if value and (abs(value) < 5e-4 or abs(value) >= 1e4) else f"{value:.3f}"
