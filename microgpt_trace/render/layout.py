"""Tables: columns as data, laid out to the width of the screen."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from .screen import Screen, escape

GAP = 2  # blanks between columns
NARROW, NARROWEST = 12, 5  # how far a column that wraps gives way, and one that should not


@dataclass(frozen=True)
class Column:
    """A column as data: its title, its cell (rich markup), and how it is set."""

    title: str
    cell: Callable[[Any], str]
    right: bool = False
    wrap: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Any], screen: Screen) -> None:
    """A plain table in characters that the screen has. Laid out here because rich takes 4 ms for one,
    and a verbose trace of 30 layers has 120. A figure may break into two lines, but is never cut."""
    titles = [escape(screen.words(column.title)) for column in columns]
    cells = [titles, *([screen.words(column.cell(row)) for column in columns] for row in rows)]
    widths = _fitting_widths(columns, [[_width(cell) for cell in row] for row in cells], screen.width)
    lines = [line for row in cells for line in _lines_of(row, widths, columns)]
    screen.print(_Lines(lines))


class _Lines:
    """Lines that fit, the first of them dim, without rich's search for places to break them."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        style = console.get_style("dim")
        for line in self.lines:
            if _styled(line):
                yield from Text.from_markup(line).render(console)
            else:
                yield Segment(line.replace("\\[", "["), style)
            yield Segment.line()
            style = Style.null()


def _styled(cell: str) -> bool:
    return "[/" in cell


def _width(cell: str) -> int:
    return cell_len(Text.from_markup(cell).plain if _styled(cell) else cell.replace("\\[", "["))


def _fitting_widths(columns: Sequence[Column], needed: Sequence[Sequence[int]], room: int) -> list[int]:
    """The widths of the columns, narrowed to fit: first those that wrap, then, if must be, all."""
    widths = [max(column) for column in zip(*needed, strict=True)]
    for wrapping, least in ((True, NARROW), (False, NARROWEST)):
        while (excess := sum(widths) + GAP * (len(widths) - 1) - room) > 0:
            flexible = [
                i for i, width in enumerate(widths) if width > least and (columns[i].wrap or not wrapping)
            ]
            if not flexible:
                break
            widest = max(flexible, key=widths.__getitem__)
            widths[widest] -= 1 if len(flexible) > 1 else min(excess, widths[widest] - least)
    return widths


def _lines_of(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> Iterator[str]:
    """The lines of one row: more than one where a cell wraps."""
    wrapped = [_parts(cell, width) for cell, width in zip(row, widths, strict=True)]
    for parts in zip_longest(*wrapped, fillvalue=""):
        padded = []
        for part, width, column in zip(parts, widths, columns, strict=True):
            blank = " " * (width - _width(part))
            padded.append(blank + part if column.right else part + blank)
        yield (" " * GAP).join(padded)


def _parts(cell: str, width: int) -> list[str]:
    if _width(cell) <= width or _styled(cell):
        return [cell]
    plain = cell.replace("\\[", "[")
    return [escape(part) for part in textwrap.wrap(plain, width, break_on_hyphens=False)]
