"""Decoders of every architecture and option: each traced tensor against the one of transformers."""

import zlib
from importlib.util import find_spec

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.judges import agree
from support.reference_models import reference_values
from support.sweeps import some_of
from support.tiny_gpt2 import GPT2S, IN_GGUF, gpt2_events, quantised_gpt2, tiny_gpt2, write_gpt2_gguf
from support.tiny_models import (
    CASES,
    SCALES,
    TOKENS,
    Blocks,
    fits_gguf,
    random_quantised_weights,
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


def judged(config, weights):
    """Return the events by formulas in float64."""
    formulas = gpt2_events if config["model_type"] == "gpt2" else decoder_run
    return formulas(config, weights, TOKENS)


def writer_of(case):
    """Return the function that writes a case to GGUF; None if GGUF cannot represent it."""
    if not find_spec("gguf"):
        return None
    if case in GPT2S:
        return write_gpt2_gguf if case in IN_GGUF else None
    return write_gguf if fits_gguf(CASES[case]) else None


WHOLE, WORST_ROW = 5e-5, 1e-4  # largest relative L2 distances


def reference(case):
    return reference_values(case, "tiny.npz")


def run(path, tokens=TOKENS):
    return trace(load(path), tokens=list(tokens), names=["*"], values=True)


def distances(found, expected):
    """Return the relative L2 distance of the tensor and of its worst row. A large row can hide others."""
    off, size = (np.linalg.norm(a.astype(np.float64), axis=-1) for a in (found - expected, expected))
    return np.linalg.norm(off) / np.linalg.norm(size), (off / size).max()


def assert_agree(found, expected):
    """Check every tensor with the tolerances, and the most probable token at every position."""
    expected = {name: array for name, array in expected.items() if array.ndim}
    assert {n: found[n].shape for n in expected} == {n: a.shape for n, a in expected.items()}
    whole, worst_row = zip(*(distances(found[name], expected[name]) for name in expected), strict=True)
    at = list(expected)[int(np.argmax(worst_row))]
    print(f"worst tensor {max(whole):.1e} of {WHOLE}, worst row {max(worst_row):.1e} of {WORST_ROW} in {at}")
    assert max(whole) < WHOLE
    assert max(worst_row) < WORST_ROW, at
    np.testing.assert_array_equal(found["logits"].argmax(-1), expected["logits"].argmax(-1))


def dequantise(weights):
    return {name: w.values() if isinstance(w, Blocks) else w for name, w in weights.items()}


@pytest.mark.parametrize("case", [*CASES, *GPT2S])
def test_folders_gguf_files_and_formulas_agree_with_transformers(case, tmp_path):
    model, expected, write = tiny(case), reference(case), writer_of(case)
    assert_agree({name: judged(*model)[name] for name in expected}, expected)
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
    assert_agree(found, judged(config, round_weights(weights, dtype)))


def test_a_file_in_several_parts(tmp_path):
    pytest.importorskip("gguf")
    assert_agree(run(write_folder(tmp_path, *tiny_model("qwen2"), shards=3)), reference("qwen2"))
    assert_agree(run(write_gguf(tmp_path / "m.gguf", *tiny_model("qwen3"), split=8)), reference("qwen3"))


def assert_quantised_agrees(path, config, type_of):
    pytest.importorskip("gguf")
    weights = random_quantised_weights(config, type_of, "quantised")
    expected = decoder_run(config, dequantise(weights), TOKENS)
    assert_agree(run(write_gguf(path, config, weights)), expected)


@pytest.mark.parametrize("type", some_of(TYPES, every=3))
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
    assert_agree(run(write_gpt2_gguf(tmp_path / "m.gguf", config, stored)), judged(config, plain))


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
