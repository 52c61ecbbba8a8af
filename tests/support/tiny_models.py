"""Tiny decoders for tests: their configs, seeded random weights, and the files they are written to.

Configs and tensor names are Hugging Face's. Weights are never stored: they follow from the case's
name. Every one is random, gains and biases too, so that nothing can be left out unseen.
"""

import json
import math
import re
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from support.judges_decoder import head_dim_of, kv_heads_of, rope_frequencies, rope_of

from microgpt_trace import load

TOKENS = (17, 3, 44, 3, 60, 0, 29)


def tiny_config(model_type="llama", **changes):
    """A config of two layers, width 32, 4 query heads and 2 key-value heads; `changes` stand in it."""
    kind = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": model_type,
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes


def rope_4(theta=10000.0, **scaling):
    """RoPE as transformers 4 writes it into config.json."""
    return {"rope_theta": theta, "rope_scaling": scaling or None}


def rope_5(theta=10000.0, rope_type="default", **scaling):
    """RoPE as transformers 5 writes it into config.json."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": rope_type, **scaling}}


# Chosen for heads of 8 channels: of the four pairs some keep their frequency, some are slowed and
# one or two lie between, with the ramp's ends between whole pairs.
YARN = {"factor": 8.0, "original_max_position_embeddings": 64}
BETAS = YARN | {"beta_fast": 2.0, "beta_slow": 1.0}
LLAMA3 = YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
FIRST_WINDOWED = ["sliding_attention", "full_attention"]
# The context is the training context times the factor.
LONG = {"max_position_embeddings": 512}
CASES = {
    "llama_gqa": tiny_config(**rope_5()),
    "llama_mqa": tiny_config(num_key_value_heads=1, rms_norm_eps=1e-6, **rope_4(1000.0)),
    "llama_mha_bias": tiny_config(num_key_value_heads=4, attention_bias=True, mlp_bias=True, **rope_4()),
    "llama_tied": tiny_config(tie_word_embeddings=True, rms_norm_eps=1e-2, head_dim=8, **rope_5(500000.0)),
    "llama_head_dim": tiny_config(head_dim=12, **rope_5()),
    "llama_linear": tiny_config(**rope_4(type="linear", factor=4.0)),
    "llama_llama3": tiny_config(**LONG, **rope_4(500.0, rope_type="llama3", **LLAMA3)),
    "llama_llama3_tied": tiny_config(tie_word_embeddings=True, **LONG, **rope_5(500.0, "llama3", **LLAMA3)),
    "llama_yarn": tiny_config(**LONG, **rope_4(rope_type="yarn", **YARN)),
    "llama_yarn_betas": tiny_config(**LONG, **rope_5(100.0, "yarn", **BETAS)),
    "llama_yarn_attention": tiny_config(**LONG, **rope_5(100.0, "yarn", attention_factor=1.5, **BETAS)),
    "llama_yarn_smooth": tiny_config(**LONG, **rope_5(100.0, "yarn", truncate=False, **BETAS)),
    "mistral": tiny_config("mistral", head_dim=None, sliding_window=None, **rope_4()),
    "mistral_window": tiny_config("mistral", sliding_window=3, **rope_5(1000.0)),
    "qwen2": tiny_config("qwen2", **WINDOW | {"use_sliding_window": False}, **rope_4(1e6)),
    "qwen2_tied": tiny_config("qwen2", tie_word_embeddings=True, rms_norm_eps=1e-6, **rope_5(1e6)),
    "qwen2_window": tiny_config("qwen2", **WINDOW, **rope_4()),
    "qwen2_layer_types": tiny_config("qwen2", **WINDOW, layer_types=FIRST_WINDOWED, **rope_5()),
    "qwen3": tiny_config("qwen3", head_dim=12, attention_bias=False, **rope_4(1e6)),
    "qwen3_tied": tiny_config("qwen3", head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-3, **rope_5()),
}


def says_gguf(config):
    """Whether GGUF can express it: windows for all layers or none, yarn in whole pairs."""
    return not config.get("use_sliding_window") and "truncate" not in rope_of(config)


# --- Weights ---------------------------------------------------------------------------------


def tensor_shapes(config):
    """Name and shape of every tensor, matrices [out, in]."""
    width, inner, vocab = (config[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    dim = head_dim_of(config)
    queries, keys = config["num_attention_heads"] * dim, kv_heads_of(config) * dim
    attention = {"q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries)}
    mlp = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    own = {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    own |= {f"self_attn.{n}_proj.weight": shape for n, shape in attention.items()}
    own |= {f"mlp.{n}_proj.weight": shape for n, shape in mlp.items()}
    qwen2 = config["model_type"] == "qwen2"
    biased = "qkv" if qwen2 else "qkvo" if config.get("attention_bias") else ""
    own |= {f"self_attn.{n}_proj.bias": attention[n][:1] for n in biased}
    own |= {f"mlp.{n}_proj.bias": mlp[n][:1] for n in (mlp if config.get("mlp_bias") else ())}
    if config["model_type"] == "qwen3":
        own |= {f"self_attn.{n}_norm.weight": (dim,) for n in "qk"}
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in own.items()}
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, width)}


def _random(seed):
    """Numbers that no version of NumPy changes: RandomState is frozen, unlike default_rng's methods."""
    return np.random.RandomState(zlib.crc32(seed.encode()))


