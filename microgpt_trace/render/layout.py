"""Tables: columns as data, laid out to the width of the screen."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from ..printable import on_one_line
from .screen import Screen

GAP = 2  # blanks between columns
NARROW, NARROWEST = 12, 5  # how far a column that wraps gives way, and one that should not


@dataclass(frozen=True)
class Column:
    """A column as data: its title, its cell as plain text, the style of the cell, and how it is set."""

    title: str
    cell: Callable[[Any], str]
    right: bool = False
    wrap: bool = False
    bar: bool = False  # what does not fit of it may be missing
    whole: bool = False  # never broken: a name that one searches for
    style: Callable[[Any], str] | None = None


Piece = tuple[str, str]  # a text and its style


def print_table(columns: Sequence[Column], rows: Sequence[Any], screen: Screen) -> None:
    """A plain table in characters that the screen has. Laid out here because rich takes 4 ms for one,
    and a verbose trace of 30 layers has 120. No figure is ever cut."""
    texts = [[screen.words(on_one_line(column.title)) for column in columns]]
    texts += [[screen.words(on_one_line(column.cell(row))) for column in columns] for row in rows]
    styles = [["dim"] * len(columns)]
    styles += [[column.style(row) if column.style else "" for column in columns] for row in rows]
    widths = _fitting_widths(columns, texts, screen.width)
    lines = [
        line
        for text, style in zip(texts, styles, strict=True)
        for line in _lines_of(text, style, widths, columns)
    ]
    screen.print(_Lines(lines), crop=False)


def fits(columns: Sequence[Column], rows: Sequence[Any], screen: Screen) -> bool:
    """Whether the table has room without a column that gives way."""
    widths = [
        max(cell_len(screen.words(on_one_line(text))) for text in (column.title, *map(column.cell, rows)))
        for column in columns
    ]
    return sum(widths) + GAP * (len(widths) - 1) <= screen.width


class _Lines:
    """Lines that fit, without rich's search for places to break them."""

    def __init__(self, lines: Sequence[Sequence[Piece]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        known = {"": Style.null()}
        for line in self.lines:
            for style, pieces in groupby(line, key=lambda piece: piece[1]):
                if style not in known:
                    known[style] = console.get_style(style)
                yield Segment("".join(text for text, _ in pieces), known[style])
            yield Segment.line()


def _fitting_widths(columns: Sequence[Column], texts: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of the columns, narrowed to fit: bars first, then what may wrap, then other texts.
    Figures, which stand on the right, keep theirs: rather is a line too long."""
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    for kind, least in ((_is_bar, 0), (_may_wrap, NARROW), (_is_text, NARROWEST)):
        while (excess := sum(widths) + GAP * (len(widths) - 1) - room) > 0:
            flexible = [i for i, width in enumerate(widths) if width > least and kind(columns[i])]
            if not flexible:
                break
            widest = max(flexible, key=widths.__getitem__)
            widths[widest] -= 1 if len(flexible) > 1 else min(excess, widths[widest] - least)
    return widths


def _is_bar(column: Column) -> bool:
    return column.bar


def _may_wrap(column: Column) -> bool:
    return column.wrap


def _is_text(column: Column) -> bool:
    return not column.right and not column.whole


def _lines_of(
    row: Sequence[str], styles: Sequence[str], widths: Sequence[int], columns: Sequence[Column]
) -> Iterator[list[Piece]]:
    """The lines of one row: more than one where a cell wraps."""
    wrapped = [
        [cell[:width]]
        if column.bar or cell_len(cell) <= width
        else textwrap.wrap(cell, width, break_on_hyphens=False)
        for cell, width, column in zip(row, widths, columns, strict=True)
    ]
    for parts in zip_longest(*wrapped, fillvalue=""):
        line: list[Piece] = []
        for part, style, width, column in zip(parts, styles, widths, columns, strict=True):
            blank = " " * (width - cell_len(part))
            line.append((blank + part if column.right else part + blank, style))
            line.append((" " * GAP, style if style == "dim" else ""))
        yield line[:-1]
