"""Hugging Face folders: configs are read as transformers reads them, and defaults are noted."""

import json

import numpy as np
import pytest
from attacks.formats.format import GONE
from attacks.formats.huggingface import huggingface
from safetensors.numpy import save_file
from support.judges_decoder import head_dim_of, rope_of, window_of
from support.tiny_models import (
    CASES,
    FIRST_WINDOWED,
    TOKENS,
    WINDOW,
    YARN,
    rope_4,
    rope_5,
    tiny_model,
    write_gguf,
)

from microgpt_trace import load, trace
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.decoder.problems import Problems
from microgpt_trace.errors import FileFormatError
from microgpt_trace.explaining.explain import explain
from microgpt_trace.readers.model_file import split_fused

DEFAULT = "(the default of transformers, since the config has no value)"


def loaded(folder, case="llama_gqa", tensors=(), **changes):
    """Load the model of a case with other settings and tensors; GONE removes one."""
    return load(huggingface(case).damaged(folder, changes, tensors))


# --- Matrices stored as [in, out] ---------------------------------------------------------------


@pytest.mark.parametrize(("name", "by_columns"), [("mlp_wdown[3,5]", True), ("attn_norm[3]", False)])
def test_notes_that_rows_of_a_parameter_are_columns_of_the_file(gpt2, name, by_columns):
    (note,) = explain(gpt2()[1], f"layer0.{name}", tokens=TOKENS).notes
    assert (", transposed" in note) == by_columns


SIZES = {"n_head": 4, "n_kv_head": 2, "head_dim": 8, "n_inner": 24}


def test_splits_a_fused_matrix_with_fewer_rows_of_k_and_v():
    rows = np.arange(256, dtype=np.float32).reshape(64, 4)
    fused = StoredTensor("qkv", ENCODINGS["F32"], rows.shape, rows.view(np.uint8).ravel())
    parts = split_fused({"layer0.attn_wqkv": fused}, SIZES, False, Problems())
    for name, expected in zip("qkv", np.split(rows, (32, 48)), strict=True):
        np.testing.assert_array_equal(parts.pop(f"layer0.attn_w{name}").read(), expected)
    assert not parts


def test_splits_gate_and_up_and_q_k_and_v_of_each_head():
    gate_up, qkv = (np.arange(4.0 * rows, dtype=np.float32).reshape(rows, 4) for rows in (48, 96))
    stored = {
        f"layer0.{kind}": StoredTensor(kind, ENCODINGS["F32"], rows.shape, rows.view(np.uint8).ravel())
        for kind, rows in (("mlp_wgate_up", gate_up), ("attn_wqkv", qkv))
    }
    parts = split_fused(stored, SIZES | {"n_kv_head": 4}, True, Problems())
    own = {name.removeprefix("layer0."): part.read() for name, part in parts.items()}
    np.testing.assert_array_equal(np.concatenate([own["mlp_wgate"], own["mlp_wup"]]), gate_up)
    heads = np.stack([own[f"attn_w{n}"].reshape(4, 8, 4) for n in "qkv"], axis=1)  # [H, 3, D, C]
    np.testing.assert_array_equal(heads.reshape(96, 4), qkv)


# --- The config -------------------------------------------------------------------------------

BIASES = {
    "llama_mha_bias": ("attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown"),
    **{case: ("attn_bq", "attn_bk", "attn_bv") for case in CASES if case.startswith("qwen2")},
}


@pytest.mark.parametrize("case", CASES)
def test_reads_configs_of_every_architecture_and_option(case, tmp_path):
    settings, model = CASES[case], loaded(tmp_path, case)
    config, rope = model.config, rope_of(settings)
    windows = [window_of(settings, i) for i in range(2)]
    expected = {
        "architecture": settings["model_type"],
        "head_dim": head_dim_of(settings),
        "norm_eps": settings["rms_norm_eps"],
        "tied": settings["tie_word_embeddings"],
        "qk_norm": settings["model_type"] == "qwen3",
        "window": max((w for w in windows if w), default=None),
        "windowed_layers": tuple(i for i in range(2) if windows[i]),
        "adjacent_pairs": False,
        "biases": BIASES.get(case, ()),
    }
    found = {name: getattr(config, name) for name in expected}
    print(found, expected, sep="\n")
    assert found == expected
    assert (config.rope.theta, config.rope.kind) == (rope["rope_theta"], rope["rope_type"])
    assert config.rope.factor == rope.get("factor", 1.0)
    yarn = rope["rope_type"] == "yarn" and "beta_fast" not in rope
    betas = (f"beta_fast = 32 {DEFAULT}", f"beta_slow = 1 {DEFAULT}")
    assert model.assumed == (betas if yarn else ())


