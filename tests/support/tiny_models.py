"""Tiny decoders for tests: configs, seeded random weights, and files.

Configs and tensor names are those of Hugging Face. Weights are not stored: they follow from the name of a
case. All are random, gains and biases too, so that a test notices if one is not used.
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
    """Return a config with two layers, width 32, 4 query heads and 2 key-value heads, or with `changes`."""
    kind = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    return {
        "architectures": [f"{kind}ForCausalLM"], "model_type": model_type, "vocab_size": 61,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip


def rope_4(theta=10000.0, **scaling):
    """Return RoPE as transformers 4 writes it to config.json."""
    return {"rope_theta": theta, "rope_scaling": scaling or None}


def rope_5(theta=10000.0, rope_type="default", **scaling):
    """Return RoPE as transformers 5 writes it to config.json."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": rope_type, **scaling}}


# Chosen for heads of 8 channels, or 4 pairs: some pairs keep their frequency, some are slowed, and one or two
# lie between. The ends of the ramp lie between whole pairs.
YARN = {"factor": 8.0, "original_max_position_embeddings": 64}
BETAS = YARN | {"beta_fast": 2.0, "beta_slow": 1.0}
LLAMA3 = YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
FIRST_WINDOWED = ["sliding_attention", "full_attention"]
LONG = {"max_position_embeddings": 512}  # the training context times the factor
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


def fits_gguf(config):
    """Return True if GGUF can express a config: windows in all layers or none, yarn in whole pairs."""
    return not config.get("use_sliding_window") and "truncate" not in rope_of(config)


