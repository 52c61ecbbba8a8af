"""`microgpt patch` from the shell: tables, documents, exit codes and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.commands import microgpt, refused
from support.documents import valid
from support.terminal import rendered

from microgpt_trace import Model, init
from microgpt_trace.patching.patch import patch
from microgpt_trace.render.documents.schemas import schema_of_document
from microgpt_trace.render.results.patching_sections import patch_sections
from microgpt_trace.render.sections import Grid, Section
from microgpt_trace.text.json_writing import result_json

EVERY_TABLE = ("--sites", "layer*.mlp.residual", "--sites", "*.head*", "--sites", "layer0.attn.v@-1:0-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoints):
    """A trained model `m.safetensors`, and a file of pairs."""
    root = tmp_path_factory.mktemp("patch")
    (root / "m.safetensors").symlink_to(checkpoints["trained"])
    (root / "pairs").write_text("# names\nanna\talma\te\tk\nemma\temmy\n")
    return root


def run(folder, *args, **options):
    return microgpt("patch", *args, cwd=folder, **options)


def test_patches_an_untrained_model(folder):
    done = run(folder, "emma", "emmy", "--target", "m", "--against", "y")
    print(done.out)
    assert done.code == 0, done.err
    assert done.err == ""
    for line in (
        "model      untrained, seed 42", "clean      BOS e m m a", "corrupted  BOS e m m y",
        "metric     logit(m) - logit(y) after position 4 a", "embed.norm   0.00   0.00   0.00   0.00  █1.00",
        "layer 0      0.00   0.00   0.00   0.00  █1.00",
        "position 4 a/y restores more than half of the difference: embed.norm to layer 0",
    ):  # fmt: skip
        assert line in done.out
    assert "Self-check holds" in done.out


@pytest.mark.parametrize(
    "arguments", [("m.safetensors", "anna", "alma"), ("anna", "alma", "--model", "m.safetensors")]
)
def test_the_model_is_named_in_two_ways(folder, arguments):
    done = run(folder, *arguments, "--target", "e", "--against", "k", "--sites", "layer*.attn.head*")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["head", "0", "1", "2", "3"] in lines
    assert sum(line[:2] == ["layer", "0"] for line in lines) == 1


@pytest.mark.parametrize(("kind", "args"), [
    ("patch", ("anna", "alma", "--target", "e", "--against", "k")),
    ("patch_pairs", ("--pairs", "pairs", "--target", "e", "--against", "k")),
])  # fmt: skip
def test_documents_fit_their_schemas(folder, kind, args):
    done = run(folder, *args, *EVERY_TABLE, "--json")
    asked = ("--pairs", folder / "pairs") if kind == "patch_pairs" else ()
    document = valid(done.out, "patch", *asked)
    assert document["schema"] == f"microgpt.{kind}/1"
    assert json.loads(run(folder, *asked, "--schema").out) == schema_of_document(kind)
    assert len(document["cells"]) == 5 + 4 + 1
    assert document["cells"][-1]["site"] == "layer0.attn.v@-1:0-3"


def test_values_that_are_not_finite_are_shown_and_serialised():
    sites = ["embed.norm", "*.head*", "embed.tok@1"]
    result = patch(init(), "emma", "emmy", target="m", against="y", sites=sites)
    values = [np.nan, np.inf, -np.inf, 12345.6, -0.001]
    cells = [replace(c, restored=v, difference=v) for c, v in zip(result.cells, values * 2, strict=True)]
    result = replace(result, cells=tuple(cells))
    text = rendered(patch_sections(result), 80)
    print(text)
    for said in ("NaN", " inf", "-inf", "1e+04", " 0.00"):
        assert said in text
    document = valid(result_json(result), "patch")
    assert document["cells"][0]["restored"] == "NaN"


def test_a_wide_grid_is_split_and_leaves_out_zero_columns():
    rows = [("layer 0", [0.0] * 5 + [0.5] * 20 + [0.001] * 3)]
    grid = Grid([("position", list(map(str, range(28))))], range(28), rows)
    text = rendered([Section([grid])], 80)
    lines = text.splitlines()
    assert lines[0].split() == ["position", *map(str, range(5, 15))]
    assert "not shown, since all values round to 0.00: position 0, 1, 2, 3, 4, 25, 26, 27" in text
    assert max(map(len, lines)) <= 80


def test_a_failed_check_exits_with_1(monkeypatch):
    plain = Model.edited_logits

    def wrong(*args):
        return ((number, logits * 1.01) for number, logits in plain(*args))

    monkeypatch.setattr(Model, "edited_logits", wrong)
    done = microgpt("patch", "emma", "emmy", "--target", "m", "--against", "y")
    assert done.code == 1
    assert "Self-check FAILED" in done.out


def test_refuses_a_target_that_is_not_utf8(decoder_folder):
    refused(microgpt("patch", decoder_folder("llama_gqa"), "e", "a", "--target", "\udcff"), "no such token")
