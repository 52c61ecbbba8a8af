"""Decoders of every architecture and option: each traced tensor against the one of transformers."""

import zlib
from importlib.util import find_spec

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.judges import agree
from support.reference_models import REFERENCES
from support.sweeps import some_of
from support.tiny_gpt2 import GPT2S, IN_GGUF, gpt2_events, quantised_gpt2, tiny_gpt2, write_gpt2_gguf
from support.tiny_models import (
    BETAS,
    CASES,
    FIRST_WINDOWED,
    SCALES,
    TOKENS,
    YARN,
    Blocks,
    fits_gguf,
    pair_neighbours,
    random_quantised_weights,
    rope_5,
    round_weights,
    tiny_config,
    tiny_model,
    write_folder,
    write_gguf,
)

from microgpt_trace import load, trace

WIDE = {"hidden_size": 256, "intermediate_size": 256, "rope_theta": 10000.0}  # K-quants: blocks of 256
TYPES = (*SCALES, "F16", "BF16")


def tiny(case):
    """Return the config and weights of a case of any family."""
    return tiny_gpt2(case) if case in GPT2S else tiny_model(case)


def judged(config, weights, names=()):
    """Return the events by formulas in float64: those with these names, or all."""
    formulas = gpt2_events if config["model_type"] == "gpt2" else decoder_run
    events = formulas(config, weights, TOKENS)
    return {name: events[name] for name in names or events}


def writer_of(case):
    """Return the function that writes a case to GGUF; None if GGUF cannot represent it."""
    if not find_spec("gguf"):
        return None
    if case in GPT2S:
        return write_gpt2_gguf if case in IN_GGUF else None
    return write_gguf if fits_gguf(CASES[case]) else None


WHOLE, WORST_ROW = 5e-5, 1e-4  # largest relative L2 distances


def reference(case):
    with np.load(REFERENCES / f"{case}.npz") as arrays:
        return {name: arrays[name] for name in arrays if name != "ids"}


def run(path, tokens=TOKENS):
    return trace(load(path), tokens=list(tokens), names=["*"], values=True)


def distances(found, expected):
    """Return the relative L2 distance of the tensor and of its worst row. A large row can hide others."""
    off, size = (np.linalg.norm(a.astype(np.float64), axis=-1) for a in (found - expected, expected))
    return np.linalg.norm(off) / np.linalg.norm(size), (off / size).max()


def assert_agree(found, expected):
    """Check every tensor with the tolerances, and the most probable token at every position."""
    assert {n: found[n].shape for n in expected} == {n: a.shape for n, a in expected.items()}
    whole, worst_row = zip(*(distances(found[name], expected[name]) for name in expected), strict=True)
    at = list(expected)[int(np.argmax(worst_row))]
    print(f"worst tensor {max(whole):.1e} of {WHOLE}, worst row {max(worst_row):.1e} of {WORST_ROW} in {at}")
    assert max(whole) < WHOLE
    assert max(worst_row) < WORST_ROW, at
    np.testing.assert_array_equal(found["logits"].argmax(-1), expected["logits"].argmax(-1))


def assert_far(found, expected):
    """Check that the logits differ by more than a hundred tolerances."""
    distance, _ = distances(found, expected)
    print(f"distance {distance:.1e}, expected more than {100 * WHOLE:.1e}")
    assert distance > 100 * WHOLE


def dequantise(weights):
    return {name: w.values() if isinstance(w, Blocks) else w for name, w in weights.items()}


@pytest.mark.parametrize("case", [*CASES, *GPT2S])
def test_folders_gguf_files_and_formulas_agree_with_transformers(case, tmp_path):
    model, expected, write = tiny(case), reference(case), writer_of(case)
    assert_agree(judged(*model, expected), expected)
    found = run(write_folder(tmp_path, *model))
    assert_agree(found, expected)
    for name, value in judged(*model).items():  # for GPT-2 also outputs of heads and the loss
        agree(found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), what=name)
    if write is not None:
        assert_agree(run(write(tmp_path / "m.gguf", *model)), expected)


@pytest.mark.parametrize(("case", "dtype"), [("llama_tied", "F16"), ("qwen3", "BF16"), ("gpt2", "F16")])
def test_a_folder_in_half_precision(case, dtype, tmp_path):
    config, weights = tiny(case)
    found = run(write_folder(tmp_path, config, weights, dtype))
    assert_agree(found, judged(config, round_weights(weights, dtype), reference(case)))


def test_a_file_in_several_parts(tmp_path):
    pytest.importorskip("gguf")
    assert_agree(run(write_folder(tmp_path, *tiny_model("qwen2"), shards=3)), reference("qwen2"))
    assert_agree(run(write_gguf(tmp_path / "m.gguf", *tiny_model("qwen3"), split=8)), reference("qwen3"))


def assert_quantised_agrees(path, config, type_of):
    pytest.importorskip("gguf")
    weights = random_quantised_weights(config, type_of, "quantised")
    expected = decoder_run(config, dequantise(weights), TOKENS)
    assert_agree(run(write_gguf(path, config, weights)), expected)


