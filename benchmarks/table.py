"""Prints a measurement as a table: of plain text, or of Markdown for README.md."""

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
    """An empty line after."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)
