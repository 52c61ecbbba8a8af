"""Files of models with experts: every form has the logits of transformers, and damaged files are refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import microgpt, refusal
from support.expert_files import FORMS, KINDS, ROWS, expert_model, write_form
from support.hostile import open_safely
from support.tiny_tokenizer import write_tokenizer
from support.torch_models import IN_GGUF, torch_model

from microgpt_trace import load, trace
from microgpt_trace.explaining.explain import explain
from microgpt_trace.surveying.state import fingerprint_of, weights_of
from microgpt_trace.weights.weights_comparison import compare_weights

torch = pytest.importorskip("torch", reason="the judge of models with experts is transformers")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf", reason="the package gguf writes the files")

IDS = [17, 3, 44, 3, 60, 0, 29, 8, 5, 21, 33, 12, 50, 2, 40, 7, 19, 26, 11]


@pytest.fixture(scope="module", params=KINDS)
def files(request, tmp_path_factory):
    """The model of transformers, and the path of each form."""
    theirs, folder = expert_model(request.param), tmp_path_factory.mktemp(request.param)
    paths = {form: write_form(theirs, form, folder) for form in FORMS}
    return theirs, {form: path for form, path in paths.items() if path}


def test_every_form_has_the_logits_of_transformers_and_the_same_weights(files):
    theirs, paths = files
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    first = load(paths["hub"])
    for form, path in paths.items():
        ours = load(path)
        for model in (ours, ours.for_many_passes()):
            found = trace(model, tokens=IDS, positions="all", names=["logits"], values=True)["logits"]
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            print(form, error, ours.assumed)
            assert error < 5e-6
        weights = compare_weights(first, ours)
        print(len(weights.rows), "parameters,", [row.name for row in weights.rows if not row.equal], "differ")
        assert weights.same


def test_inspect_counts_the_bytes_of_all_tensors(files):
    for form, path in files[1].items():
        if path.is_dir():
            contents = [file.read_bytes() for file in path.glob("*.safetensors")]
            expected = sum(len(own) - 8 - int.from_bytes(own[:8], "little") for own in contents)
        else:
            expected = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)
        rows = json.loads(microgpt("inspect", path, "--stats", "--json").out)["parameters"]
        found = sum(row["bytes"] for row in rows)
        print(form, len(rows), "parameters", found, expected, rows[-1]["stored_as"])
        assert found == expected


def test_the_name_of_joined_tensors_shows_the_layer(files):
    name = load(files[1]["hub"]).tensors["layer0.mlp_wgate_experts"].name
    print(name)
    assert name.startswith("model.layers.0.")


def test_explain_finds_the_position_to_which_a_weight_of_an_expert_adds_most(files):
    names = ["layer1.mlp.chosen", "layer1.mlp.norm", "layer1.mlp.up"]
    for form, path in files[1].items():
        model = load(path)
        traced = trace(model, tokens=IDS, positions="all", names=names, values=True)
        chosen, norm, up = (traced[name] for name in names)
        expert = int(chosen[3, 0])
        positions, places = np.nonzero(chosen == expert)
        column = int(model.tensors["layer1.mlp_wup_experts"].read()[expert, 7].nonzero()[0][-1])
        best = np.abs(norm[positions, column]).argmax()
        channel = places[best] * up.shape[1] // chosen.shape[1] + 7
        parameters = {"layer1.mlp_wup_experts": (expert, 7, column), "layer1.mlp_bup_experts": (expert, 7)}
        for name, index in parameters.items():
            if name not in model.tensors:
                continue
            explained = explain(model, f"{name}[{','.join(map(str, index))}]", tokens=IDS)
            (use,) = explained.uses
            print(form, explained.element, use, explained.notes, positions, channel)
            assert explained.traced == model.tensors[name].read()[index]
            assert use.count == len(positions)
            assert use.name == f"layer1.mlp.up[{positions[best]},{channel}]" or "_b" in name


# --- Quantised experts ------------------------------------------------------------------------

QUANTISED = {"qwen2_moe": ("Q8_0", "quantised.gguf"), "gpt_oss": ("MXFP4", "MXFP4")}


@pytest.mark.parametrize(("kind", "of_kind"), QUANTISED.items())
def test_rounding_explains_quantised_experts_and_finds_a_wrong_one(kind, of_kind, tmp_path):
    theirs, (type, form) = torch_model(kind, IN_GGUF[kind] | ROWS), of_kind
    exact, other = (load(write_form(theirs, own, tmp_path)) for own in ("hub", form))
    rows = [row for row in compare_weights(exact, other).rows if row.type_b == type]
    ratios = [row.relative_l2 / row.expected for row in rows]
    print(len(rows), "parameters of experts, error / expected error", min(ratios), max(ratios))
    assert all(row.holds for row in rows)
    assert len(rows) == 12
    assert 0.8 < min(ratios) < max(ratios) < 1.2
    matrix = theirs.model.layers[1].mlp.experts.down_proj.data[3]
    (matrix.T if kind == "gpt_oss" else matrix)[:4] *= -1
    (tmp_path / "wrong").mkdir()
    wrong = load(write_form(theirs, form, tmp_path / "wrong"))
    for model in (exact, other):
        failing = [row for row in compare_weights(model, wrong).rows if not row.holds]
        print([(row.name, row.cause, row.block) for row in failing])
        assert [row.name for row in failing] == ["layer1.mlp_wdown_experts"]
        assert failing[0].block[0] == 3
        assert ("have the same scale but no integer in common" in failing[0].cause) == (model is other)
    assert fingerprint_of(other) == fingerprint_of(load(tmp_path / form)) != fingerprint_of(wrong)


def test_an_importance_matrix_has_all_weights_of_a_file_except_experts(tmp_path):
    path = write_form(expert_model("qwen2_moe"), "gguf", tmp_path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    expected = {name for name in stored if name.endswith(".weight") and "norm" not in name}
    expected = {name for name in expected if name.startswith("blk.") and "_exps" not in name}
    weights = weights_of(load(path))
    print(len(weights), sorted(weights.keys() ^ expected))
    assert weights.keys() - {"output.weight"} == expected
    assert weights["blk.3.ffn_gate_inp_shexp.weight"] == "layer3.mlp.norm"
    folder = write_form(expert_model("qwen2_moe"), "hub", tmp_path)
    write_tokenizer(folder)
    (tmp_path / "texts.txt").write_text("the cat\n", encoding="utf-8")
    done = microgpt("survey", folder, tmp_path / "texts.txt", "--imatrix", tmp_path / "i.gguf")
    print(done.err)
    assert "i.gguf has no experts, because a survey does not sum" in done.err


# --- Damaged files ----------------------------------------------------------------------------

GONE = None
ONE, ALL, UP = "model.layers.1.mlp.experts.2.up_proj.weight", "model.layers.1.mlp.experts.", "gate_up_proj"
FEWER, SMALL, EMPTY = np.zeros((32, 31), "f4"), np.zeros((6, 63, 32), "f4"), np.zeros((1, 1 << 40, 0), "f4")
BYTES = np.zeros((6, 128, 1, 16), "u1")
DAMAGE = [  # the kind, the form, settings, tensors, and words of the error
    ("qwen3_moe", "hub", {}, {ONE: GONE}, "of expert 5, but none of expert 2"),
    ("qwen3_moe", "hub", {}, {ONE.replace("2", "5"): GONE}, "expected shape [6, 32, 32], found [5, 32, 32]"),
    ("qwen3_moe", "hub", {}, {ONE.replace("2", "9999"): FEWER}, "of expert 9999, but none of expert 6"),
    ("qwen3_moe", "hub", {}, {ONE: FEWER}, "0.up_proj.weight', found F32 of [32, 31]"),
    ("qwen3_moe", "hub", {}, {ONE: np.zeros((32, 32), "f2")}, "0.up_proj.weight', found F16 of [32, 32]"),
    ("qwen3_moe", "hub", {}, {ONE: np.zeros((32, 32), "u1")}, "expected F32, F16, BF16 of up to 8 dim"),
    ("qwen3_moe", "hub", {}, {ALL + UP: np.zeros((6, 64, 32), "f4")}, "both contain layer1.mlp_w"),
    ("qwen3_moe", "hub", {}, {ALL + "down_proj": SMALL}, "0.down_proj.weight' both contain layer1.mlp_wd"),
    ("qwen3_moe", "hub", {"num_experts": 5}, {}, "expected shape [5, 32], found [6, 32]"),
    ("qwen3_moe", "hub", {"num_experts": 2**31 - 1}, {}, "expected shape [2147483647, 32], found [6, 32]"),
    ("qwen3_moe", "hub", {"num_experts_per_tok": 0}, {}, "per_tok: expected a whole number above"),
    ("qwen3_moe", "hub", {"num_experts_per_tok": 7}, {}, "expected at most 6, as in num_local_experts"),
    ("qwen3_moe", "hub", {"mlp_only_layers": 0}, {}, "mlp_only_layers: expected numbers of layers, found 0"),
    ("qwen3_moe", "hub", {"num_experts_per_tok": 2**31 - 1, "num_experts": 2**31 - 1}, {}, "found [6, 32]"),
    ("qwen3_moe", "merged", {}, {ALL + UP: SMALL}, "as many rows of up as of gate, found 63"),
    ("qwen3_moe", "merged", {}, {ALL + UP: SMALL[0, 0]}, "as many rows of up as of gate, found 0"),
    ("qwen3_moe", "merged", {}, {ALL + UP: SMALL[:0]}, "expected numbers, found shape [0, 63, 32]"),
    ("qwen3_moe", "merged", {}, {ALL + UP: EMPTY}, "expected numbers, found shape [1, 1099511627776, 0]"),
    ("qwen3_moe", "merged", {}, {ALL + "down_proj": SMALL}, "expected shape [6, 32, 32], found [6, 63, 32]"),
    ("gpt_oss", "hub", {}, {ALL + "down_proj": SMALL}, "expected shape [6, 64, 32], found [6, 63, 32]"),
    ("gpt_oss", "hub", {}, {ALL + "down_proj": SMALL[:0]}, "expected numbers, found shape [0, 63, 32]"),
    ("gpt_oss", "hub", {}, {ALL + "down_proj_bias": GONE}, "tensor 'layer1.mlp_bdown_experts' is missing"),
    ("gpt_oss", "hub", {}, {ALL + UP + "_blocks": BYTES}, "_blocks' both contain layer1.mlp_wgate_up"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_scales": GONE}, "one of scales, found 'model.layers.1.mlp.exp"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_blocks": GONE}, "of blocks and one of scales, found"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_blocks": BYTES.astype("f4")}, "found F32 of shape [6, 128, 1"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_blocks": BYTES[..., 1:]}, "found U8 of shape [6, 128, 1, 15]"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_blocks": BYTES[0]}, "found U8 of shape [128, 1, 16]"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_scales": BYTES[..., 0, :2]}, "of shape [6, 128, 1], found U8 of"),
    ("gpt_oss", "MXFP4", {}, {ALL + UP + "_bias": BYTES[..., 0, 0]}, "_bias': expected F32, F16, BF16 of up"),
    ("gpt_oss", "MXFP4", {}, {ALL + "x_scales": BYTES}, "is not part of a gpt-oss (nearest: "),
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return a function that returns the folder of a kind and a form."""
    made = {}

    def folder(kind, form):
        if (kind, form) not in made:
            made[kind, form] = write_form(expert_model(kind), form, tmp_path_factory.mktemp(kind))
        return made[kind, form]

    return folder


@pytest.mark.parametrize(("kind", "form", "settings", "tensors", "words"), DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(kind, form, settings, tensors, words, good, tmp_path):
    shutil.copytree(good(kind, form), tmp_path, dirs_exist_ok=True)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    changed = {name: own for name, own in (load_file(weights) | tensors).items() if own is not GONE}
    save_file(changed, weights)
    assert words in open_safely(tmp_path)
    refusal("inspect", tmp_path)
