"""Hugging Face folders: configs as transformers understands them, and what is wrong in one line."""

import numpy as np
import pytest
from support.hostile import refuses
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
    write_folder,
)

from microgpt_trace import load, trace
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.explaining.explain import explain
from microgpt_trace.readers.model_file import unfused

TAKEN = "(what transformers takes where the config does not say)"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", *tiny_model("llama_gqa"))


def configured(folder, case="llama_gqa", without=(), tensors=None, **changes):
    """A case's folder with some settings changed or taken away, and tensors joined (None takes one away)."""
    config, weights = tiny_model(case)
    config = {key: value for key, value in (config | changes).items() if key not in without}
    weights = {name: w for name, w in (weights | (tensors or {})).items() if w is not None}
    return write_folder(folder, config, weights)


# --- Matrices that files have as [in, out] -----------------------------------------------------


@pytest.mark.parametrize(("name", "by_columns"), [("mlp_wdown[3,5]", True), ("attn_norm[3]", False)])
def test_a_parameter_says_that_its_rows_are_columns_of_the_file(gpt2, name, by_columns):
    (note,) = explain(gpt2()[1], f"layer0.{name}", tokens=TOKENS).notes
    assert ("whose rows the file has as columns" in note) == by_columns


def test_a_fused_matrix_may_have_fewer_rows_of_k_and_v():
    rows = np.arange(256, dtype=np.float32).reshape(64, 4)
    fused = StoredTensor("qkv", ENCODINGS["F32"], rows.shape, rows.view(np.uint8).ravel())
    found = unfused({"layer0.attn_wqkv": fused}, 32, 16)
    parts = dict(zip(("q", "k", "v"), np.split(rows, (32, 48)), strict=True))
    assert {name[-1]: tensor.read().tolist() for name, tensor in found.items()} == {
        name: part.tolist() for name, part in parts.items()
    }


# --- What the config says ---------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_configs_of_every_architecture_and_option(case, tmp_path):
    said, model = CASES[case], load(write_folder(tmp_path, *tiny_model(case)))
    config, rope = model.config, rope_of(said)
    windows = [window_of(said, i) for i in range(2)]
    expected = {
        "architecture": said["model_type"],
        "head_dim": head_dim_of(said),
        "norm_eps": said["rms_norm_eps"],
        "tied": said["tie_word_embeddings"],
        "qk_norm": said["model_type"] == "qwen3",
        "window": max((w for w in windows if w), default=None),
        "windowed_layers": tuple(i for i in range(2) if windows[i]),
        "adjacent_pairs": False,
    }
    found = {name: getattr(config, name) for name in expected}
    print(found, expected, sep="\n")
    assert found == expected
    assert (config.rope.theta, config.rope.kind) == (rope["rope_theta"], rope["rope_type"])
    assert config.rope.factor == rope.get("factor", 1.0)
    yarn = rope["rope_type"] == "yarn" and "beta_fast" not in rope
    assert len(model.assumed) == 2 * yarn  # its two betas


BIASES = {
    "llama_gqa": (),
    "llama_mha_bias": ("attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown"),
    "qwen2": ("attn_bq", "attn_bk", "attn_bv"),
    "qwen3": (),
    "mistral": (),
}


@pytest.mark.parametrize("case", BIASES)
def test_biases(case, tmp_path):
    assert load(write_folder(tmp_path, *tiny_model(case))).config.biases == BIASES[case]


SCALED = {
    "linear": {"factor": 4.0},
    "llama3": YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5, "truncate": False},
}


@pytest.mark.parametrize("kind", SCALED)
def test_both_dialects_say_the_same(kind, tmp_path):
    new = configured(tmp_path / "new", **rope_5(500.0, kind, **SCALED[kind]))
    old = configured(
        tmp_path / "old", without=["rope_parameters"], **rope_4(500.0, rope_type=kind, **SCALED[kind])
    )
    older = configured(
        tmp_path / "older", without=["rope_parameters"], **rope_4(500.0, type=kind, **SCALED[kind])
    )
    rope = load(new).config.rope
    assert load(old).config.rope == load(older).config.rope == rope
    names = {"original_max_position_embeddings": "original_context"}
    assert {key: getattr(rope, names.get(key, key)) for key in SCALED[kind]} == SCALED[kind]


