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
    Listing,
    Section,
    SignedBar,
    Sparkline,
    Table,
    Words,
)
from .drawings import dots, share_bar, signed_bar, sparkline
from .markup import Markup, element, inner, text
from .matrix_markup import attention_tables, figure_tables, grid_table


def section_markup(section: Section, anchor: str | None = None) -> Markup:
    """A section under its title."""
    aside = element("small", f" {section.aside}") if section.aside else Markup()
    title = [element("h2", section.title, aside, class_=_classes(section.style))] if section.title else []
    return element("section", *title, *map(block_markup, section.blocks), id=anchor, class_="card")


def block_markup(block: Block) -> Markup:
    """One of its blocks."""
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Words):
        spans = [element("span", said, class_=_classes(style)) for said, style in block.spans]
        return element("p", *spans, class_="indented" if block.indent else None)
    if isinstance(block, Labelled):
        return element("dl", *_pairs(block.pairs), class_="facts")
    if isinstance(block, Copyable):
        return element("p", f"{block.label} ", element("code", block.line), class_="command")
    if isinstance(block, Listing):
        items = [element("li", said, class_=_classes(style)) for said, style in block.texts]
        return element("ul", *items, class_="listing")
    if isinstance(block, DotPlot):
        return dots(block)
    return _matrix(block)


def _matrix(block: AttentionMatrices | Grid | Figures) -> Markup:
    if isinstance(block, AttentionMatrices):
        return attention_tables(block)
    return grid_table(block) if isinstance(block, Grid) else figure_tables(block)


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[Markup]:
    """Labels with all that is said of each."""
    groups: list[tuple[str, list[str]]] = []
    for label, said in pairs:
        if label or not groups:
            groups.append((label, []))
        groups[-1][1].append(said)
    return [
        element("div", element("dt", label), *(element("dd", said) for said in texts))
        for label, texts in groups
    ]


def _table(block: Table) -> Markup:
    columns = [column for column in block.columns if any(column.cell(row) != "" for row in block.rows)]
    head = element("tr", *(element("th", own.title, scope="col", class_=_side(own)) for own in columns))
    body = [_row(block, columns, row) for row in block.rows]
    return wide(element("table", element("thead", head), element("tbody", *body)))


def wide(table: Markup) -> Markup:
    """A table that may be wider than its room."""
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label="table")


def _row(block: Table, columns: Sequence[Column], row: Any) -> Markup:
    about = block.about(row) if block.about else None
    cells = []
    for place, column in enumerate(columns):
        shown = cell_markup(column.cell(row))
        if about and not place:
            shown = element("a", shown, href=f"#{about}")
        style = _classes(column.style(row)) if column.style else ""
        cells.append(element("td", shown, class_=" ".join(filter(None, (_side(column), style))) or None))
    return element("tr", *cells)


def _side(column: Column) -> str | None:
    return "n" if column.right else None


def cell_markup(cell: Cell) -> Markup:
    """What a cell shows."""
    if isinstance(cell, Bar):
        return share_bar(cell.share)
    if isinstance(cell, SignedBar):
        return Markup() if cell.value is None else signed_bar(cell.value, cell.scale)
    if isinstance(cell, Sparkline):
        return sparkline(cell.values)
    if isinstance(cell, ElementCell):
        place = element("a", cell.place, href=f"#{cell.about}") if cell.about else text(cell.place)
        return inner([place, " ", element("span", cell.value, class_="n")])
    return text(cell)


def _classes(style: str) -> str | None:
    """Styles as classes: "bold red" is "is-bold is-red"."""
    return " ".join(f"is-{word}" for word in style.split()) or None
