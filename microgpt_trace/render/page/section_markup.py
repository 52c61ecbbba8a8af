"""Sections as markup: tables, lists and small drawings that need no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from .drawings import ON_PAGE, Drawings
from .markup import Markup, element, text
from .matrix_markup import attention_tables, figure_tables, grid_table


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
        style = " ".join(filter(None, (_side(column), classes(column.style(row)) if column.style else "")))
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
