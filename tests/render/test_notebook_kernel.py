"""The notebook of the documentation, run by a real kernel: what its cells show."""

import json
import os

import pytest
from support.pages import ROOT

NOTEBOOK = ROOT / "docs" / "microgpt.ipynb"
PATCHED = 'patch(model, "lara", "eira", target="n", against="EOS", sites=["embed.norm", "layer0.attn.head*"])'
FIGURE = 'print(run["layer0.attn.weights"].sum(axis=2).round(6))  # the sum of each row, for each head'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return the outputs of each cell by its last line."""
    reason = "nbclient and ipykernel, which run a notebook, are not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    cells = [cell for cell in client.nb.cells if cell.cell_type == "code"]
    return {cell.source.strip().splitlines()[-1]: cell.outputs for cell in cells}


@pytest.fixture(scope="module")
def shown(outputs):
    """Return the data of the result of each cell by its last line."""
    pairs = ((line, output) for line, cell in outputs.items() for output in cell)
    return {line: output.data for line, output in pairs if output.output_type == "execute_result"}


def test_a_trace_shows_its_tables_and_its_page(shown):
    """ipykernel sets FORCE_COLOR, with which rich would add colours."""
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


def test_other_results_show_tables_and_a_line_of_text(shown):
    for line, kind in KINDS.items():
        assert set(shown[line]) == {"text/plain", "text/html"}, line
        assert shown[line]["text/html"].startswith("<div "), line
        assert "<table" in shown[line]["text/html"], line
        (text,) = shown[line]["text/plain"].splitlines()
        assert text.startswith(f"{kind}("), line


def test_no_cell_warns_or_writes_to_stderr(outputs):
    others = [output for line, cell in outputs.items() if line != FIGURE for output in cell]
    assert {output.output_type for output in others} == {"execute_result", "stream"}
    assert {output.name for output in others if output.output_type == "stream"} == {"stdout"}


def test_a_figure_is_shown_below_its_cell(outputs):
    sums, figure = outputs[FIGURE]
    assert (sums.name, figure.output_type) == ("stdout", "display_data")
    assert "image/png" in figure.data


def test_the_notebook_is_stored_without_outputs():
    """Outputs would depend on the machine and take 0.6 MB."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    assert [c for c in cells if c.get("outputs") or c.get("execution_count")] == []
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert len({cell["id"] for cell in cells}) == len(cells)
