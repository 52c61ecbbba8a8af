"""Hugging Face folders: configs and tensors that are damaged, headers that lie, and an index of shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_gpt2 import tiny_gpt2
from support.tiny_models import CASES, FIRST_WINDOWED, YARN, rope_5, tiny_model, write_folder

from .format import GONE, WRONG, Format

BIAS = np.zeros(32, np.float32)
NEEDED = ["num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"]
NEEDED += ["max_position_embeddings", "rms_norm_eps"]


def yarn(**changes: object) -> dict[str, Any]:
    return rope_5(10.0, "yarn", **YARN, **changes)


def text(content: str | bytes) -> Callable[[Path], object]:
    """A config.json of this content."""
    return lambda folder: (folder / "config.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def deep(key: str, depth: int = 950) -> Callable[[Path], object]:
    """A config with a value that is nested nearly as deep as json reads."""
    said = json.dumps(CASES["llama_gqa"] | {key: "DEEP"})
    return text(said.replace('"DEEP"', "[" * depth + "]" * depth))


CONFIGS = {
    "llama_gqa": [
        *((f"config.json: '{key}' is missing", {key: None}) for key in NEEDED),
        ("'gemma3' is not supported; these are: llama, mistral", {"model_type": "gemma3"}),
        ("hidden_act 'gelu': only 'silu'", {"hidden_act": "gelu"}),
        ("speaks of a bias 'layer0.attn_bk', which is not", {"attention_bias": True}),
        ("expected true or false, found 'false'", {"tie_word_embeddings": "false"}),
        ("'dynamic' is not supported; these are: default", rope_5(10.0, "dynamic", factor=2.0)),
        ("RoPE scaling 'linear': cannot use factor None", rope_5(10.0, "linear")),
        ("cannot use mscale 0.7", yarn(mscale=0.7)),
        ("attention_factor '1'", yarn(attention_factor="1")),
        ("cannot use truncate 'no'", yarn(truncate="no")),
        ("partial_rotary_factor 0.5: RoPE over a part", {"partial_rotary_factor": 0.5}),
        ("partial_rotary_factor 0.5", rope_5(10.0, partial_rotary_factor=0.5)),
        ("rope_theta: 10000.0 and 500.0 contradict each other", {"rope_theta": 500.0}),
        (
            "rope_scaling and rope_parameters contradict each other",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        ("a llama's rules", {"layer_types": FIRST_WINDOWED, "sliding_window": 4}),
        ("expected shape [32, 32], found [16, 32]", {"num_key_value_heads": GONE}),
        (
            "2,000,000,000 heads of 2 channels need 4,000,000,000 rows of q",
            {"num_attention_heads": 2 * 10**9, "head_dim": 2},
        ),
        ("", {"rms_norm_eps": 10**400}),
        ("expected a JSON object (Expecting value", text("")),
        ("expected a JSON object, found [1, 2]", text("[1, 2]")),
        ("expected a JSON object, found 'llama'", text('"llama"')),
        ("values nested more than 64 deep", text("[" * 10**5)),
        ("values nested more than 64 deep", text('{"a":' * 10**5)),
        ("expected a JSON object (an integer of 100,000 digits", text("1" * 10**5)),
        ("expected a JSON object ('utf-8' codec", text(b"\xff\xfe{}")),
        ("expected a JSON object ('a' is there twice)", text('{"a": 1, "a": 2}')),
        ("architecture None is not supported", text("{}")),
        *(("", deep(key)) for key in ("hidden_act", "model_type", "rope_parameters", "layer_types")),
        ("", deep("hidden_size", 990)),
        (
            "tensor 'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup",
            {},
            {"model.layers.1.mlp.up_proj.weight": GONE},
        ),
        *(
            (words, {}, {name: BIAS})
            for words, name in (
                (
                    "(nearest: model.layers.1.self_attn.q_proj.weight",
                    "model.layers.1.self_attn.qq_proj.weight",
                ),
                (
                    "is none of a Llama or Qwen2-class decoder (nearest: ",
                    "model.layers.0.mlp.experts.0.up_proj.weight",
                ),
                ("tensors 'model.norm.weight' and 'output_norm.weight' are the same", "output_norm.weight"),
                ("(nearest: lm_head.weight", "lm_head.bias"),
                (
                    "one too many for 2 layers of llama (nearest: layer1.mlp_wup",
                    "model.layers.2.mlp.up_proj.weight",
                ),
                ("there are tensors of layer 3, but none of layer 2", "model.layers.3.mlp.up_proj.weight"),
                ("is none of", "x" * 10**4),
            )
        ),
    ],
    "llama_tied": [("tensor 'lm_head' is missing", {"tie_word_embeddings": False})],
    "llama_mha_bias": [("does not speak of a bias 'layer0.mlp_bdown'", {"mlp_bias": False})],
    "mistral_window": [
        ("layers, found tensors of 2", {"num_hidden_layers": 2**31 - 1}),
        ("a mistral's rules", {"layer_types": FIRST_WINDOWED}),
        ("sliding_window: expected a whole number above 0", {"sliding_window": 0}),
    ],
    "qwen2": [("contradict sliding_window or", {"layer_types": FIRST_WINDOWED})],
    "qwen2_window": [
        ("'max_window_layers' is missing", {"max_window_layers": None}),
        ("max_window_layers: expected a whole number", {"max_window_layers": -1}),
        ("layer_types: expected 2 of", {"layer_types": FIRST_WINDOWED * 2}),
    ],
    "qwen3": [
        ("'head_dim' is missing", {"head_dim": None}),
        ("cannot use full_attention", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
        ("expected 2 of", {"layer_types": ["full_attention", "chunked_attention"]}),
    ],
}
UNREAD = {"architectures", "bos_token_id", "eos_token_id"}
FLAGS = {"tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"}
NO_VALUES = ({"a": 4}, -4, float("nan"), 10**400)  # of no key


def huggingface(case: str) -> Format:
    """The folder of a case. The keys of two cases get values of a wrong type, those of both once."""
    config, weights = tiny_model(case)
    read = {"qwen2_window": config.keys(), "qwen3": config.keys() - CASES["qwen2_window"].keys()}
    wrong = {
        key: [value for value in (*WRONG, *NO_VALUES) if not (key in FLAGS and value is True)]
        for key in sorted(read.get(case, set()) - UNREAD)
    }
    return Format(config, weights, write_folder, CONFIGS.get(case, []), wrong)


C_ATTN = "transformer.h.1.attn.c_attn.weight"


def gpt2() -> Format:
    """A model whose matrices are stored as [in, out]."""
    config, weights = tiny_gpt2("gpt2")
    rows = [
        (
            f"'{C_ATTN}': expected a matrix [in, out], found {list(shape)}",
            {},
            {C_ATTN: np.ones(shape, np.float32)},
        )
        for shape in ((32,), (2, 4, 4), ())
    ]
    return Format(config, weights, write_folder, rows)


# --- Headers of safetensors -------------------------------------------------------------------


def packed(header, data=bytes(16)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def one(dtype="F32", shape=(4,), offsets=(0, 16), **others):
    """A file of a tensor t of 16 bytes, and of others."""
    return packed({"t": entry(dtype, shape, offsets)} | others)


def entry(dtype, shape, offsets):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = [
    ("the file is empty", b""),
    ("found a header past its end", bytes(7)),
    ("found a header past its end", (2**63).to_bytes(8, "little") + b"{}"),
    ("found a header past its end", (3).to_bytes(8, "little") + b"{}"),
    ("expected the header of a safetensors file (Expecting property name", packed(b"{")),
    ("expected the header of a safetensors file, found [1]", packed([1])),
    ("expected the header of a safetensors file ('utf-8'", packed('{"t":1}'.encode("utf-16"))),
    ("values nested more than 64 deep", packed(b"[" * 10**5)),
    ("'t' is there twice", packed(b'{"t":1,"t":2}')),
    ("tensor 't': expected two data_offsets, found None", packed({"t": 1})),
    ("two data_offsets, found [0, 8, 16]", one(offsets=[0, 8, 16])),
    ("two data_offsets, found [0]", one(offsets=[0])),
    ("two data_offsets, found [-16, 0]", one(offsets=[-16, 0])),
    ("two data_offsets, found [True, 16]", one(offsets=[True, 16])),
    ("two data_offsets, found [0, 16.0]", one(offsets=[0, 16.0])),
    ("two data_offsets, found [0, 1000", one(offsets=[0, 10**60])),
    ("tensor 't' lies at 16 to 0", one(offsets=[16, 0])),
    ("tensor 'u' lies at 16 to 8", one(u=entry("F32", [0], [16, 8]))),
    ("ends at 20 of 16 bytes: the file is cut short", one(shape=[5], offsets=[0, 20])),
    ("lies at 4 to 16; expected a start at 0", one(shape=[3], offsets=[4, 16])),
    ("4 bytes at the end belong to no tensor", one(shape=[3], offsets=[0, 12])),
    ("tensor 'u' lies at 8 to 16; expected a start at 16", one(u=entry("F32", [2], [8, 16]))),
    ("tensor 't': F32 of shape [5] does not take 16 bytes", one(shape=[5])),
    ("does not take 16 bytes", one(shape=[2**62] * 8)),
    ("does not take 16 bytes", one(shape=[4, *[1] * 99])),
    ("shape '4' does not take", one(shape="4")),
    ("shape [True, 4] does not take", one(shape=[True, 4])),
    ("shape None does not take", packed({"t": {"dtype": "F32", "data_offsets": [0, 16]}})),
    ("F16 of shape [4] does not take 16 bytes", one("F16")),
    ("'t' has type 'F64', which is not supported; these are: F32", one("F64", [2])),
    ("'t' has type 'F8_E4M3', which is not supported", one("F8_E4M3", [16])),
    ("'t' has type ['F32'], which is not supported", one(["F32"])),
    (r"tensor 'a\nb\x1b' has type 'I8'", packed({"a\nb\x1b": entry("I8", [16], [0, 16])})),
]


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


FILES = "model.safetensors or model.safetensors.index.json, found 'config.json', 'pytorch_model.bin'"


def safetensors() -> Format:
    rows = [*HEADERS, (f"expected {FILES}", without_weights)]
    return Format(*tiny_model("llama_gqa"), write_folder, rows, inside="model.safetensors")


# --- Shards and their index -------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


def shard(number: int) -> str:
    return f"model-{number:05}-of-00003.safetensors"


def placed(**homes: object) -> Callable[[Path], None]:
    """The index says that tensors are in other files (GONE: it does not know them)."""
    return lambda folder: reindex(
        folder, lambda known: {n: h for n, h in (known | homes).items() if h is not GONE}
    )


def head_in(home: object) -> Callable[[Path], None]:
    return placed(**{"lm_head.weight": home})


def reindex(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    known = json.loads((folder / INDEX).read_text())["weight_map"]
    (folder / INDEX).write_text(json.dumps({"weight_map": change(known)}))


def second_is(other: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Something else stands in the place of the second shard."""

    def change(folder: Path) -> None:
        (folder / shard(2)).unlink()
        other(folder / shard(2), folder)

    return change


