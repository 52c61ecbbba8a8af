"""What a page's script knows of sections: their maps, and what rows and cells are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..sections import ElementCell, Grid, Section, Table


def names_in(sections: Sequence[Section]) -> Iterator[str]:
    """What rows and cells are about."""
    for block in (block for own in sections for block in own.blocks):
        if isinstance(block, Grid):
            yield from (name for row in block.about for name in row if name)
        elif isinstance(block, Table):
            yield from _names_of(block)


def _names_of(table: Table) -> Iterator[str]:
    for row in table.rows:
        if table.about and (name := table.about(row)):
            yield name
        cells = (column.cell(row) for column in table.columns)
        yield from (cell.about for cell in cells if isinstance(cell, ElementCell) and cell.about)


def maps_in(sections: Sequence[Section]) -> Iterator[dict[str, Any]]:
    """Every map, in the order of the page."""
    for own in sections:
        yield from (_map(block, own.aside or own.title) for block in own.blocks if isinstance(block, Grid))


def _map(grid: Grid, title: str) -> dict[str, Any]:
    """A column is called by its tokens, or by what it counts."""
    first, *others = grid.heads
    columns = range(len(grid.numbers))
    return {
        "title": title,
        "rows": [label for label, _ in grid.rows],
        "columns": ["/".join(row[n] for _, row in others if row[n]) or first[1][n] for n in columns],
        "across": [", ".join(f"{label} {row[n]}" for label, row in grid.heads if row[n]) for n in columns],
        "values": [values for _, values in grid.rows],
        "end": grid.end,
        "names": grid.about or [[""] * len(grid.numbers) for _ in grid.rows],
    }
