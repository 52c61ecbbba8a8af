"""Prints a measurement as a table: of plain text, or of Markdown for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, numbers to the right, an empty line after."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(title)
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = row
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "   ".join([f"{first:<{widths[0]}}", *cells]))
    print(flush=True)


def print_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The same as a table of docs/benchmarks.md, an empty line after."""
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (header, *rows)]
    print("\n".join([lines[0], "|" + "---|" * len(header), *lines[1:], ""]), flush=True)
