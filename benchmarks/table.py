"""Print tables as plain text, or as Markdown for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with its first column aligned left and the others right, and an empty line."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(title)
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = row
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "   ".join([f"{first:<{widths[0]}}", *cells]))
    print(flush=True)


def print_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table as in docs/benchmarks.md, and an empty line."""
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (header, *rows)]
    print("\n".join([lines[0], "|" + "---|" * len(header), *lines[1:], ""]), flush=True)
