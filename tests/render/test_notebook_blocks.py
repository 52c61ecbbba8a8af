"""Bars, curves, matrices and tables in a notebook show their numbers."""

import numpy as np
import pytest
from support.notebook_pages import Parsed, color_of, styles

from microgpt_trace.render.notebook_html import IN_NOTEBOOK, with_styles_inline
from microgpt_trace.render.page.section_markup import block_markup
from microgpt_trace.render.sections import (
    AttentionMatrices,
    Bar,
    Column,
    DotPlot,
    ElementCell,
    Grid,
    SignedBar,
    Sparkline,
    Table,
)


def shown_block(block):
    return Parsed(with_styles_inline(block_markup(block, IN_NOTEBOOK)))


def marks_of(cell):
    """Return the characters of a cell."""
    (piece,) = shown_block(Table([Column("", lambda row: row)], [cell])).pieces
    return piece.text


@pytest.mark.parametrize(
    ("cell", "marks"),
    [
        (Bar(0.25, 10), "███"),
        (Bar(1.5, 10), "█" * 12),
        (SignedBar(0.5, 1.0), " " * 10 + "│█████"),
        (SignedBar(-2.0, 2.0), "█" * 10 + "│"),
    ],
)
def test_the_length_of_a_bar_is_its_value(cell, marks):
    assert marks_of(cell) == marks


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.0, 1.0], "▁█"),
        ([0.0, None, 4.0, 7.0], "▁ ▅█"),
        ([1.0, float("inf"), 2.0], "▁?█"),
        ([8.9442, 8.9443], "▁▁"),  # a constant norm with rounding
        ([-1e308, 1e308], "▁█"),
        ([float(n // 2) for n in range(60)], "▁▁▁▁▂▂▂▂▃▃▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇▇████"),
    ],
)
def test_a_sparkline_has_a_mark_for_each_value_or_mean(values, marks):
    assert marks_of(Sparkline(values)) == marks


def test_a_plot_has_a_column_for_each_mean():
    lines = [piece.text for piece in shown_block(DotPlot([4.0, 1.0, 2.5], 10, 12)).pieces]
    assert (lines[0], lines[7], lines[8]) == ("  4.00 │•  ", "  1.00 │ • ", "        10 12")
    assert [line[8:].rstrip() for line in lines[1:7]] == ["", "", "  •", "", "", ""]


def test_attention_weights_are_in_percent_and_darker_if_larger():
    weights = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.1, float("nan"), 0.9]]])
    shown = shown_block(AttentionMatrices(weights, ["a b", "c", "d"], [0]))
    cells = [(p.text, styles(p.around[-1][1])) for p in shown.pieces if p.around[-1][0] == "td"]
    assert [text for text, _ in cells] == ["100", "25", "75", "10", "NaN", "90"]
    shades = [color_of(style["background-color"])[3] for _, style in cells]
    assert shades == pytest.approx([0.5, 0.125, 0.375, 0.05, 0, 0.45], abs=0.02)


def test_the_first_heads_in_order_are_shown_if_not_all_fit():
    weights = np.tile(np.eye(30), (4, 1, 1))
    shown = shown_block(AttentionMatrices(weights, ["a"] * 30, [2, 0, 3, 1], "the best; others: ask"))
    assert [p.text for p in shown.pieces if p.text.startswith("head")] == ["head 0", "head 2"]
    assert "2 of 4 heads, the best; others: ask" in shown.text()


def test_an_element_and_its_value_are_in_two_columns():
    rows = [ElementCell("[0,1]", "0.5", "q[0,1]"), "sum"]
    shown = shown_block(Table([Column("q", lambda row: row)], rows))
    assert [a.get("colspan") for tag, a in shown.elements if tag in ("th", "td")] == ["2", None, None, "2"]
    assert [a["title"] for a in shown.of("span")] == ["q[0,1]"]
    assert [p.text for p in shown.pieces] == ["q", "[0,1]", "0.5", "sum"]


def test_a_grid_has_its_numbers_and_their_sites():
    values = (0.5, None, -0.0001, float("nan"), 12345.0)
    about = [[f"layer0.attn.head{n}" for n in range(5)]]
    shown = shown_block(Grid([("head", "01234")], range(5), [("layer 0", values)], about))
    cells = [(p.text, p.around[-1][1]["title"]) for p in shown.pieces if p.around[-1][0] == "span"]
    assert cells == list(zip(("0.50", "–", "0.00", "NaN", "1e+04"), about[0], strict=True))
