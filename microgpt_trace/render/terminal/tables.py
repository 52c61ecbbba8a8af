"""Tables laid out to the width of the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len, set_cell_size

from ...text.printable import on_one_line
from ..characters import bar, signed_bar, sparkline
from ..sections import Bar, Cell, Column, ElementCell, SignedBar, Sparkline, Table
from .screen import Lines, Piece, Screen, at_right, wrapped

GAP = 2  # blanks between columns
WIDEST_SIGNED = 29  # characters of a bar to both sides
NARROW, NARROWEST = 12, 5  # how far a column that wraps gives way, and one that should not


@dataclass(frozen=True)
class _LaidOut:
    """Columns with the texts of their titles and cells, as the screen shows them."""

    columns: list[Column]
    rows: list[list[str]]  # of which the first is the titles
    styles: list[list[str]]

    def part(self, chosen: Sequence[int]) -> _LaidOut:
        """Some of the columns."""
        columns, rows, styles = (
            [[line[i] for i in chosen] for line in lines]
            for lines in ([self.columns], self.rows, self.styles)
        )
        return _LaidOut(columns[0], rows, styles)  # type: ignore[arg-type]

    @cached_property
    def natural(self) -> list[int]:
        """The widths of the columns where there is room for all."""
        return [max(map(cell_len, column)) for column in zip(*self.rows, strict=True)]


def print_table(block: Table, screen: Screen) -> None:
    """A plain table in characters that the screen has. Laid out here because rich takes 4 ms for one,
    and a verbose trace of 30 layers has 120. No figure is ever cut: what does not fit beside the others
    comes below them, in a table of its own."""
    table = _remarks_joined(_table(block, screen), screen.width)
    for number, part in enumerate(_parts(table, screen.width)):
        if number:
            screen.print()
        widths = _fitting_widths(part, screen.width)
        lines = [
            line
            for row, styles in zip(part.rows, part.styles, strict=True)
            if row is not part.rows[0] or any(row)  # a table may do without titles
            for line in _lines_of(row, styles, widths, part.columns)
        ]
        screen.print(Lines(lines), crop=False)


def _table(block: Table, screen: Screen) -> _LaidOut:
    rows = block.rows
    columns = [
        column
        for column in block.columns
        if column.from_width <= screen.width and (not rows or any(column.cell(row) != "" for row in rows))
    ]
    texts = [[] if column.elastic else _texts(column, rows, screen) for column in columns]
    if elastic := [i for i, column in enumerate(columns) if column.elastic]:
        taken = sum(max(map(cell_len, fixed)) for fixed in texts if fixed)
        room = (screen.width - taken - GAP * (len(columns) - 1)) // len(elastic)
        for i in elastic:
            texts[i] = _texts(columns[i], rows, screen, room) if room >= columns[i].elastic else []
        columns = [column for column, own in zip(columns, texts, strict=True) if own]
        texts = [own for own in texts if own]
    styles = [["dim"] * len(columns)]
    styles += [[column.style_of(row) for column in columns] for row in rows]
    return _LaidOut(columns, [list(line) for line in zip(*texts, strict=True)], styles)


def _texts(column: Column, rows: Sequence[Any], screen: Screen, room: int = 0) -> list[str]:
    """The title of a column and its cells, as the screen shows them."""
    title = screen.words(on_one_line(column.title))
    cells = [_text(column.cell(row), screen, room) for row in rows]
    return _joined([title, *cells])


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
    """Of a column of elements, each as one text of the width that they need."""
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


def _remarks_joined(table: _LaidOut, room: int) -> _LaidOut:
    """A table that is too wide without its column of remarks: they stand behind the first column's texts."""
    remark = next((i for i, column in enumerate(table.columns) if column.remark), None)
    if remark is None or _width(table.natural) <= room:
        return table
    title, *rows = table.rows
    joined = [[f"{row[0]}{' ' * GAP}{row[remark]}".rstrip(), *row[1:]] for row in rows]
    others = [i for i in range(len(table.columns)) if i != remark]
    return _LaidOut(table.columns, [title, *joined], table.styles).part(others)


def _parts(table: _LaidOut, room: int) -> Iterator[_LaidOut]:
    """The table, or several of which each begins with the column that names the rows."""
    least = list(map(_narrowest, table.natural, table.columns))
    key = next((i for i, column in enumerate(table.columns) if column.title), 0) + 1
    chosen = list(range(key))
    for i in range(key, len(table.columns)):
        if len(chosen) > key and _width([least[j] for j in (*chosen, i)]) > room:
            yield table.part(chosen)
            chosen = list(range(key))
        chosen.append(i)
    yield table.part(chosen)


_GIVE_WAY: Sequence[tuple[Callable[[Column], bool], int]] = (
    (lambda column: column.bar, 0),
    (lambda column: column.wrap, NARROW),
    (lambda column: not column.right and not column.whole, NARROWEST),
)


def _least(column: Column, least: int) -> int:
    """How narrow a column may become by a rule that it is subject to: a title keeps its line."""
    return max(least, cell_len(column.title)) if least else 0


def _narrowest(width: int, column: Column) -> int:
    return min([width, *(_least(column, least) for rule, least in _GIVE_WAY if rule(column))])


def _fitting_widths(table: _LaidOut, room: int) -> list[int]:
    """The widths of the columns, narrowed to fit: bars first, then what may wrap, then other texts.
    Figures, which stand on the right, and names keep theirs."""
    widths = [*table.natural]
    for rule, narrow in _GIVE_WAY:
        least = [
            _least(column, narrow) if rule(column) else width
            for column, width in zip(table.columns, widths, strict=True)
        ]
        while (excess := _width(widths) - room) > 0:
            flexible = [i for i, width in enumerate(widths) if width > least[i]]
            if not flexible:
                break
            widest = max(flexible, key=widths.__getitem__)
            widths[widest] -= 1 if len(flexible) > 1 else min(excess, widths[widest] - least[widest])
    return widths


def _lines_of(
    row: Sequence[str], styles: Sequence[str], widths: Sequence[int], columns: Sequence[Column]
) -> Iterator[list[Piece]]:
    """The lines of one row: more than one where a cell wraps."""
    cells = [
        [cell]
        if cell_len(cell) <= width
        else [set_cell_size(cell, width)]
        if column.bar
        else wrapped(cell, width)
        for cell, width, column in zip(row, widths, columns, strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=""):
        line: list[Piece] = []
        for part, style, width, column in zip(parts, styles, widths, columns, strict=True):
            blank = " " * (width - cell_len(part))
            line.append((blank + part if column.right else part + blank, style))
            line.append((" " * GAP, style if style == "dim" else ""))
        yield line[:-1]