def tensor_shapes(config):
    """Return the shape of every tensor by name. Matrices are [out, in]."""
    width, inner, vocab = (config[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    dim = head_dim_of(config)
    queries, keys = config["num_attention_heads"] * dim, kv_heads_of(config) * dim
    attention = {"q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries)}
    mlp = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    layer = {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    layer |= {f"self_attn.{n}_proj.weight": shape for n, shape in attention.items()}
    layer |= {f"mlp.{n}_proj.weight": shape for n, shape in mlp.items()}
    qwen2 = config["model_type"] == "qwen2"
    biased = "qkv" if qwen2 else "qkvo" if config.get("attention_bias") else ""
    layer |= {f"self_attn.{n}_proj.bias": attention[n][:1] for n in biased}
    layer |= {f"mlp.{n}_proj.bias": mlp[n][:1] for n in (mlp if config.get("mlp_bias") else ())}
    if config["model_type"] == "qwen3":
        layer |= {f"self_attn.{n}_norm.weight": (dim,) for n in "qk"}
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, width)}


def _random(seed):
    """Return a generator whose numbers no version of NumPy changes, unlike those of default_rng."""
    return np.random.RandomState(zlib.crc32(seed.encode()))


def _random_tensor(name, shape, seed):
    normal = _random(f"{seed}/{name}").standard_normal(shape)
    if name.endswith(".bias"):
        return (0.3 * normal).astype(np.float32)
    if "norm" in name:
        return (1 + 0.3 * normal).astype(np.float32)
    return (1.5 / math.sqrt(shape[1]) * normal).astype(np.float32)


def random_weights(config, seed):
    """Return float32 weights by name. A seed (the name of a case) gives the same weights everywhere."""
    return {name: _random_tensor(name, shape, seed) for name, shape in tensor_shapes(config).items()}


def tiny_model(case):
    """Return the config and weights of a case."""
    return CASES[case], random_weights(CASES[case], case)


def as_bf16(array):
    """Return the upper halves of float32 as uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def round_weights(weights, dtype):
    """Round weights to a dtype, and return them in float32."""
    rounding = {
        "F32": np.asarray,
        "F16": lambda array: array.astype(np.float16).astype(np.float32),
        "BF16": lambda array: (as_bf16(array).astype(np.uint32) << 16).view(np.float32),
    }[dtype]
    return {name: rounding(array) for name, array in weights.items()}


_STORED = {"F32": np.asarray, "F16": lambda array: array.astype(np.float16), "BF16": as_bf16}


def _write_safetensors(path, weights, dtype):
    """Write the length of the header as u64, the header as JSON, and the tensors."""
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
    """Write config.json and model.safetensors, or several shards with an index. Return the folder."""
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


class Blocks(NamedTuple):
    """A matrix in a quantisation type: rows of bytes."""

    type: str
    rows: np.ndarray  # [out, bytes] uint8

    def values(self):
        """Return the values, [out, in] float32, dequantised by gguf.quants."""
        from gguf import GGMLQuantizationType, quants

        return quants.dequantize(self.rows, GGMLQuantizationType[self.type])


# Positions of the half-precision scales and offsets in the bytes of a block
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def random_blocks(type, shape, seed):
    """Return a matrix of random bytes. Its scales are chosen so that the weights have a usual size."""
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
        for at, column in zip(SCALES.get(type, ()), signed.T, strict=False):
            blocks[:, at : at + 2] = (column * unit).astype(np.float16)[:, None].view(np.uint8)
        if type == "MXFP4":
            blocks[:, 0] = 128 + np.rint(np.log2(np.abs(signed[:, 0] * unit)))
        return Blocks(type, blocks.reshape(rows, -1))

    return scaled(1.5 / math.sqrt(width) / scaled(1.0).values().std())


def random_quantised_weights(config, type_of, seed):
    """Return Blocks for every matrix, of the type `type_of(name)`. Vectors are float32."""
    return {
        name: random_blocks(type_of(name), shape, f"{seed}/{name}")
        if len(shape) == 2
        else _random_tensor(name, shape, seed)
        for name, shape in tensor_shapes(config).items()
    }


def quantise(weights, type):
    """Quantise every matrix with the quantiser of gguf."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[type]
    return {
        name: Blocks(type, gguf.quants.quantize(array, kind).view(np.uint8)) if array.ndim == 2 else array
        for name, array in weights.items()
    }


def pair_neighbours(rows, n_head):
    """Reorder rows of q or k, or Blocks, as GGUF stores them for llama: channel i next to i + D/2."""
    if isinstance(rows, Blocks):
        return rows._replace(rows=pair_neighbours(rows.rows, n_head))
    halves = rows.reshape(n_head, 2, len(rows) // n_head // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def write_gguf(path, config, weights, *, permute=True, split=0):
    """Write weights (arrays, Blocks) to a GGUF file, or to parts of `split` tensors. Return the first.

    `permute=False` makes a wrong file: it omits the reordering that q and k of llama need.
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
    first = write_parts(writer, path, _gguf_fields(config), rows)
    return min(path.parent.glob(f"{path.stem}*.gguf")) if split else first


def write_parts(writer, path, fields, weights):
    """Write the fields that are not None, and weights (arrays or Blocks) by their Hugging Face names. Close
    the writer and return the path."""
    import gguf

    for key, value in fields.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[writer.arch.upper()], fields["block_count"])
    for name, weight in weights.items():
        kind, rows = weight if isinstance(weight, Blocks) else ("F32", np.ascontiguousarray(weight))
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(gguf_name, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_fields(config):
    """Return the GGUF fields of a config, by the names that the package gguf gives them."""
    import gguf

    rope, dim = rope_of(config), config.get("head_dim")
    fields = {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"], "head_count_kv": kv_heads_of(config),
        "layer_norm_rms_eps": config["rms_norm_eps"], "vocab_size": config["vocab_size"],
        "rope_dimension_count": head_dim_of(config), "key_length": dim, "value_length": dim,
        "rope_freq_base": rope["rope_theta"],
        "sliding_window": config["sliding_window"] if config["model_type"] == "mistral" else None,
    }  # fmt: skip
    if rope["rope_type"] not in ("linear", "yarn"):  # llama3 is a tensor of factors
        return fields
    fields["rope_scaling_type"] = gguf.RopeScalingType(rope["rope_type"])
    fields["rope_scaling_factor"] = rope["factor"]
    if rope["rope_type"] == "yarn":
        fields["rope_scaling_orig_ctx_len"] = rope["original_max_position_embeddings"]
        fields |= {f"rope_scaling_yarn_{beta}": rope.get(beta) for beta in ("beta_fast", "beta_slow")}
        if "attention_factor" in rope:  # multiplies yarn's own in GGUF, replaces it in Hugging Face
            yarn_factor = 0.1 * math.log(rope["factor"]) + 1
            fields["rope_scaling_attn_factors"] = rope["attention_factor"] / yarn_factor
    return fields


def wide_model(tmp_path, type):
    """Return a model with one massive channel. Its matrices have one type, and blocks divide its widths."""
    config = CASES["qwen2"] | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
    weights = random_quantised_weights(config, lambda name: type, "inputs")
    weights["model.layers.0.input_layernorm.weight"][7] *= 50
    return load(write_gguf(tmp_path / "m.gguf", config, weights)), config, weights


def random_scales(rng, names):
    """Return a factor from 0.001 to 1000 for each of some names, and 1 for the others."""
    wild = rng.choice([0.0, 0.1, 0.5])
    return {name: 10.0 ** rng.uniform(-3, 3) if rng.random() < wild else 1.0 for name in names}
