"""What a notebook shows, asked of a real kernel."""

import os
import re
from html import unescape
from pathlib import Path

import pytest
from support.terminal import contrast, printed

from microgpt_trace import init, trace
from microgpt_trace.render.html import _COLORS

ROOT = Path(__file__).parents[2]
CELLS = (
    "from microgpt_trace import explain, init, trace\nmodel = init()\ntrace(model, 'emma', backward=True)",
    "model",
    "explain(model, 'layer0.attn.scores[1,3,2]', 'emma')",
    "from microgpt_trace import plot_attention\nax = plot_attention(trace(model, 'emma'), head=0)",
)


@pytest.fixture(scope="module")
def outputs():
    """What each cell leaves."""
    reason = "nbclient and ipykernel, which run a notebook, are not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=list(map(new_code_cell, CELLS)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    nbclient.NotebookClient(notebook, timeout=60).execute(env=environment)
    return [cell.outputs for cell in notebook.cells]


def test_a_cell_shows_a_trace_once_and_without_escape_codes(outputs):
    """ipykernel sets FORCE_COLOR, and rich displays what it prints in a notebook."""
    (shown,) = outputs[0]
    assert shown.output_type == "execute_result"
    page = shown.data["text/html"]
    assert "\x1b" not in page
    assert page.count("<pre") == 1
    assert "Stage 2: Multi-Head Self-Attention" in page
    assert shown.data["text/plain"].startswith("Trace(text='emma', ")


@pytest.mark.parametrize("cell", [1, 2])
def test_everything_else_is_one_line_there(outputs, cell):
    (shown,) = outputs[cell]
    assert set(shown.data) == {"text/plain"}
    assert len(shown.data["text/plain"].splitlines()) == 1


def test_a_figure_is_shown_below_its_cell(outputs):
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
    (shown,) = outputs[3]
    assert shown.output_type == "display_data"
    assert "image/png" in shown.data


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_page_does_not_depend_on_the_terminal(monkeypatch, variables):
    usual = trace(init(), "emma")._repr_html_()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trace(init(), "emma")._repr_html_() == usual


def test_every_colour_is_read_on_white_and_on_black():
    page = trace(init(), "emma", backward=True)._repr_html_()
    papers = {(255, 255, 255), (17, 17, 17)}
    used = [(color, paper) for color in {*map(_COLORS.ansi_colors.__getitem__, range(8))} for paper in papers]
    for style in re.findall(r'<span style="([^"]*)"', page):
        codes = re.findall(r"(?:^|background-| )color: #([0-9a-f]{6})", style)
        if codes:
            color, *ground = (tuple(bytes.fromhex(code)) for code in codes)
            used += [(color, paper) for paper in ground or papers]
    assert len({*used}) >= 30
    for color, paper in used:
        assert contrast(color, paper) >= 3.9, (color, paper)


def test_the_page_has_the_text_of_the_terminal():
    from microgpt_trace.render.trace import trace_sections

    run = trace(init(), "emma")
    page = unescape(re.sub(r"<[^>]*>", "", run._repr_html_()))
    shown = printed(trace_sections(run), 110)
    start = shown.index("Attention weights")
    heads = shown[start : shown.index("Stage 3")]
    assert "▒50" in heads  # which on the page has a ground, no shade
    shown = shown.replace(heads, re.sub("[░▒▓█]", " ", heads))
    assert page.split() == shown.split()