# case, settings taken away, settings changed: what comes out, and the note of it
DEFAULTS = {
    "rope_theta": (
        "llama_gqa",
        ["rope_parameters"],
        {},
        ("rope.theta", 10000.0),
        f"rope_theta = 10,000 {TAKEN}",
    ),
    "theta of a scaled RoPE": (
        "llama_gqa",
        [],
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        ("rope.theta", 10000.0),
        f"rope_theta = 10,000 {TAKEN}",
    ),
    "hidden_act": ("qwen3", ["hidden_act"], {}, ("qk_norm", True), f"hidden_act = silu {TAKEN}"),
    "untied": (
        "qwen2",
        ["tie_word_embeddings"],
        {},
        ("tied", False),
        "tie_word_embeddings = false (lm_head.w",
    ),
    "tied": (
        "qwen2_tied",
        ["tie_word_embeddings"],
        {},
        ("tied", True),
        "tie_word_embeddings = true (lm_head.weight is not",
    ),
    "null tie": (
        "qwen2_tied",
        [],
        {"tie_word_embeddings": None},
        ("tied", True),
        "tie_word_embeddings = true",
    ),
    "window of mistral": (
        "mistral",
        ["sliding_window"],
        {},
        ("window", 4096),
        f"sliding_window = 4,096 {TAKEN}",
    ),
    "window of qwen2": (
        "qwen2_window",
        ["sliding_window"],
        {},
        ("window", 4096),
        f"sliding_window = 4,096 {TAKEN}",
    ),
    "use of a window": (
        "qwen2_window",
        ["use_sliding_window"],
        {},
        ("window", None),
        f"use_sliding_window = false {TAKEN}",
    ),
    "a llama's window": (
        "llama_gqa",
        [],
        WINDOW,
        ("windowed_layers", ()),
        "sliding_window is not used: a llama has none",
    ),
    "context of yarn": (
        "llama_gqa",
        [],
        rope_5(10.0, "yarn", factor=8.0, beta_fast=2.0, beta_slow=1.0),
        ("rope.original_context", 64),
        f"original_max_position_embeddings = 64 {TAKEN}",
    ),
}


@pytest.mark.parametrize(("case", "without", "changes", "expected", "note"), DEFAULTS.values(), ids=DEFAULTS)
def test_a_default_that_is_taken_is_noted(case, without, changes, expected, note, tmp_path):
    model = load(configured(tmp_path, case, without, **changes))
    name, value = expected
    found = model.config
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert [text.startswith(note) for text in model.assumed] == [True]


def test_the_betas_of_yarn_are_noted(tmp_path):
    model = load(configured(tmp_path, **rope_5(10.0, "yarn", **YARN)))
    assert model.assumed == (f"beta_fast = 32 {TAKEN}", f"beta_slow = 1 {TAKEN}")


def test_what_shapes_prove_needs_no_note(tmp_path):
    model = load(configured(tmp_path, "llama_mha_bias", without=["num_key_value_heads", "head_dim"]))
    assert (model.config.n_kv_head, model.config.head_dim, model.assumed) == (4, 8, ())
    assert "expected shape [32, 32], found [16, 32]" in refuses(
        configured(tmp_path, without=["num_key_value_heads"])
    )


def test_a_head_that_the_config_ties_away(tmp_path):
    model = load(configured(tmp_path, tie_word_embeddings=True))
    assert "lm_head" not in model.tensors
    assert model.assumed == ("lm_head.weight is not used: the config ties the head to the embedding",)


def test_a_value_outside_of_rope_parameters(tmp_path):
    parameters = {"rope_parameters": {"rope_type": "llama3"} | SCALED["llama3"]}
    assert load(configured(tmp_path, rope_theta=500.0, **parameters)).config.rope.theta == 500.0


LAYERS = {
    "all": (0, (0, 1)),
    "the second": (1, (1,)),
    "none": (2, ()),
    "past the end": (28, ()),
    "far past the end": (2**30, ()),
}


@pytest.mark.parametrize(("first", "layers"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("case", ["qwen2_window", "qwen3"])
def test_max_window_layers(case, first, layers, tmp_path):
    config = load(configured(tmp_path, case, **WINDOW | {"max_window_layers": first})).config
    assert (config.window, config.windowed_layers) == (3 if layers else None, layers)


def test_layer_types_come_before_max_window_layers(tmp_path):
    config = load(configured(tmp_path, "qwen3", **WINDOW, layer_types=FIRST_WINDOWED)).config
    assert (config.window, config.windowed_layers) == (3, (0,))


# --- What is not supported, or contradicts itself ---------------------------------------------


def test_constants_of_old_files_are_passed_over(tmp_path):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    assert load(configured(tmp_path, tensors=old)).tensors.keys() == load(configured(tmp_path)).tensors.keys()


def test_weights_that_are_nan_load_and_are_counted(tmp_path):
    weights = tiny_model("llama_gqa")[1]["model.layers.1.mlp.up_proj.weight"].copy()
    weights[5, 7] = np.nan
    model = load(configured(tmp_path, tensors={"model.layers.1.mlp.up_proj.weight": weights}))
    (event,) = trace(model, tokens=TOKENS, names=["layer1.mlp.up"]).events
    assert event.stats.nan_count == len(TOKENS)


# --- config.json of any content ---------------------------------------------------------------
