"""Sections as markup: tables, lists and small drawings that need no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...text.printable import shown_token
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
    return _MARKUP[type(block)](block, drawn)


def _words(block: Words, drawn: Drawings) -> Markup:
    spans = block.spans
    if block.about:
        whole = "".join(said for said, _ in spans)
        spans = [(drawn.reference(whole, block.about), spans[0][1])]
    shown = (element("span", said, class_=classes(style)) for said, style in spans)
    return element("p", *shown, class_="indented" if block.indent else None)


def _labelled(block: Labelled, drawn: Drawings) -> Markup:
    """Labels with all that is said of each."""
    groups: list[tuple[str, list[Markup]]] = []
    for label, said in block.pairs:
        if label or not groups:
            groups.append((label, []))
        groups[-1][1].append(element("dd", said))
    facts = (element("div", element("dt", label), *said, class_="fact") for label, said in groups)
    return element("dl", *facts, class_="facts")


def _copyable(block: Copyable, drawn: Drawings) -> Markup:
    return element("p", f"{block.label} ", element("code", block.line), class_="command")


def _table(block: Table, drawn: Drawings) -> Markup:
    columns = [column for column in block.columns if any(column.cell(row) != "" for row in block.rows)]
    spans = [_span(column, block.rows) for column in columns]
    titles = [_title(column, span) for column, span in zip(columns, spans, strict=True)]
    head = [element("thead", element("tr", *titles))] if any(column.title for column in columns) else []
    body = [_row(block, columns, spans, row, drawn) for row in block.rows]
    return _wide("table", element("table", *head, element("tbody", *body)))


def _span(column: Column, rows: Sequence[Any]) -> str | None:
    """Two, where elements have their values beside their places."""
    cells = map(column.cell, rows)
    return "2" if any(isinstance(cell, ElementCell) and cell.value for cell in cells) else None


def _title(column: Column, span: str | None) -> Markup:
    how = {"class_": _side(column), "colspan": span}
    return element("th", column.title, scope="col", **how) if column.title else element("td", **how)


def _row(
    block: Table, columns: Sequence[Column], spans: Sequence[str | None], row: Any, drawn: Drawings
) -> Markup:
    about = block.about(row) if block.about else ""
    named = next((place for place, column in enumerate(columns) if _has_words(column.cell(row))), 0)
    cells = []
    for place, (column, span) in enumerate(zip(columns, spans, strict=True)):
        cell = column.cell(row)
        style = " ".join(filter(None, (_side(column), classes(column.style_of(row)))))
        shown = _cell(cell, drawn)
        if about and place == named:
            shown = drawn.reference(shown, about)
        if span and isinstance(cell, ElementCell):
            cells += [element("td", shown, class_=style or None), element("td", cell.value, class_="n")]
        else:
            cells.append(element("td", shown, class_=style or None, colspan=span))
    return element("tr", *cells)


def _has_words(cell: Cell) -> bool:
    """Whether a cell can lead somewhere: a mark alone says not where."""
    return isinstance(cell, str) and any(map(str.isalnum, cell))


def _side(column: Column) -> str | None:
    """How a column stands: numbers at the right, and nothing broken but what may be."""
    return "n" if column.right else None if column.wrap else "whole"


def _cell(cell: Cell, drawn: Drawings) -> Markup:
    """What a cell shows; the place of an element leads to it."""
    if isinstance(cell, Bar):
        return drawn.share_bar(cell.share)
    if isinstance(cell, SignedBar):
        return Markup() if cell.value is None else drawn.signed_bar(cell.value, cell.scale)
    if isinstance(cell, Sparkline):
        return drawn.sparkline(cell.values)
    if isinstance(cell, ElementCell):
        return drawn.reference(cell.place, cell.about) if cell.about else text(cell.place)
    return text(cell)


def classes(style: str) -> str | None:
    """Styles as classes: "bold red" is "is-bold is-red"."""
    return " ".join(f"is-{word}" for word in style.split()) or None


def _attention(block: AttentionMatrices, drawn: Drawings) -> Markup:
    """The weights of every head, or of those that come first as far as there is room."""
    labels, count = [shown_token(label) for label in block.labels], len(block.order)
    heads = sorted(block.order[: MOST_WEIGHTS // len(labels) ** 2])
    said = [element("p", "Attention weights in percent, row = query, column = key", class_="is-dim")]
    if len(heads) < count:
        said.append(element("p", f"{len(heads)} of {count} heads, {block.more}", class_="is-dim"))
    tables = []
    for head in heads:
        rows = [
            _seen(row[: query + 1], len(labels)) for query, row in enumerate(block.weights[head].tolist())
        ]
        tables.append(_matrix([("", labels)], zip(labels, rows, strict=True), "figures", f"head {head}"))
    return element("div", said[0], element("div", *tables, class_="planes"), *said[1:])


def _seen(weights: Sequence[float], length: int) -> list[Markup]:
    """What a query sees in percent, and one cell for the keys behind it."""
    seen = [_shaded(f"{weight * 100:.0f}" if math.isfinite(weight) else "NaN", weight) for weight in weights]
    hidden = length - len(weights)
    return [*seen, element("td", class_="masked", colspan=str(hidden))] if hidden else seen


def _shaded(shown: str, share: float | None, **more: str) -> Markup:
    """A cell that is the darker the larger the share."""
    ground = "" if share is None else f" shade-{round(SHADES * clipped(share))}"
    return element("td", shown, class_=f"n{ground}", **more)


def _matrix(
    heads: Iterable[tuple[str, Iterable[str]]], rows: Iterable[tuple[str, Iterable[Markup]]], kind: str,
    caption: str = "",
) -> Markup:  # fmt: skip
    """A table of a kind: lines above the columns and rows of cells, each behind its label."""
    head = [
        element("tr", _corner(label), *(element("th", said, scope="col", class_="n") for said in texts))
        for label, texts in heads
    ]
    body = [element("tr", element("th", label, scope="row"), *cells) for label, cells in rows]
    above = [element("caption", caption)] if caption else []
    return element("table", *above, element("thead", *head), element("tbody", *body), class_=kind)


def _corner(label: str) -> Markup:
    return element("th", label, scope="row") if label else element("td")


def _grid(block: Grid, drawn: Drawings) -> Markup:
    """Shares by row and column; a cell that names an event leads to it."""
    abouts = block.about or [[""] * len(block.numbers)] * len(block.rows)
    rows = (
        (label, [_share(value, about, drawn) for value, about in zip(values, names, strict=True)])
        for (label, values), names in zip(block.rows, abouts, strict=True)
    )
    return _wide("map", _matrix(block.heads, rows, "grid"))


def _share(value: float | None, about: str, drawn: Drawings) -> Markup:
    said = two_decimals(value)
    return _shaded(drawn.reference(said, about) if about else said, value, data_share=said)


def _figures(block: Figures, drawn: Drawings) -> Markup:
    """A matrix number by number, or one of each head."""
    matrices = list(block.values) if block.heads else [block.values]
    captions = [f"head {head}" for head in block.heads] or ["values"]
    shown = block.columns[:MOST_COLUMNS]
    tables = []
    for caption, matrix in zip(captions, matrices, strict=True):
        cells = ([_number(value) for value in row] for row in matrix[:, :MOST_COLUMNS].tolist())
        tables.append(_matrix([("", shown)], zip(block.rows, cells, strict=False), "figures", caption))
    left = {"rows": block.row_count - len(matrices[0]), "columns": len(block.columns) - len(shown)}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    return _wide("numbers", *tables, *[element("p", f"… {said}{block.more}")] * bool(said))


def _number(value: float) -> Markup:
    return element("td", finite_or_named(value), class_="n")


def _wide(label: str, *shown: Markup) -> Markup:
    """What may be wider than its room."""
    return element("div", *shown, class_="wide", tabindex="0", role="group", aria_label=label)


_MARKUP: dict[type[Block], Callable[[Any, Drawings], Markup]] = {
    Table: _table, Words: _words, Labelled: _labelled, Copyable: _copyable,
    DotPlot: lambda block, drawn: drawn.dots(block),
    AttentionMatrices: _attention, Grid: _grid, Figures: _figures,
}  # fmt: skip