@pytest.mark.parametrize("type", TYPES)
def test_a_gguf_file_of_one_quantisation_type(type, tmp_path):
    assert_quantised_agrees(tmp_path / "m.gguf", tiny_config(**WIDE), lambda _: type)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_of_mixed_quantisation_types(model_type, tmp_path):
    config = tiny_config(model_type, tie_word_embeddings=True, **WIDE)
    assert_quantised_agrees(
        tmp_path / "m.gguf", config, lambda name: TYPES[zlib.crc32(name.encode()) % len(TYPES)]
    )


@pytest.mark.parametrize("type", ["Q4_0", "Q4_K", "F16"])
def test_a_gguf_file_with_quantised_fused_matrices(type, tmp_path):
    pytest.importorskip("gguf")
    config, stored, plain = quantised_gpt2(type)
    names = [name for name in reference("gpt2") if not name.startswith("layer1")]
    assert_agree(run(write_gpt2_gguf(tmp_path / "m.gguf", config, stored)), judged(config, plain, names))


def test_old_gpt2_files_without_a_prefix_and_with_masks(tmp_path):
    config, weights = tiny_gpt2("gpt2")
    weights = {name.removeprefix("transformer."): array for name, array in weights.items()}
    for i in range(config["n_layer"]):
        weights[f"h.{i}.attn.bias"] = np.tri(16, dtype=np.float32)[None, None]
        weights[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    omitted = ("scale", "n_inner", "act", "tie_word_embeddings")
    old = {name: value for name, value in config.items() if not name.startswith(omitted)}
    old |= {"n_ctx": 16, "attn_pdrop": 0.1}
    assert_agree(run(write_folder(tmp_path, old, weights)), reference("gpt2"))


def neighbours(weights):
    """Put the rows of q and k in the order of GGUF, which is wrong in a folder."""
    heads = {
        f"model.layers.{i}.self_attn.{n}_proj.weight": h for i in (0, 1) for n, h in (("q", 4), ("k", 2))
    }
    return weights | {name: pair_neighbours(weights[name], count) for name, count in heads.items()}


def without(*parts):
    """Return a function that drops the weights with one of these parts in their names."""
    return lambda weights: {name: w for name, w in weights.items() if not any(part in name for part in parts)}


def edited(ending, change):
    """Return a function that changes the weights whose names have this ending."""
    return lambda weights: {
        name: np.ascontiguousarray(change(w)) if name.endswith(ending) else w for name, w in weights.items()
    }


def thirds(order):
    """Return a function that reorders q, k and v in a fused matrix or bias."""
    return lambda array: np.concatenate([np.split(array, 3, -1)[i] for i in order], -1)


BIASES = [f"self_attn.{n}_proj.bias" for n in "qkvo"] + [f"mlp.{n}_proj.bias" for n in ("gate", "up", "down")]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
WRONG = {  # a case, changes of its config, and a function that changes its weights
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
    **{f"no {bias}": ("llama_mha_bias", {}, edited(bias, np.zeros_like)) for bias in BIASES},
    "no norms of q and k": ("qwen3", LLAMA, without("q_norm", "k_norm")),
    "pairs as in GGUF": ("llama_gqa", {}, neighbours),
    "eps of LayerNorm": ("gpt2_untied", {"layer_norm_epsilon": 1e-5}),
    "not by layer": ("gpt2_by_layer", {"scale_attn_by_inverse_layer_idx": False}),
    "scaled": ("gpt2_unscaled", {"scale_attn_weights": True}),
    "tied": ("gpt2_untied", {"tie_word_embeddings": True}),
    "transposed": ("gpt2", {}, edited("attn.c_proj.weight", np.transpose)),
    "q and k swapped": ("gpt2", {}, edited("attn.c_attn.weight", thirds((1, 0, 2)))),
    "k and v swapped": ("gpt2", {}, edited("attn.c_attn.weight", thirds((0, 2, 1)))),
    "biases of q and k swapped": ("gpt2", {}, edited("attn.c_attn.bias", thirds((1, 0, 2)))),
    "no bias of a norm": ("gpt2", {}, edited("ln_1.bias", np.zeros_like)),
    "no bias of the last norm": ("gpt2", {}, edited("ln_f.bias", np.zeros_like)),
    "no bias of a matrix": ("gpt2", {}, edited("mlp.c_proj.bias", np.zeros_like)),
    "no positions": ("gpt2", {}, edited("wpe.weight", np.zeros_like)),
    "positions one late": ("gpt2", {}, edited("wpe.weight", lambda a: np.roll(a, 1, 0))),
    "tied where it is not": ("llama_gqa", {"tie_word_embeddings": True}, without("lm_head")),
}


@pytest.mark.parametrize("what", some_of(WRONG, every=5))
def test_a_wrong_model_is_far_from_the_reference(what, tmp_path):
    case, change, *edit = WRONG[what]
    config, weights = tiny(case)
    for change_weights in edit:
        weights = change_weights(weights)
    assert_far(run(write_folder(tmp_path, config | change, weights))["logits"], reference(case)["logits"])


def test_wrong_rope_pairs_and_a_prepended_bos_are_far_from_the_reference(tmp_path):
    pytest.importorskip("gguf")
    model, expected = tiny_model("llama_gqa"), reference("llama_gqa")["logits"]
    assert_far(run(write_gguf(tmp_path / "m.gguf", *model, permute=False))["logits"], expected)
    assert_far(run(write_folder(tmp_path, *model), (1, *TOKENS))["logits"][1:], expected)
