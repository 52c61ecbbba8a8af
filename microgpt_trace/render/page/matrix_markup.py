"""Matrices as tables that need no script: attention by head, grids of shares, numbers under labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...arrays.stats import Array
from ...text.printable import shown_token
from ..sections import AttentionMatrices, Figures, Grid
from .markup import Markup, element

MOST_COLUMNS = 64  # of a table of numbers


def attention_tables(block: AttentionMatrices) -> Markup:
    """The weights of every head in percent, rows = queries and columns = keys."""
    labels = [shown_token(label) for label in block.labels]
    tables = [_attention(head, weights, labels) for head, weights in enumerate(block.weights)]
    return element("div", *tables, class_="planes")


def _attention(head: int, weights: Array, labels: Sequence[str]) -> Markup:
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            *(_percent(weight, key > query) for key, weight in enumerate(weights[query].tolist())),
        )
        for query, label in enumerate(labels)
    ]
    return _labelled_table(f"head {head}", labels, rows)


def _percent(weight: float, masked: bool) -> Markup:
    if masked:
        return element("td", class_="masked")
    return element("td", f"{weight * 100:.0f}" if math.isfinite(weight) else "NaN", class_="n")


def _labelled_table(caption: str, labels: Sequence[str], rows: Sequence[Markup]) -> Markup:
    head = element("tr", element("td"), *(element("th", label, scope="col") for label in labels))
    return element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *rows),
        class_="figures",
    )


def grid_table(block: Grid) -> Markup:
    """Shares by row and column; a cell that names an event is a link to it."""
    heads = [
        element(
            "tr", element("th", label, scope="row"), *(element("th", said, scope="col") for said in texts)
        )
        for label, texts in block.heads
    ]
    rows = [
        element("tr", element("th", label, scope="row"), *(_share(block, r, c) for c in range(len(values))))
        for r, (label, values) in enumerate(block.rows)
    ]
    table = element("table", element("thead", *heads), element("tbody", *rows), class_="grid")
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label="map")


def _share(block: Grid, row: int, column: int) -> Markup:
    value = block.rows[row][1][column]
    said = "–" if value is None else f"{value:.2f}" if math.isfinite(value) else f"{value}"
    if not block.about:
        return element("td", said, class_="n", data_share=said)
    link = element("a", said, href=f"#{block.about[row][column]}")
    return element("td", link, class_="n", data_share=said)


def figure_tables(block: Figures) -> Markup:
    """A matrix number by number, or one of each head."""
    matrices = list(block.values) if block.values.ndim == 3 else [block.values]
    shown = list(block.columns[:MOST_COLUMNS])
    tables = []
    for head, matrix in enumerate(matrices):
        rows = [
            element(
                "tr",
                element("th", label, scope="row"),
                *(element("td", f"{value:.4g}", class_="n") for value in values[:MOST_COLUMNS].tolist()),
            )
            for label, values in zip(block.rows, matrix, strict=False)
        ]
        caption = f"head {head}" if block.values.ndim == 3 else "values"
        tables.append(_labelled_table(caption, shown, rows))
    left = {"rows": block.row_count - len(matrices[0]), "columns": len(block.columns) - len(shown)}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    more = [element("p", f"… {said}{block.more}")] if said else []
    return element("div", *tables, *more, class_="wide", tabindex="0", role="region", aria_label="numbers")
