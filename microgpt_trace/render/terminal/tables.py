"""Print tables that fit the width of the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size

from ...text.printable import on_one_line
from ..characters import bar, signed_bar, sparkline
from ..sections import Bar, Cell, Column, ElementCell, SignedBar, Sparkline, Table
from .screen import Lines, Piece, Screen, at_right, wrapped

GAP = 2  # blanks between columns
WIDEST_SIGNED = 29  # largest width of a signed bar, in characters
NARROW, NARROWEST = 12, 5  # smallest width of a column with `wrap`, and of another column of text


class _LaidOut(NamedTuple):
    """A column with the texts and styles of its title and cells, and its preferred width."""

    column: Column
    texts: list[str]
    styles: list[str]
    width: int


def print_table(block: Table, screen: Screen) -> None:
    """Print a table. Numbers are never cut. Columns that do not fit are printed as another table below. The
    table is not a table of Rich, because Rich takes 4 ms per table. A verbose trace of 30 layers has 120
    tables."""
    columns = _with_joined_remarks(_columns(block, screen), screen.width)
    for number, part in enumerate(_parts(columns, screen.width)):
        if number:
            screen.print()
        widths = _fitted_widths(part, screen.width)
        titles, *rows = zip(*(zip(laid.texts, laid.styles, strict=True) for laid in part), strict=True)
        printed = [titles, *rows] if any(text for text, _ in titles) else rows  # some tables have no titles
        lines = [line for row in printed for line in _lines_of(row, widths, part)]
        screen.print(Lines(lines), crop=False)


def _columns(block: Table, screen: Screen) -> list[_LaidOut]:
    """Lay out the columns. Leave out empty columns, and columns that need a wider screen."""
    rows = block.rows
    columns = [
        column
        for column in block.columns
        if column.from_width <= screen.width and (not rows or any(column.cell(row) != "" for row in rows))
    ]
    fixed = [None if column.elastic else _laid_out(column, rows, screen) for column in columns]
    used = sum(laid.width for laid in fixed if laid) + GAP * (len(columns) - 1)
    room = (screen.width - used) // max(1, fixed.count(None))  # width of each elastic column
    return [
        laid or _laid_out(column, rows, screen, room)
        for laid, column in zip(fixed, columns, strict=True)
        if laid or room >= column.elastic
    ]


def _laid_out(column: Column, rows: Sequence[Any], screen: Screen, room: int = 0) -> _LaidOut:
    title = screen.words(on_one_line(column.title))
    texts = _joined([title, *(_text(column.cell(row), screen, room) for row in rows)])
    styles = ["dim", *(column.style_of(row) for row in rows)]
    return _LaidOut(column, texts, styles, max(map(cell_len, texts)))


def _text(cell: Cell, screen: Screen, room: int) -> str | ElementCell:
    if isinstance(cell, Bar):
        return bar(cell.share, cell.width, screen.ascii_only).ljust(cell.width)
    if isinstance(cell, SignedBar):
        return signed_bar(cell.value, cell.scale, min(room, WIDEST_SIGNED), screen.ascii_only)
    if isinstance(cell, Sparkline):
        return sparkline(cell.values, room, screen.ascii_only)
    if isinstance(cell, ElementCell):
        return ElementCell(*(screen.words(on_one_line(text)) for text in (cell.place, cell.value)))
    return screen.words(on_one_line(cell))


def _joined(cells: Sequence[str | ElementCell]) -> list[str]:
    """Turn the cells of a column into texts. The text of an element has the place at the left and the value
    at the right."""
    elements = [cell for cell in cells if isinstance(cell, ElementCell)]
    if not elements:
        return [cell for cell in cells if isinstance(cell, str)]
    places, values = (max(cell_len(e[i]) for e in elements) for i in (0, 1))
    others = [cell_len(cell) for cell in cells if isinstance(cell, str)]
    width = max([places + (GAP + values if values else 0), *others])
    return [
        cell if isinstance(cell, str) else cell.place + at_right(cell.value, width - cell_len(cell.place))
        for cell in cells
    ]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _with_joined_remarks(columns: list[_LaidOut], room: int) -> list[_LaidOut]:
    """If the columns are too wide, append the texts of the remark column to the first column."""
    remark = next((laid for laid in columns if laid.column.remark), None)
    if remark is None or _width([laid.width for laid in columns]) <= room:
        return columns
    first = columns[0]
    pairs = zip(first.texts[1:], remark.texts[1:], strict=True)
    texts = [first.texts[0], *(f"{text}{' ' * GAP}{note}".rstrip() for text, note in pairs)]
    joined = first._replace(texts=texts, width=max(map(cell_len, texts)))
    return [joined, *(laid for laid in columns[1:] if laid is not remark)]


def _parts(columns: list[_LaidOut], room: int) -> Iterator[list[_LaidOut]]:
    """Split the columns into tables that fit. Each table begins with the column that names the rows."""
    key = next((i for i, laid in enumerate(columns) if laid.column.title), 0) + 1
    part = columns[:key]
    for laid in columns[key:]:
        if len(part) > key and _width(list(map(_narrowest, [*part, laid]))) > room:
            yield part
            part = columns[:key]
        part = [*part, laid]
    yield part


# Which columns can shrink, in the order of shrinking, and the smallest width of each column.
# Numbers and names do not shrink.
_SHRINKING: Sequence[tuple[Callable[[Column], bool], int]] = (
    (lambda column: column.bar, 0),
    (lambda column: column.wrap, NARROW),
    (lambda column: not column.right and not column.whole, NARROWEST),
)


def _least(column: Column, least: int) -> int:
    """Return the smallest width of a column. The title of a column is not wrapped."""
    return max(least, cell_len(column.title)) if least else 0


def _narrowest(laid: _LaidOut) -> int:
    return min([laid.width, *(_least(laid.column, least) for rule, least in _SHRINKING if rule(laid.column))])


def _fitted_widths(columns: Sequence[_LaidOut], room: int) -> list[int]:
    """Return the widths of the columns, reduced to fit into `room` as far as possible."""
    widths = [laid.width for laid in columns]
    for rule, narrow in _SHRINKING:
        least = [
            _least(laid.column, narrow) if rule(laid.column) else width
            for laid, width in zip(columns, widths, strict=True)
        ]
        while (excess := _width(widths) - room) > 0:
            flexible = [i for i, width in enumerate(widths) if width > least[i]]
            if not flexible:
                break
            widest = max(flexible, key=widths.__getitem__)
            widths[widest] -= 1 if len(flexible) > 1 else min(excess, widths[widest] - least[widest])
    return widths


def _lines_of(
    row: Sequence[tuple[str, str]], widths: Sequence[int], columns: Sequence[_LaidOut]
) -> Iterator[list[Piece]]:
    """Return the lines of one row. A wrapped cell takes several lines."""
    cells = [
        [cell] if cell_len(cell) <= width else [set_cell_size(cell, width)] if bar else wrapped(cell, width)
        for (cell, _), width, bar in zip(row, widths, (laid.column.bar for laid in columns), strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=""):
        line: list[Piece] = []
        for part, (_, style), width, laid in zip(parts, row, widths, columns, strict=True):
            blank = " " * (width - cell_len(part))
            line.append((blank + part if laid.column.right else part + blank, style))
            line.append((" " * GAP, style if style == "dim" else ""))
        yield line[:-1]