SCALED = {
    "linear": {"factor": 4.0},
    "llama3": YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5, "truncate": False},
}


@pytest.mark.parametrize("kind", SCALED)
def test_the_old_and_the_new_keys_of_rope_mean_the_same(kind, tmp_path):
    rope = loaded(tmp_path, **rope_5(500.0, kind, **SCALED[kind])).config.rope
    for key in ("rope_type", "type"):
        old = rope_4(500.0, **{key: kind}, **SCALED[kind])
        assert loaded(tmp_path, rope_parameters=GONE, **old).config.rope == rope
    names = {"original_max_position_embeddings": "original_context"}
    assert {key: getattr(rope, names.get(key, key)) for key in SCALED[kind]} == SCALED[kind]


OWN_THETA = {"rope_type": "linear", "factor": 2.0}
CONTEXT = rope_5(10.0, "yarn", factor=8.0, beta_fast=2.0, beta_slow=1.0)
# case, settings, the resulting value, the note
DEFAULTS = [
    ("llama_gqa", {"rope_parameters": GONE}, ("theta", 10000.0), f"rope_theta = 10,000 {DEFAULT}"),
    ("llama_gqa", {"rope_parameters": OWN_THETA}, ("theta", 10000.0), f"rope_theta = 10,000 {DEFAULT}"),
    ("llama_gqa", WINDOW, ("windowed_layers", ()), "sliding_window is not used by a llama"),
    ("llama_gqa", CONTEXT, ("original_context", 64), f"original_max_position_embeddings = 64 {DEFAULT}"),
    ("llama_gqa", {"tie_word_embeddings": True}, ("tied", True), "lm_head.weight is not used"),
    ("qwen3", {"hidden_act": GONE}, ("qk_norm", True), f"hidden_act = silu {DEFAULT}"),
    ("qwen2", {"tie_word_embeddings": GONE}, ("tied", False), "tie_word_embeddings = false (lm_head.w"),
    ("qwen2_tied", {"tie_word_embeddings": GONE}, ("tied", True), "tie_word_embeddings = true (lm_head.w"),
    ("qwen2_tied", {"tie_word_embeddings": None}, ("tied", True), "tie_word_embeddings = true"),
    ("mistral", {"sliding_window": GONE}, ("window", 4096), f"sliding_window = 4,096 {DEFAULT}"),
    ("qwen2_window", {"sliding_window": GONE}, ("window", 4096), f"sliding_window = 4,096 {DEFAULT}"),
    ("qwen2_window", {"use_sliding_window": GONE}, ("window", None), f"use_sliding_window = false {DEFAULT}"),
]


@pytest.mark.parametrize(("case", "changes", "expected", "note"), DEFAULTS)
def test_notes_a_default(case, changes, expected, note, tmp_path):
    model = loaded(tmp_path, case, **changes)
    name, value = expected
    assert getattr(model.config, name, None) == value or getattr(model.config.rope, name) == value
    assert [text.startswith(note) for text in model.assumed] == [True]
    assert ("lm_head" in model.tensors) == (not model.config.tied)


def test_does_not_note_what_shapes_prove(tmp_path):
    model = loaded(tmp_path, "llama_mha_bias", num_key_value_heads=GONE, head_dim=GONE)
    assert (model.config.n_kv_head, model.config.head_dim, model.assumed) == (4, 8, ())


def test_reads_rope_theta_outside_of_rope_parameters(tmp_path):
    parameters = {"rope_parameters": {"rope_type": "llama3"} | SCALED["llama3"]}
    assert loaded(tmp_path, rope_theta=500.0, **parameters).config.rope.theta == 500.0


@pytest.mark.parametrize("case", ["qwen2_window", "qwen3"])
def test_reads_which_layers_have_a_window(case, tmp_path):
    for first, layers in {0: (0, 1), 1: (1,), 2: (), 28: (), 2**30: ()}.items():
        config = loaded(tmp_path, case, **WINDOW | {"max_window_layers": first}).config
        assert (config.window, config.windowed_layers) == (3 if layers else None, layers)
    config = loaded(tmp_path, case, **WINDOW, layer_types=FIRST_WINDOWED).config  # layer_types goes first
    assert (config.window, config.windowed_layers) == (3, (0,))