def copied(path: Path, folder: Path) -> None:
    path.write_bytes((folder / shard(1)).read_bytes())


NOWHERE = ["../model.safetensors", "/model.safetensors", "a/b.safetensors", "", ".", "x.bin"]
NOWHERE += ["a\nb.safetensors", "config.json"]
SHARDS = [
    *((f"{name!r} is not a safetensors file of this folder", head_in(name)) for name in NOWHERE),
    *((f"{name}: ", head_in(name)) for name in ("none.safetensors", "n" * 300 + ".safetensors")),
    (f"{shard(2)}: no such file", second_is(lambda path, _: None)),
    (f"of {shard(2)} is not placed there", second_is(copied)),
    (shard(2), second_is(lambda path, _: path.symlink_to(path.name))),
    (f"{shard(3)}: tensor 'more' of the index is not there", placed(more=shard(3))),
    ("tensor 'lm_head.weight' of", head_in(GONE)),
    ("is not placed there", head_in(shard(1))),
    *(
        (
            "expected a weight_map from tensors to files",
            lambda folder, value=value: reindex(folder, lambda _: value),
        )
        for value in ([], {"a": 1}, None, 3, "a")
    ),
    *(
        ("", lambda folder, value=value: (folder / INDEX).write_text(json.dumps(value)))
        for value in (None, 3, "a", [1], {"x": 1}, {"weight_map": {"lm_head.weight": [{}]}})
    ),
]


def sharded() -> Format:
    config, weights = tiny_model("llama_gqa")
    return Format(config, weights, lambda *parts: write_folder(*parts, shards=3), SHARDS)