def _random_tensor(name, shape, seed):
    normal = _random(f"{seed}/{name}").standard_normal(shape)
    if name.endswith(".bias"):
        return (0.3 * normal).astype(np.float32)
    if "norm" in name:
        return (1 + 0.3 * normal).astype(np.float32)
    return (1.5 / math.sqrt(shape[1]) * normal).astype(np.float32)


def random_weights(config, seed):
    """Weights by name, float32; the same for the same seed (a case's name) on every machine."""
    return {name: _random_tensor(name, shape, seed) for name, shape in tensor_shapes(config).items()}


def tiny_model(case):
    """(config, weights) of a case"""
    return CASES[case], random_weights(CASES[case], case)


# --- Hugging Face folders --------------------------------------------------------------------


def as_bf16(array):
    """The upper halves of float32, uint16, rounded to the nearest and ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rounded(weights, dtype):
    """The same weights as a dtype holds them, float32."""
    held = {
        "F32": np.asarray,
        "F16": lambda array: array.astype(np.float16).astype(np.float32),
        "BF16": lambda array: (as_bf16(array).astype(np.uint32) << 16).view(np.float32),
    }[dtype]
    return {name: held(array) for name, array in weights.items()}


_STORED = {"F32": np.asarray, "F16": lambda array: array.astype(np.float16), "BF16": as_bf16}


def _write_safetensors(path, weights, dtype):
    """u64 length of the header, the header as JSON, the tensors one after another."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in weights.items():
        stored = _STORED[dtype](array).tobytes()
        offsets = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += stored
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_folder(folder, config, weights, dtype="F32", shards=1):
    """Write config.json and model.safetensors, or several shards with their index; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        _write_safetensors(folder / "model.safetensors", weights, dtype)
        return folder
    homes = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in list(weights)[number::shards]}
        _write_safetensors(folder / file, part, dtype)
        homes |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


# --- GGUF (by the gguf package, which writes what is asked of it) -----------------------------


class Blocks(NamedTuple):
    """A matrix as a quantisation type stores it: rows of bytes."""

    type: str
    rows: np.ndarray  # [out, bytes] uint8

    def values(self):
        """What it holds, [out, in] float32, as gguf.quants says."""
        from gguf import GGMLQuantizationType, quants

        return quants.dequantize(self.rows, GGMLQuantizationType[self.type])


# At which bytes of a block its half-precision scales and offsets lie
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def random_blocks(type, shape, seed):
    """A random matrix of a type: every byte random but the scales, which make weights of a usual size."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    rows, width = shape
    rng = _random(f"{type}/{seed}")
    if type in _STORED:
        values = (1.5 / math.sqrt(width) * rng.standard_normal(shape)).astype(np.float32)
        return Blocks(type, _STORED[type](values).view(np.uint8))
    size, bytes_ = GGML_QUANT_SIZES[GGMLQuantizationType[type]]
    blocks = rng.randint(0, 256, (rows * width // size, bytes_)).astype(np.uint8)
    signed = rng.uniform(0.5, 1.0, (len(blocks), 2)) * rng.choice([-1, 1], (len(blocks), 2))

    def scaled(unit):
        for at, column in zip(SCALES[type], signed.T, strict=False):
            blocks[:, at : at + 2] = (column * unit).astype(np.float16)[:, None].view(np.uint8)
        return Blocks(type, blocks.reshape(rows, -1))

    return scaled(1.5 / math.sqrt(width) / scaled(1.0).values().std())


def random_quantised_weights(config, type_of, seed):
    """Blocks for every matrix, of the type that `type_of` gives for its name; vectors are float32."""
    return {
        name: random_blocks(type_of(name), shape, f"{seed}/{name}")
        if len(shape) == 2
        else _random_tensor(name, shape, seed)
        for name, shape in tensor_shapes(config).items()
    }


def quantised(weights, type):
    """The same weights with every matrix rounded by gguf's own quantiser."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[type]
    return {
        name: Blocks(type, gguf.quants.quantize(array, kind).view(np.uint8)) if array.ndim == 2 else array
        for name, array in weights.items()
    }


def dequantised(weights):
    return {name: w.values() if isinstance(w, Blocks) else w for name, w in weights.items()}


def pair_neighbours(rows, n_head):
    """Reorder rows of q or k, or Blocks, as GGUF stores those of llama: channel i next to i + D/2."""
    if isinstance(rows, Blocks):
        return rows._replace(rows=pair_neighbours(rows.rows, n_head))
    halves = rows.reshape(n_head, 2, len(rows) // n_head // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def write_gguf(path, config, weights, *, permute=True, split=0):
    """Write a GGUF file of weights (arrays or Blocks), or parts of `split` tensors; returns the (first) path.

    `permute=False` leaves out the reordering that llama's q and k need: a wrong file.
    """
    import gguf

    architecture = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    rows, heads = dict(weights), {"q": config["num_attention_heads"], "k": kv_heads_of(config)}
    for name, weight in weights.items():
        projection = re.search(r"\.([qk])_proj\.", name)
        if projection and architecture == "llama" and permute:
            rows[name] = pair_neighbours(weight, heads[projection[1]])
    if rope_of(config)["rope_type"] == "llama3":
        theta = rope_of(config)["rope_theta"]
        plain, _ = rope_frequencies({"head_dim": head_dim_of(config), "rope_theta": theta})
        rows["rope_freqs.weight"] = (plain / rope_frequencies(config)[0]).astype(np.float32)
    first = write_parts(writer, path, _said(config), rows)
    return min(path.parent.glob(f"{path.stem}*.gguf")) if split else first


def write_parts(writer, path, said, weights):
    """Write what is said of a model (all but None), and weights by their Hugging Face names, arrays or Blocks
    [out, in], and close; returns the path."""
    import gguf

    for key, value in said.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[writer.arch.upper()], said["block_count"])
    for name, weight in weights.items():
        kind, rows = weight if isinstance(weight, Blocks) else ("F32", np.ascontiguousarray(weight))
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(gguf_name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _said(config):
    """What GGUF says of a config, by what the package gguf calls it."""
    import gguf

    rope, dim = rope_of(config), config.get("head_dim")
    said = {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"], "head_count_kv": kv_heads_of(config),
        "layer_norm_rms_eps": config["rms_norm_eps"], "vocab_size": config["vocab_size"],
        "rope_dimension_count": head_dim_of(config), "key_length": dim, "value_length": dim,
        "rope_freq_base": rope["rope_theta"],
        "sliding_window": config["sliding_window"] if config["model_type"] == "mistral" else None,
    }  # fmt: skip
    if rope["rope_type"] not in ("linear", "yarn"):  # llama3 is a tensor of factors
        return said
    said["rope_scaling_type"] = gguf.RopeScalingType(rope["rope_type"])
    said["rope_scaling_factor"] = rope["factor"]
    if rope["rope_type"] == "yarn":
        said["rope_scaling_orig_ctx_len"] = rope["original_max_position_embeddings"]
        said |= {f"rope_scaling_yarn_{beta}": rope.get(beta) for beta in ("beta_fast", "beta_slow")}
        if "attention_factor" in rope:  # GGUF's multiplies yarn's own, Hugging Face's takes its place
            own = 0.1 * math.log(rope["factor"]) + 1
            said["rope_scaling_attn_factors"] = rope["attention_factor"] / own
    return said


def wide(tmp_path, type):
    """A model of one matrix type in widths that all blocks divide, with one massive channel."""
    config = CASES["qwen2"] | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
    weights = random_quantised_weights(config, lambda name: type, "inputs")
    weights["model.layers.0.input_layernorm.weight"][7] *= 50
    return load(write_gguf(tmp_path / "m.gguf", config, weights)), config, weights


def scales(rng, names):
    """A factor for some of the names: usually none, sometimes a thousandth or a thousand."""
    wild = rng.choice([0.0, 0.1, 0.5])
    return {name: 10.0 ** rng.uniform(-3, 3) if rng.random() < wild else 1.0 for name in names}
