"""Write sections as HTML: tables, lists and small drawings that need no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...text.printable import shown_token
from ...text.wording import counted
from ..characters import clipped
from ..numbers import finite_or_named, two_decimals
from ..sections import (
    AttentionMatrices,
    Bar,
    Block,
    Cell,
    Column,
    Copyable,
    DotPlot,
    ElementCell,
    Figures,
    Grid,
    Labelled,
    Section,
    SignedBar,
    Sparkline,
    Table,
    Words,
)
from .markup import ON_PAGE, Drawings, Markup, element, text

MOST_WEIGHTS = 2500  # largest number of attention weights in a section
MOST_COLUMNS = 64  # largest number of columns in a table of numbers
SHADES = 20  # number of the darkest shade, for a share of 1; shade 0 has no colour


def section_markup(section: Section, anchor: str | None = None) -> Markup:
    """Return a section of a page with its title."""
    aside = element("small", f" {section.aside}") if section.aside else Markup()
    title = [element("h2", section.title, aside, class_=classes(section.style))] if section.title else []
    return element("section", *title, *map(block_markup, section.blocks), id=anchor, class_="card")


def block_markup(block: Block, drawings: Drawings = ON_PAGE) -> Markup:
    """Return the markup of a block."""
    return _MARKUP[type(block)](block, drawings)


def _words(block: Words, drawings: Drawings) -> Markup:
    spans = block.spans
    if block.about:
        line = "".join(words for words, _ in spans)
        spans = [(drawings.reference(line, block.about), spans[0][1])]
    children = (element("span", words, class_=classes(style)) for words, style in spans)
    return element("p", *children, class_="indented" if block.indent else None)


def _labelled(block: Labelled, drawings: Drawings) -> Markup:
    """Return a list of labels, each with its facts. A pair without a label continues the previous pair."""
    groups: list[tuple[str, list[Markup]]] = []
    for label, fact in block.pairs:
        if label or not groups:
            groups.append((label, []))
        groups[-1][1].append(element("dd", fact))
    facts = (element("div", element("dt", label), *group, class_="fact") for label, group in groups)
    return element("dl", *facts, class_="facts")


def _copyable(block: Copyable, drawings: Drawings) -> Markup:
    return element("p", f"{block.label} ", element("code", block.line), class_="command")


def _table(block: Table, drawings: Drawings) -> Markup:
    columns = [column for column in block.columns if any(column.cell(row) != "" for row in block.rows)]
    spans = [_span(column, block.rows) for column in columns]
    titles = [_title(column, span) for column, span in zip(columns, spans, strict=True)]
    head = [element("thead", element("tr", *titles))] if any(column.title for column in columns) else []
    body = [_row(block, columns, spans, row, drawings) for row in block.rows]
    return _wide("table", element("table", *head, element("tbody", *body)))


def _span(column: Column, rows: Sequence[Any]) -> str | None:
    """Return "2" if the elements of a column have values. Places and values are separate columns in HTML."""
    cells = map(column.cell, rows)
    return "2" if any(isinstance(cell, ElementCell) and cell.value for cell in cells) else None


def _title(column: Column, span: str | None) -> Markup:
    attributes = {"class_": _side(column), "colspan": span}
    if not column.title:
        return element("td", **attributes)
    return element("th", column.title, scope="col", **attributes)


def _row(
    block: Table, columns: Sequence[Column], spans: Sequence[str | None], row: Any, drawings: Drawings
) -> Markup:
    about, cells = block.about(row) if block.about else "", [column.cell(row) for column in columns]
    texts = (n for n, cell in enumerate(cells) if isinstance(cell, str) and any(map(str.isalnum, cell)))
    linked = next(texts, 0)  # the text of a link needs at least one letter or digit
    shown = []
    for n, (column, cell, span) in enumerate(zip(columns, cells, spans, strict=True)):
        style = " ".join(filter(None, (_side(column), classes(column.style_of(row))))) or None
        content = _cell(cell, drawings)
        if about and n == linked:
            content = drawings.reference(content, about)
        if span and isinstance(cell, ElementCell):
            shown += [element("td", content, class_=style), element("td", cell.value, class_="n")]
        else:
            shown.append(element("td", content, class_=style, colspan=span))
    return element("tr", *shown)


def _side(column: Column) -> str | None:
    """Return the CSS class of a column. Numbers are right-aligned. Text wraps only if `wrap` is set."""
    return "n" if column.right else None if column.wrap else "whole"


def _cell(cell: Cell, drawings: Drawings) -> Markup:
    """Return the content of a cell. The place of an element becomes a link to the element."""
    if isinstance(cell, Bar):
        return drawings.share_bar(cell.share)
    if isinstance(cell, SignedBar):
        return Markup() if cell.value is None else drawings.signed_bar(cell.value, cell.scale)
    if isinstance(cell, Sparkline):
        return drawings.sparkline(cell.values)
    if isinstance(cell, ElementCell):
        return drawings.reference(cell.place, cell.about) if cell.about else text(cell.place)
    return text(cell)


def classes(style: str) -> str | None:
    """Return the CSS classes of styles, such as "is-bold is-red" for "bold red"."""
    return " ".join(f"is-{word}" for word in style.split()) or None


def _attention(block: AttentionMatrices, drawings: Drawings) -> Markup:
    """Return a table of weights for each head, or for the first of `block.order` if there are too many."""
    labels, count = [shown_token(label) for label in block.labels], len(block.order)
    heads = sorted(block.order[: MOST_WEIGHTS // len(labels) ** 2])
    notes = [element("p", "Attention weights in percent, row = query, column = key", class_="is-dim")]
    if len(heads) < count:
        notes.append(element("p", f"{len(heads)} of {count} heads, {block.more}", class_="is-dim"))
    tables = []
    for head in heads:
        weights = block.weights[head].tolist()
        rows = [_percentages(row[: query + 1], len(labels)) for query, row in enumerate(weights)]
        tables.append(_matrix([("", labels)], zip(labels, rows, strict=True), "figures", f"head {head}"))
    return element("div", notes[0], element("div", *tables, class_="planes"), *notes[1:])


def _percentages(weights: Sequence[float], length: int) -> list[Markup]:
    """Return a cell for each weight of a query, and one wide cell for all its masked keys."""
    cells = [_shaded(f"{weight * 100:.0f}" if math.isfinite(weight) else "NaN", weight) for weight in weights]
    masked = length - len(weights)
    return [*cells, element("td", class_="masked", colspan=str(masked))] if masked else cells


def _shaded(content: str, share: float | None, **attributes: str) -> Markup:
    """Return a cell whose colour is darker for a larger share."""
    shade = "" if share is None else f" shade-{round(SHADES * clipped(share))}"
    return element("td", content, class_=f"n{shade}", **attributes)


def _matrix(
    heads: Iterable[tuple[str, Iterable[str]]], rows: Iterable[tuple[str, Iterable[Markup]]], kind: str,
    caption: str = "",
) -> Markup:  # fmt: skip
    """Return a table with the CSS class `kind`. `heads` are lines of column labels, and `rows` are pairs of a
    label and cells."""
    head = []
    for label, texts in heads:
        corner = element("th", label, scope="row") if label else element("td")
        head.append(element("tr", corner, *(element("th", each, scope="col", class_="n") for each in texts)))
    body = [element("tr", element("th", label, scope="row"), *cells) for label, cells in rows]
    above = [element("caption", caption)] if caption else []
    return element("table", *above, element("thead", *head), element("tbody", *body), class_=kind)


def _grid(block: Grid, drawings: Drawings) -> Markup:
    """Return a table of shares. A cell that names an event becomes a link to the event."""
    abouts = block.about or [[""] * len(block.numbers)] * len(block.rows)
    rows = (
        (label, [_share(value, about, drawings) for value, about in zip(values, names, strict=True)])
        for (label, values), names in zip(block.rows, abouts, strict=True)
    )
    return _wide("map", _matrix(block.heads, rows, "grid"))


def _share(value: float | None, about: str, drawings: Drawings) -> Markup:
    number = two_decimals(value)
    return _shaded(drawings.reference(number, about) if about else number, value, data_share=number)


def _figures(block: Figures, drawings: Drawings) -> Markup:
    """Return a table with the numbers of a matrix, or one table for each caption."""
    matrices = list(block.values) if block.captions else [block.values]
    captions = block.captions or ["values"]
    columns = block.columns[:MOST_COLUMNS]
    tables = []
    for caption, matrix in zip(captions, matrices, strict=True):
        numbers = matrix[:, :MOST_COLUMNS].tolist()
        cells = ([element("td", finite_or_named(value), class_="n") for value in row] for row in numbers)
        tables.append(_matrix([("", columns)], zip(block.rows, cells, strict=False), "figures", caption))
    hidden = {"row": block.row_count - len(matrices[0]), "column": len(block.columns) - len(columns)}
    note = " and ".join(counted(count, f"more {axis}") for axis, count in hidden.items() if count)
    return _wide("numbers", *tables, *[element("p", f"… {note}{block.more}")] * bool(note))


def _wide(label: str, *children: Markup) -> Markup:
    """Return a box that scrolls sideways if its content is too wide."""
    return element("div", *children, class_="wide", tabindex="0", role="group", aria_label=label)


_MARKUP: dict[type[Block], Callable[[Any, Drawings], Markup]] = {
    Table: _table, Words: _words, Labelled: _labelled, Copyable: _copyable,
    DotPlot: lambda block, drawings: drawings.dots(block),
    AttentionMatrices: _attention, Grid: _grid, Figures: _figures,
}  # fmt: skip
