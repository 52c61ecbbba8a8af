"""Sections as markup: tables, lists and small drawings that need no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...arrays.stats import Array
from ...text.printable import shown_token
from ..characters import part_of
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

MOST_WEIGHTS = 2500  # of the heads that are shown
MOST_COLUMNS = 64  # of a table of numbers
SHADES = 20  # of a cell, from nothing to a share of 1


def section_markup(section: Section, anchor: str | None = None) -> Markup:
    """A section of a page under its title."""
    aside = element("small", f" {section.aside}") if section.aside else Markup()
    title = [element("h2", section.title, aside, class_=classes(section.style))] if section.title else []
    return element("section", *title, *map(block_markup, section.blocks), id=anchor, class_="card")


def block_markup(block: Block, drawn: Drawings = ON_PAGE) -> Markup:
    """One of its blocks."""
    if isinstance(block, Table):
        return _table(block, drawn)
    if isinstance(block, Words):
        if block.about:
            text_alone = "".join(said for said, _ in block.spans)
            spans = [
                element("span", drawn.reference(text_alone, block.about), class_=classes(block.spans[0][1]))
            ]
        else:
            spans = [element("span", said, class_=classes(style)) for said, style in block.spans]
        return element("p", *spans, class_="indented" if block.indent else None)
    if isinstance(block, Labelled):
        return element("dl", *_pairs(block.pairs), class_="facts")
    if isinstance(block, Copyable):
        return element("p", f"{block.label} ", element("code", block.line), class_="command")
    if isinstance(block, DotPlot):
        return drawn.dots(block)
    return _matrix(block, drawn)


def _matrix(block: AttentionMatrices | Grid | Figures, drawn: Drawings) -> Markup:
    if isinstance(block, AttentionMatrices):
        return attention_tables(block)
    return grid_table(block, drawn) if isinstance(block, Grid) else figure_tables(block)


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[Markup]:
    """Labels with all that is said of each."""
    groups: list[tuple[str, list[str]]] = []
    for label, said in pairs:
        if label or not groups:
            groups.append((label, []))
        groups[-1][1].append(said)
    return [
        element("div", element("dt", label), *(element("dd", said) for said in texts), class_="fact")
        for label, texts in groups
    ]


def _table(block: Table, drawn: Drawings) -> Markup:
    columns = [column for column in block.columns if any(column.cell(row) != "" for row in block.rows)]
    spans = [_span(column, block.rows) for column in columns]
    titles = [
        element(
            "th" if own.title else "td",
            own.title,
            scope="col" if own.title else None,
            class_=_side(own),
            colspan=span,
        )
        for own, span in zip(columns, spans, strict=True)
    ]
    head = [element("thead", element("tr", *titles))] if any(own.title for own in columns) else []
    body = [_row(block, columns, spans, row, drawn) for row in block.rows]
    return wide(element("table", *head, element("tbody", *body)))


def _span(column: Column, rows: Sequence[Any]) -> str | None:
    """Two, where elements have their values beside their places."""
    cells = map(column.cell, rows)
    return "2" if any(isinstance(cell, ElementCell) and cell.value for cell in cells) else None


def wide(table: Markup) -> Markup:
    """A table that may be wider than its room."""
    return element("div", table, class_="wide", tabindex="0", role="group", aria_label="table")


def _row(
    block: Table, columns: Sequence[Column], spans: Sequence[str | None], row: Any, drawn: Drawings
) -> Markup:
    about = block.about(row) if block.about else ""
    named = next((place for place, column in enumerate(columns) if _has_words(column.cell(row))), 0)
    cells = []
    for place, (column, span) in enumerate(zip(columns, spans, strict=True)):
        cell = column.cell(row)
        style = " ".join(filter(None, (_side(column), classes(column.style_of(row)))))
        if span and isinstance(cell, ElementCell):
            cells.append(element("td", _element(cell, drawn), class_=style or None))
            cells.append(element("td", cell.value, class_="n"))
            continue
        shown = cell_markup(cell, drawn)
        if about and place == named:
            shown = drawn.reference(shown, about)
        cells.append(element("td", shown, class_=style or None, colspan=span))
    return element("tr", *cells)


def _has_words(cell: Cell) -> bool:
    """Whether a cell can lead somewhere: a mark alone says not where."""
    return isinstance(cell, str) and any(map(str.isalnum, cell))


def _side(column: Column) -> str | None:
    """How a column stands: numbers at the right, and nothing broken but what may be."""
    return "n" if column.right else None if column.wrap else "whole"


def cell_markup(cell: Cell, drawn: Drawings = ON_PAGE) -> Markup:
    """What a cell shows."""
    if isinstance(cell, Bar):
        return drawn.share_bar(cell.share)
    if isinstance(cell, SignedBar):
        return Markup() if cell.value is None else drawn.signed_bar(cell.value, cell.scale)
    if isinstance(cell, Sparkline):
        return drawn.sparkline(cell.values)
    return _element(cell, drawn) if isinstance(cell, ElementCell) else text(cell)


def _element(cell: ElementCell, drawn: Drawings) -> Markup:
    """The place of an element, which leads to it."""
    return drawn.reference(cell.place, cell.about) if cell.about else text(cell.place)


def classes(style: str) -> str | None:
    """Styles as classes: "bold red" is "is-bold is-red"."""
    return " ".join(f"is-{word}" for word in style.split()) or None


def attention_tables(block: AttentionMatrices) -> Markup:
    """The weights of every head, or of those that come first as far as there is room."""
    labels, count = [shown_token(label) for label in block.labels], len(block.order)
    heads = sorted(block.order[: MOST_WEIGHTS // len(labels) ** 2])
    said = [element("p", "Attention weights in percent, row = query, column = key", class_="is-dim")]
    if len(heads) < count:
        said.append(element("p", f"{len(heads)} of {count} heads, {block.more}", class_="is-dim"))
    tables = [_attention(head, block.weights[head], labels) for head in heads]
    return element("div", said[0], element("div", *tables, class_="planes"), *said[1:])


def _attention(head: int, weights: Array, labels: Sequence[str]) -> Markup:
    rows = [_seen(weights[query, : query + 1].tolist(), len(labels)) for query in range(len(labels))]
    return _labelled_table(f"head {head}", labels, zip(labels, rows, strict=True))


def _seen(weights: Sequence[float], length: int) -> list[Markup]:
    """What a query sees in percent, and one cell for the keys behind it."""
    seen = [element("td", _percent(weight), class_=f"n {shade(weight)}") for weight in weights]
    hidden = length - len(weights)
    return [*seen, element("td", class_="masked", colspan=str(hidden))] if hidden else seen


def _percent(weight: float) -> str:
    return f"{weight * 100:.0f}" if math.isfinite(weight) else "NaN"


def shade(share: float) -> str:
    """The class of a cell that is the darker the larger the share."""
    return f"shade-{round(SHADES * part_of(share))}"


def _labelled_table(
    caption: str, labels: Sequence[str], rows: Iterable[tuple[str, Iterable[Markup]]]
) -> Markup:
    head = element("tr", element("td"), *(element("th", label, scope="col", class_="n") for label in labels))
    body = [element("tr", element("th", label, scope="row"), *cells) for label, cells in rows]
    parts = (element("caption", caption), element("thead", head), element("tbody", *body))
    return element("table", *parts, class_="figures")


def grid_table(block: Grid, drawn: Drawings) -> Markup:
    """Shares by row and column; a cell that names an event leads to it."""
    heads = []
    for label, texts in block.heads:
        titles = [element("th", said, scope="col", class_="n") for said in texts]
        heads.append(element("tr", element("th", label, scope="row"), *titles))
    rows = []
    for row, (label, values) in enumerate(block.rows):
        cells = [_share(block, row, column, drawn) for column in range(len(values))]
        rows.append(element("tr", element("th", label, scope="row"), *cells))
    table = element("table", element("thead", *heads), element("tbody", *rows), class_="grid")
    return element("div", table, class_="wide", tabindex="0", role="group", aria_label="map")


def _share(block: Grid, row: int, column: int, drawn: Drawings) -> Markup:
    value = block.rows[row][1][column]
    said = two_decimals(value)
    shown = drawn.reference(said, block.about[row][column]) if block.about else said
    return element("td", shown, class_="n" if value is None else f"n {shade(value)}", data_share=said)


def figure_tables(block: Figures) -> Markup:
    """A matrix number by number, or one of each head."""
    matrices = list(block.values) if block.values.ndim == 3 else [block.values]
    shown = list(block.columns[:MOST_COLUMNS])
    tables = []
    heads = block.heads or range(len(matrices))
    for head, matrix in zip(heads, matrices, strict=True):
        cells = ([_number(value) for value in row[:MOST_COLUMNS].tolist()] for row in matrix)
        caption = f"head {head}" if block.values.ndim == 3 else "values"
        tables.append(_labelled_table(caption, shown, zip(block.rows, cells, strict=False)))
    left = {"rows": block.row_count - len(matrices[0]), "columns": len(block.columns) - len(shown)}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    more = [element("p", f"… {said}{block.more}")] if said else []
    return element("div", *tables, *more, class_="wide", tabindex="0", role="group", aria_label="numbers")


def _number(value: float) -> Markup:
    return element("td", finite_or_named(value), class_="n")
