"""The notebook of the pages, run by a real kernel: what it shows, and that it is true whatever comes out."""

import json
import os

import pytest
from support.pages import ROOT

NOTEBOOK = ROOT / "docs" / "microgpt.ipynb"
PATCHED = 'patch(model, "lara", "eira", target="n", against="EOS", sites=["embed.norm", "layer0.attn.head*"])'
FIGURE = "from microgpt_trace import plot_attention\nax = plot_attention(run, head=0)"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each cell leaves, by what the cell ends with, and a figure."""
    reason = "nbclient and ipykernel, which run a notebook, are not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    figure = nbformat.v4.new_code_cell(FIGURE)
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=[*notebook.cells, figure]), timeout=120, kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}},
    )  # fmt: skip
    client.nb.cells[-1].metadata["tags"] = ["raises-exception"]  # where figures cannot be drawn
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    cells = [cell for cell in client.nb.cells if cell.cell_type == "code"]
    return {cell.source.strip().splitlines()[-1]: cell.outputs for cell in cells}


@pytest.fixture(scope="module")
def shown(outputs):
    """The data of what cells end with."""
    results = ((line, own) for line, found in outputs.items() for own in found)
    return {line: own.data for line, own in results if own.output_type == "execute_result"}


def test_a_trace_shows_its_tables_and_its_page(shown):
    """ipykernel sets FORCE_COLOR, and rich would display what it prints in a notebook."""
    html = shown["run"]["text/html"]
    assert html.count("<iframe ") == 1
    assert html.index("Stage 2: Multi-Head Self-Attention") < html.index("<iframe ")
    assert "\x1b" not in html
    assert shown["run"]["text/plain"].startswith("Trace(text='emma', ")


KINDS = {
    "model": "Model",
    "run.predictions": "Predictions",
    'explain(model, "layer0.attn.scores[1,3,2]", "emma")': "Explanation",
    'attribute(model, "emma")': "AttributionResult",
    "without": "Trace",
    PATCHED: "PatchResult",
    'explain(model, "layer0.mlp.act[3,5]", "emma", backward=True)': "Explanation",
    "max(checks, key=lambda check: check.relative_error)": "GradientCheck",
    'diff(untrained, model, "emma")': "Comparison",
}


def test_so_do_the_others_beside_a_line_of_text(shown):
    for line, kind in KINDS.items():
        assert set(shown[line]) == {"text/plain", "text/html"}, line
        assert shown[line]["text/html"].startswith("<div "), line
        assert "<table" in shown[line]["text/html"], line
        (said,) = shown[line]["text/plain"].splitlines()
        assert said.startswith(f"{kind}("), line


def test_nothing_but_results_is_shown(outputs):
    """No cell warns or writes to stderr."""
    found = [o for line, own in outputs.items() if line not in FIGURE for o in own]
    assert {o.output_type for o in found} == {"execute_result", "stream"}
    assert {o.name for o in found if o.output_type == "stream"} == {"stdout"}


def test_a_figure_is_shown_below_its_cell(outputs):
    pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")
    (drawn,) = outputs[FIGURE.splitlines()[-1]]
    assert drawn.output_type == "display_data"
    assert "image/png" in drawn.data


def test_the_notebook_is_handed_out_without_what_it_gave():
    """Which would be of another machine, and 0.6 MB."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    assert [c for c in cells if c.get("outputs") or c.get("execution_count")] == []
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert len({cell["id"] for cell in cells}) == len(cells)
