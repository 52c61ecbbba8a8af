"""Decoders of every architecture and option: each traced tensor against what transformers computed."""

import zlib
from importlib.util import find_spec

import pytest
from support.judges_decoder import decoder_events
from support.recorded_references import assert_agree, assert_far, reference, run
from support.sweeps import some_of
from support.tiny_models import (
    BETAS,
    CASES,
    FIRST_WINDOWED,
    SCALES,
    TOKENS,
    YARN,
    dequantised,
    pair_neighbours,
    random_quantised_weights,
    rope_5,
    rounded,
    says_gguf,
    tiny_config,
    tiny_model,
    write_folder,
    write_gguf,
)

WIDE = {"hidden_size": 256, "intermediate_size": 256, "rope_theta": 10000.0}  # K-quants hold 256 in a block
TYPES = (*SCALES, "F16", "BF16")


# --- Right ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_folder_and_gguf(case, tmp_path):
    """The formulas in float64 too, which judge elsewhere."""
    model, expected = tiny_model(case), reference(case)
    assert_agree(decoder_events(*model, TOKENS), expected)
    assert_agree(run(write_folder(tmp_path, *model)), expected)
    if says_gguf(CASES[case]) and find_spec("gguf"):
        assert_agree(run(write_gguf(tmp_path / "m.gguf", *model)), expected)


@pytest.mark.parametrize("case", ["llama_tied", "qwen3"])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_folder_in_half_precision(case, dtype, tmp_path):
    config, weights = tiny_model(case)
    held = rounded(weights, dtype)
    assert_agree(run(write_folder(tmp_path, config, weights, dtype)), decoder_events(config, held, TOKENS))


def test_a_file_in_several_parts(tmp_path):
    pytest.importorskip("gguf")
    assert_agree(run(write_folder(tmp_path, *tiny_model("qwen2"), shards=3)), reference("qwen2"))
    assert_agree(run(write_gguf(tmp_path / "m.gguf", *tiny_model("qwen3"), split=8)), reference("qwen3"))


def assert_quantised_agrees(path, config, type_of):
    pytest.importorskip("gguf")
    weights = random_quantised_weights(config, type_of, "quantised")
    expected = decoder_events(config, dequantised(weights), TOKENS)
    assert_agree(run(write_gguf(path, config, weights)), expected)


@pytest.mark.parametrize("type", TYPES)
def test_gguf_of_one_quantisation_type(type, tmp_path):
    assert_quantised_agrees(tmp_path / "m.gguf", tiny_config(**WIDE), lambda _: type)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_gguf_of_mixed_quantisation_types(model_type, tmp_path):
    config = tiny_config(model_type, tie_word_embeddings=True, **WIDE)
    assert_quantised_agrees(
        tmp_path / "m.gguf", config, lambda name: TYPES[zlib.crc32(name.encode()) % len(TYPES)]
    )


# --- Wrong, and seen to be wrong ----------------------------------------------------------------


def neighbours(weights):
    """q and k in the order of GGUF, where a folder has theirs."""
    moved = {
        f"model.layers.{i}.self_attn.{n}_proj.weight": h for i in (0, 1) for n, h in (("q", 4), ("k", 2))
    }
    return weights | {name: pair_neighbours(weights[name], heads) for name, heads in moved.items()}


def without(*parts):
    """What leaves out weights by parts of their names."""
    return lambda weights: {name: w for name, w in weights.items() if not any(part in name for part in parts)}


def zeroed(bias):
    return lambda weights: {name: w * 0 if name.endswith(bias) else w for name, w in weights.items()}


BIASES = [f"self_attn.{n}_proj.bias" for n in "qkvo"] + [f"mlp.{n}_proj.bias" for n in ("gate", "up", "down")]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
WRONG = {  # a case, what changes in its config, and what becomes of its weights
    "eps": ("llama_tied", {"rms_norm_eps": 1e-5}),
    "theta": ("llama_mqa", {"rope_theta": 2000.0}),
    "no linear scaling": ("llama_linear", {"rope_scaling": None}),
    "no llama3 scaling": ("llama_llama3", {"rope_scaling": None}),
    "no yarn": ("llama_yarn", {"rope_scaling": None}),
    "yarn's own betas": ("llama_yarn_betas", rope_5(100.0, "yarn", **YARN)),
    "yarn's own attention factor": ("llama_yarn_attention", rope_5(100.0, "yarn", **BETAS)),
    "yarn in whole pairs": ("llama_yarn_smooth", rope_5(100.0, "yarn", **BETAS)),
    "no window": ("mistral_window", {"sliding_window": None}),
    "another window": ("mistral_window", {"sliding_window": 4}),
    "no window in a layer": ("qwen2_window", {"max_window_layers": 2}),
    "window in another layer": ("qwen2_layer_types", {"layer_types": FIRST_WINDOWED[::-1]}),
    "window in every layer": ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}),
    **{f"no {bias}": ("llama_mha_bias", {}, zeroed(bias)) for bias in BIASES},
    "no norms of q and k": ("qwen3", LLAMA, without("q_norm", "k_norm")),
    "pairs as in GGUF": ("llama_gqa", {}, neighbours),
    "tied where it is not": ("llama_gqa", {"tie_word_embeddings": True}, without("lm_head")),
}


@pytest.mark.parametrize("what", some_of(WRONG, every=4))
def test_what_is_wrong_is_far_from_the_reference(what, tmp_path):
    case, change, *edit = WRONG[what]
    config, weights = tiny_model(case)
    for own in edit:
        weights = own(weights)
    found = run(write_folder(tmp_path, config | change, weights))
    assert_far(found["logits"], reference(case)["logits"])


def test_wrong_pairing_in_gguf_and_a_prepended_bos(tmp_path):
    pytest.importorskip("gguf")
    model, expected = tiny_model("llama_gqa"), reference("llama_gqa")["logits"]
    assert_far(run(write_gguf(tmp_path / "m.gguf", *model, permute=False))["logits"], expected)
    assert_far(run(write_folder(tmp_path, *model), (1, *TOKENS))["logits"][1:], expected)
