"""Matrices as tables that need no script: attention by head, grids of shares, numbers under labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...arrays.stats import Array
from ...text.printable import shown_token
from ..characters import part_of
from ..numbers import finite_or_named, two_decimals
from ..sections import AttentionMatrices, Figures, Grid
from .drawings import Drawings
from .markup import Markup, element

MOST_WEIGHTS = 2500  # of the heads that are shown
MOST_COLUMNS = 64  # of a table of numbers
SHADES = 20  # of a cell, from nothing to a share of 1


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
    rows = [
        element(
            "tr", element("th", label, scope="row"), *_row(weights[query, : query + 1].tolist(), len(labels))
        )
        for query, label in enumerate(labels)
    ]
    return _labelled_table(f"head {head}", labels, rows)


def _row(weights: Sequence[float], length: int) -> list[Markup]:
    """What a query sees in percent, and one cell for the keys behind it."""
    seen = [element("td", _percent(weight), class_=f"n {shade(weight)}") for weight in weights]
    hidden = length - len(weights)
    return [*seen, element("td", class_="masked", colspan=str(hidden))] if hidden else seen


def _percent(weight: float) -> str:
    return f"{weight * 100:.0f}" if math.isfinite(weight) else "NaN"


def shade(share: float) -> str:
    """The class of a cell that is the darker the larger the share."""
    return f"shade-{round(SHADES * part_of(share))}"


def _labelled_table(caption: str, labels: Sequence[str], rows: Sequence[Markup]) -> Markup:
    head = element("tr", element("td"), *(element("th", label, scope="col", class_="n") for label in labels))
    return element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *rows),
        class_="figures",
    )


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
        rows = [
            element(
                "tr",
                element("th", label, scope="row"),
                *(
                    element("td", finite_or_named(value), class_="n")
                    for value in values[:MOST_COLUMNS].tolist()
                ),
            )
            for label, values in zip(block.rows, matrix, strict=False)
        ]
        caption = f"head {head}" if block.values.ndim == 3 else "values"
        tables.append(_labelled_table(caption, shown, rows))
    left = {"rows": block.row_count - len(matrices[0]), "columns": len(block.columns) - len(shown)}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    more = [element("p", f"… {said}{block.more}")] if said else []
    return element("div", *tables, *more, class_="wide", tabindex="0", role="group", aria_label="numbers")