# --- Tensors ----------------------------------------------------------------------------------


def test_ignores_constants_of_old_files(tmp_path):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    assert loaded(tmp_path, tensors=old).tensors.keys() == loaded(tmp_path).tensors.keys()


def test_loads_weights_with_nan(tmp_path):
    weights = tiny_model("llama_gqa")[1]["model.layers.1.mlp.up_proj.weight"].copy()
    weights[5, 7] = np.nan
    model = loaded(tmp_path, tensors={"model.layers.1.mlp.up_proj.weight": weights})
    (event,) = trace(model, tokens=TOKENS, names=["layer1.mlp.up"]).events
    assert event.stats.nan_count == len(TOKENS)


# --- Parts besides the text part --------------------------------------------------------------

PREFIXES = {"model.": "language_model.model.", "lm_head": "language_model.lm_head"}
STYLES = {  # how the names of a text part begin in a file with other parts
    "transformers 4": PREFIXES,
    "transformers 5": {"model.": "model.language_model."},
    "without model": {"model.": "language_model.", "lm_head": "lm_head"},
    "no prefix": {},
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("case", ["llama_gqa", "qwen3_tied"])
def test_opens_the_text_part_of_a_model_of_texts_and_images(style, case, tmp_path):
    config, weights = tiny_model(case)
    plain = loaded(tmp_path / "plain", case)
    old = {name: next((p for p in STYLES[style] if name.startswith(p)), "") for name in weights}
    stored = {STYLES[style].get(old[n], "") + n.removeprefix(old[n]): own for n, own in weights.items()}
    ids = {"vision_tower.position_ids": np.arange(3)}  # int64
    stored |= ids | {"model.visual.q_proj.weight": np.zeros((2, 2)), "visual.k_proj.weight": np.zeros(2)}
    save_file(stored, tmp_path / "model.safetensors")
    inner = {key: value for key, value in config.items() if key != "tie_word_embeddings"}
    outer = {"model_type": "seen", "text_config": inner, "hidden_size": 7}
    outer |= {"tie_word_embeddings": config["tie_word_embeddings"]}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    model = load(tmp_path / "model.safetensors" if "prefix" in style else tmp_path)
    assert (model.config, model.tensors.keys()) == (plain.config, plain.tensors.keys())
    assert model.assumed[0] == "left out: 1 tensor of vision_tower and 2 tensors of visual"
    found, expected = (trace(own, tokens=TOKENS, values=True, names=["logits"]) for own in (model, plain))
    np.testing.assert_array_equal(found["logits"], expected["logits"])


def test_an_unknown_tensor_of_the_text_part_is_refused(tmp_path):
    config, weights = tiny_model("llama_gqa")
    stored = {name.replace("model.", "model.language_model."): own for name, own in weights.items()}
    save_file(
        stored | {"model.language_model.extra": np.zeros(2, np.float32)}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    with pytest.raises(FileFormatError, match=r"'model\.language_model\.extra' is not part of a Llama"):
        load(tmp_path)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path):
    _, weights = tiny_model("llama_gqa")
    layer = {n.replace("rs.1.", "rs.2."): own for n, own in weights.items() if ".layers.1." in n}
    zeros = np.zeros(2, np.float32)
    further = layer | {"model.layers.2.eh_proj.weight": zeros, "mtp.fc.weight": zeros}
    model = loaded(tmp_path, tensors=further, num_nextn_predict_layers=1)
    assert model.tensors.keys() == loaded(tmp_path / "plain").tensors.keys()
    assert model.assumed[0] == "left out: 11 tensors of multi-token prediction"
    with pytest.raises(FileFormatError, match=r"layers\.2\.eh_proj\.weight' is not part of a Llama"):
        loaded(tmp_path / "without", tensors=further)


def test_blocks_of_a_gguf_file_that_predict_further_tokens_are_left_out(tmp_path, monkeypatch):
    import gguf

    config, weights = tiny_model("qwen2")
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_context_length",
        lambda self, n: [self.add_uint32(f"qwen2.{k}", v) for k, v in
                         (("context_length", n), ("nextn_predict_layers", 1))],
    )  # fmt: skip
    model = load(write_gguf(tmp_path / "m.gguf", config, weights))
    assert model.config.n_layer == 1
    assert model.assumed[0] == "left out: 12 tensors of multi-token prediction"
