"""Tables laid out to the width of the screen."""

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
WIDEST_SIGNED = 29  # characters of a bar to both sides
NARROW, NARROWEST = 12, 5  # how far a column that wraps gives way, and one that should not


class _LaidOut(NamedTuple):
    """A column with the texts of its title and its cells, their styles, and its width where there is room."""

    column: Column
    texts: list[str]
    styles: list[str]
    width: int


def print_table(block: Table, screen: Screen) -> None:
    """A plain table in characters that the screen has. Laid out here because rich takes 4 ms for one,
    and a verbose trace of 30 layers has 120. No figure is ever cut: what does not fit beside the others
    comes below them, in a table of its own."""
    columns = _remarks_joined(_columns(block, screen), screen.width)
    for number, part in enumerate(_parts(columns, screen.width)):
        if number:
            screen.print()
        widths = _fitting_widths(part, screen.width)
        titles, *rows = zip(*(zip(own.texts, own.styles, strict=True) for own in part), strict=True)
        shown = [titles, *rows] if any(text for text, _ in titles) else rows  # a table may do without titles
        lines = [line for row in shown for line in _lines_of(row, widths, part)]
        screen.print(Lines(lines), crop=False)


def _columns(block: Table, screen: Screen) -> list[_LaidOut]:
    """Those that say something and have room."""
    rows = block.rows
    columns = [
        column
        for column in block.columns
        if column.from_width <= screen.width and (not rows or any(column.cell(row) != "" for row in rows))
    ]
    fixed = [None if column.elastic else _laid_out(column, rows, screen) for column in columns]
    taken = sum(own.width for own in fixed if own) + GAP * (len(columns) - 1)
    room = (screen.width - taken) // max(1, fixed.count(None))
    return [
        own or _laid_out(column, rows, screen, room)
        for own, column in zip(fixed, columns, strict=True)
        if own or room >= column.elastic
    ]


def _laid_out(column: Column, rows: Sequence[Any], screen: Screen, room: int = 0) -> _LaidOut:
    """A column as the screen shows it."""
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


def _remarks_joined(columns: list[_LaidOut], room: int) -> list[_LaidOut]:
    """Where the columns are too wide, without that of remarks, which stand behind the texts of the first."""
    remark = next((own for own in columns if own.column.remark), None)
    if remark is None or _width([own.width for own in columns]) <= room:
        return columns
    first = columns[0]
    pairs = zip(first.texts[1:], remark.texts[1:], strict=True)
    texts = [first.texts[0], *(f"{text}{' ' * GAP}{said}".rstrip() for text, said in pairs)]
    joined = first._replace(texts=texts, width=max(map(cell_len, texts)))
    return [joined, *(own for own in columns[1:] if own is not remark)]


def _parts(columns: list[_LaidOut], room: int) -> Iterator[list[_LaidOut]]:
    """The table, or several of which each begins with the column that names the rows."""
    key = next((i for i, own in enumerate(columns) if own.column.title), 0) + 1
    part = columns[:key]
    for own in columns[key:]:
        if len(part) > key and _width(list(map(_narrowest, [*part, own]))) > room:
            yield part
            part = columns[:key]
        part = [*part, own]
    yield part


_GIVE_WAY: Sequence[tuple[Callable[[Column], bool], int]] = (
    (lambda column: column.bar, 0),
    (lambda column: column.wrap, NARROW),
    (lambda column: not column.right and not column.whole, NARROWEST),
)


def _least(column: Column, least: int) -> int:
    """How narrow a column may become by a rule that it is subject to: a title keeps its line."""
    return max(least, cell_len(column.title)) if least else 0


def _narrowest(own: _LaidOut) -> int:
    return min([own.width, *(_least(own.column, least) for rule, least in _GIVE_WAY if rule(own.column))])


def _fitting_widths(columns: Sequence[_LaidOut], room: int) -> list[int]:
    """The widths of the columns, narrowed to fit: bars first, then what may wrap, then other texts.
    Figures, which stand on the right, and names keep theirs."""
    widths = [own.width for own in columns]
    for rule, narrow in _GIVE_WAY:
        least = [
            _least(own.column, narrow) if rule(own.column) else width
            for own, width in zip(columns, widths, strict=True)
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
    """The lines of one row: more than one where a cell wraps."""
    cells = [
        [cell]
        if cell_len(cell) <= width
        else [set_cell_size(cell, width)]
        if own.column.bar
        else wrapped(cell, width)
        for (cell, _), width, own in zip(row, widths, columns, strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=""):
        line: list[Piece] = []
        for part, (_, style), width, own in zip(parts, row, widths, columns, strict=True):
            blank = " " * (width - cell_len(part))
            line.append((blank + part if own.column.right else part + blank, style))
            line.append((" " * GAP, style if style == "dim" else ""))
        yield line[:-1]
