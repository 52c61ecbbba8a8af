"""Hugging Face folders: damaged configs and tensors, false headers, and an index of shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_gpt2 import tiny_gpt2
from support.tiny_models import CASES, FIRST_WINDOWED, YARN, rope_5, tiny_model, write_folder

from .format import GONE, WRONG, Format

NEEDED = ["num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"]
NEEDED += ["max_position_embeddings", "rms_norm_eps"]
UP = "model.layers.1.mlp.up_proj.weight"
EXTRA = {
    "model.layers.1.self_attn.qq_proj.weight": "(nearest: model.layers.1.self_attn.q_proj.weight",
    "model.layers.0.mlp.experts.0.up_proj.weight": "is not part of a Llama or Qwen2-class decoder (nearest: ",
    "output_norm.weight": "tensors 'model.norm.weight' and 'output_norm.weight' are both final_norm",
    "lm_head.bias": "(nearest: lm_head.weight",
    UP.replace("1", "2"): "is not part of a llama with 2 layers (nearest: layer1.mlp_wup",
    UP.replace("1", "3"): "there are tensors of layer 3, but none of layer 2",
    "x" * 10**4: "is not part of",
}
HEADS = {"num_attention_heads": 2 * 10**9, "head_dim": 2}
LINEAR = {"rope_scaling": {"type": "linear", "factor": 2.0}}
CHUNKED = ["full_attention", "chunked_attention"]


def yarn(**changes: object) -> dict[str, Any]:
    return rope_5(10.0, "yarn", **YARN, **changes)


CONFIGS = {
    "llama_gqa": [
        *((f"config.json: '{key}' is missing", {key: None}) for key in NEEDED),
        ("'gemma3' is not supported; supported: llama, mistral", {"model_type": "gemma3"}),
        ("hidden_act 'mish' is not supported; supported: silu, swish", {"hidden_act": "mish"}),
        ("the config requires a bias 'layer0.attn_bk', but the file has none", {"attention_bias": True}),
        ("expected true or false, found 'false'", {"tie_word_embeddings": "false"}),
        ("'dynamic' is not supported; supported: default", rope_5(10.0, "dynamic", factor=2.0)),
        ("RoPE scaling 'linear': cannot use factor None", rope_5(10.0, "linear")),
        ("mscale: expected a positive number", yarn(mscale="0.7")),
        ("attention_factor '1'", yarn(attention_factor="1")),
        ("cannot use truncate 'no'", yarn(truncate="no")),
        ("partial_rotary_factor 0.5 is not supported: RoPE must", {"partial_rotary_factor": 0.5}),
        ("partial_rotary_factor 0.5", rope_5(10.0, partial_rotary_factor=0.5)),
        ("rope_theta: 10000.0 and 500.0 contradict each other", {"rope_theta": 500.0}),
        ("rope_scaling and rope_parameters contradict each other", LINEAR),
        ("or the architecture's rules", {"layer_types": FIRST_WINDOWED, "sliding_window": 4}),
        ("expected shape [32, 32], found [16, 32]", {"num_key_value_heads": GONE}),
        ("2,000,000,000 heads of 2 channels need 4,000,000,000 rows of q", HEADS),
        ("", {"rms_norm_eps": 10**400}),
        ("'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup", {}, {UP: GONE}),
        *((words, {}, {name: np.zeros(32, np.float32)}) for name, words in EXTRA.items()),
    ],
    "llama_tied": [("tensor 'lm_head' is missing", {"tie_word_embeddings": False})],
    "llama_mha_bias": [("mentions no bias 'layer0.mlp_bdown', but the file has one", {"mlp_bias": False})],
    "mistral_window": [
        ("layers, found tensors of 2", {"num_hidden_layers": 2**31 - 1}),
        ("or the architecture's rules", {"layer_types": FIRST_WINDOWED}),
        ("sliding_window: expected a whole number above 0", {"sliding_window": 0}),
    ],
    "qwen2": [("contradict sliding_window or", {"layer_types": FIRST_WINDOWED})],
    "qwen2_window": [
        ("'max_window_layers' is missing", {"max_window_layers": None}),
        ("max_window_layers: expected a whole number", {"max_window_layers": -1}),
        ("layer_types: expected 2 full", {"layer_types": FIRST_WINDOWED * 2}),
    ],
    "qwen3": [
        ("4 heads of 128 channels need 512 rows", {"head_dim": None}),
        ("cannot use full_attention", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
        ("expected 2 full", {"layer_types": CHUNKED}),
    ],
}
UNREAD = {"architectures", "bos_token_id", "eos_token_id"}
FLAGS = {"tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"}
NO_VALUES = ({"a": 4}, -4, float("nan"), 10**400)  # wrong for every key


def huggingface(case: str) -> Format:
    """Return the format of a case. Two cases try wrong values of their keys, and keys of both only once."""
    config, weights = tiny_model(case)
    read = {"qwen2_window": config.keys(), "qwen3": config.keys() - CASES["qwen2_window"].keys()}
    wrong = {
        key: [value for value in (*WRONG, *NO_VALUES) if not (key in FLAGS and value is True)]
        for key in sorted(read.get(case, set()) - UNREAD)
    }
    return Format(config, weights, write_folder, CONFIGS.get(case, []), wrong)


def deep(key: str, depth: int) -> bytes:
    """Return a config with a deeply nested value."""
    text = json.dumps(CASES["llama_gqa"] | {key: "DEEP"})
    return text.replace('"DEEP"', "[" * depth + "]" * depth).encode()


NO_CONFIGS = [
    ("expected a JSON object (Expecting value", b""),
    ("expected a JSON object, found [1, 2]", b"[1, 2]"),
    ("expected a JSON object, found 'llama'", b'"llama"'),
    ("values nested more than 64 deep", b"[" * 10**5),
    ("values nested more than 64 deep", b'{"a":' * 10**5),
    ("expected a JSON object (an integer of 100,000 digits", b"1" * 10**5),
    ("expected a JSON object ('utf-8' codec", b"\xff\xfe{}"),
    ("expected a JSON object (the key 'a' occurs twice)", b'{"a": 1, "a": 2}'),
    ("architecture None is not supported", b"{}"),
    *(("", deep(key, 950)) for key in ("hidden_act", "model_type", "rope_parameters", "layer_types")),
    ("", deep("hidden_size", 990)),
]


def no_config() -> Format:
    return Format(*tiny_model("llama_gqa"), write_folder, NO_CONFIGS, inside="config.json")


def gpt2() -> Format:
    """Return the format of a GPT-2, whose matrices are stored as [in, out]."""
    name = "transformer.h.1.attn.c_attn.weight"
    words = f"'{name}': expected a matrix [in, out], found"
    arrays = [np.ones(shape, np.float32) for shape in ((32,), (2, 4, 4), ())]
    rows = [(f"{words} {list(array.shape)}", {}, {name: array}) for array in arrays]
    return Format(*tiny_gpt2("gpt2"), write_folder, rows)


# --- Headers of safetensors -------------------------------------------------------------------


def packed(header, data=bytes(16)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def one(dtype="F32", shape=(4,), offsets=(0, 16), **others):
    """Return a file with a tensor t of 16 bytes, and others."""
    return packed({"t": entry(dtype, shape, offsets)} | others)


def entry(dtype, shape, offsets):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ENTRY = json.dumps(entry("F32", [4], [0, 16]))
NO_HEADER = "expected a complete safetensors file, found"
HEADERS = [
    *((NO_HEADER, content) for content in (
        b"", bytes(7), (2**63).to_bytes(8, "little") + b"{}", packed(b"{"), packed([1]), packed(b"[" * 10**5),
        packed('{"t":1}'.encode("utf-16")), packed({"t": 1}), one(offsets=[0, 8, 16]), one(offsets=[-16, 0]),
        one(offsets=[True, 16]), one(offsets=[0, 10**60]), one(offsets=[16, 0]), one(shape=[2**62] * 8),
        one(shape=[5], offsets=[0, 20]), one(shape=[3], offsets=[4, 16]), one(shape=[3], offsets=[0, 12]),
        one(u=entry("F32", [2], [8, 16])), one(shape=[5]), one(shape="4"), one("F16"), one(["F32"]),
        packed({"t": {"dtype": "F32", "data_offsets": [0, 16]}}), one()[:-1],
    )),
    ("the key 't' occurs twice", packed(f'{{"t":{ENTRY},"t":{ENTRY}}}'.encode())),
    ("'t': expected F32, F16, BF16 of up to 8 dimensions, found 'F64' of shape [2]", one("F64", [2])),
    ("of shape [4, 1, 1, 1, 1, 1, ...]", one(shape=[4, *[1] * 999])),
    ("dimensions, found 'F8_E4M3'", one("F8_E4M3", [16])),
    (r"tensor 'a\nb\x1b': expected F32", packed({"a\nb\x1b": entry("I8", [16], [0, 16])})),
]  # fmt: skip
FILES = "model.safetensors or model.safetensors.index.json, found 'config.json', 'pytorch_model.bin'"


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def safetensors() -> Format:
    rows = [*HEADERS, (f"expected {FILES}", without_weights)]
    return Format(*tiny_model("llama_gqa"), write_folder, rows, inside="model.safetensors")


# --- Shards and their index -------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
FIRST, SECOND, THIRD = (f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))
NOWHERE = ["../model.safetensors", "/model.safetensors", "a/b.safetensors", "", ".", "x.bin"]
NOWHERE += ["a\nb.safetensors", "config.json"]
NO_MAPS = [b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b'{"weight_map": null}', b'{"x": 1}']
SHARDS = [
    *((f"safetensors files of this folder, found {name!r}", {"lm_head.weight": name}) for name in NOWHERE),
    *((f"{name}: ", {"lm_head.weight": name}) for name in ("none.safetensors", "n" * 300 + ".safetensors")),
    (f"{SECOND}: no such file", lambda folder: (folder / SECOND).unlink()),
    (f"in {SECOND}", lambda folder: shutil.copy(folder / FIRST, folder / SECOND)),
    (f"{THIRD}: tensor 'more' of the index is missing", {"more": THIRD}),
    ("the index does not list 'lm_head.weight' in", {"lm_head.weight": GONE}),
    ("the index does not list 'lm_head.weight' in", {"lm_head.weight": FIRST}),
    *(("expected a weight_map from tensors to files", content) for content in NO_MAPS),
    *(("", content) for content in (b"null", b"3", b'"a"', b"[1]", b'{"weight_map": {"a": [{}]}}')),
]


def sharded() -> Format:
    """Return the format of a folder of three shards, with its index as the metadata."""
    config, weights = tiny_model("llama_gqa")
    places = (FIRST, SECOND, THIRD) * len(weights)

    def write(folder: Path, index: dict[str, Any], tensors: dict[str, Any]) -> None:
        write_folder(folder, config, tensors, shards=3)
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))

    return Format(dict(zip(weights, places, strict=False)), weights, write, SHARDS, inside=INDEX)
