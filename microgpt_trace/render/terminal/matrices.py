"""Matrices on a terminal: numbers under labels, and attention as shaded heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.text import Text

from ...arrays.stats import Array
from ...text.printable import shown_token
from ..sections import AttentionMatrices, Figures
from .heat import heat_cell
from .screen import Screen, at_right

MAX_BLOCKS = 8  # of columns, one below the other


def print_attention(block: AttentionMatrices, screen: Screen) -> None:
    """Every head of [H, T, T], rows = queries and columns = keys, side by side where they fit."""
    shown = [screen.words(shown_token(label)) for label in block.labels]
    heads = [_attention_matrix(h, head, shown, screen) for h, head in enumerate(block.weights)]
    screen.print(Columns(heads, padding=(0, 3)))


def _attention_matrix(head: int, weights: Array, labels: Sequence[str], screen: Screen) -> Text:
    """In percent where there is room for figures, else in shades alone."""
    margin = max(map(cell_len, labels)) + 1
    cell = max(4, margin)
    if margin + cell * len(labels) > screen.width:
        cell = 2
    fitting = min(len(labels), (screen.width - margin) // cell)
    text = Text(f"head {head}\n", no_wrap=True)
    heads = labels if cell > 2 else [label[0] if cell_len(label[0]) == 1 else "" for label in labels]
    text.append(" " * margin + "".join(at_right(label, cell) for label in heads[:fitting]) + "\n", "dim")
    for query, row in enumerate(weights.tolist()):
        text.append(set_cell_size(labels[query], margin), "dim")
        for key, weight in enumerate(row[:fitting]):
            if key > query:
                text.append(" " * cell)
                continue
            share = weight if isfinite(weight) else None
            number = "NaN" if share is None else f"{share * 100:.0f}"
            text.append_tokens(heat_cell(number if cell > 2 else "", share, cell, screen))
        text.append("\n")
    if fitting < len(labels):
        text.append(screen.words(f"… {len(labels) - fitting} more columns\n"), "dim")
    return text


def print_figures(block: Figures, screen: Screen) -> None:
    """In as many blocks of columns as the width asks for, the rows and columns left out counted below."""
    heads = block.values.ndim == 3
    matrices = list(block.values) if heads else [block.values]
    for head, matrix in enumerate(matrices):
        if heads:
            screen.print(Text(f"head {head}", "dim"))
        columns_left = _print_matrix(matrix, block.rows, block.columns, screen)
    left = {"rows": block.row_count - len(matrices[0]), "columns": columns_left}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    if said:
        screen.print(Text(screen.words(f"… {said}{block.more}"), "dim"))


def _print_matrix(matrix: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> int:
    """Print the matrix in blocks of columns; how many columns are left out."""
    cells = [[_cell(value) for value in row] for row in matrix.tolist()]
    rows, columns = (list(map(screen.words, labels)) for labels in (rows, columns))
    margin = max(map(cell_len, rows)) + 1
    width = 2 + max(cell_len(text) for text in (*columns, *(cell for row in cells for cell in row)))
    fitting = max((screen.width - margin) // width, 1)
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
