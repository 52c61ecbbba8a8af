"""Write models of transformers as GGUF files, with the names and orders of llama.cpp's converter."""

import re

import numpy as np
import pytest
from support.tiny_models import pair_neighbours

NAMES = {"gpt_neox": "gptneox", "gemma3_text": "gemma3"}
ADJACENT = ("granite", "smollm3")  # the converter puts the rows of each RoPE pair side by side


def write_gguf_of(theirs, path, fuse=False):
    """Write a model of transformers. If `fuse` is true, q, k and v become one matrix."""
    gguf = pytest.importorskip("gguf", reason="the package gguf writes the files")
    config = theirs.config
    kind = config.model_type
    writer = gguf.GGUFWriter(path, NAMES.get(kind, kind))
    for key, value in fields(config).items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[writer.arch.upper()], config.num_hidden_layers)
    tensors = {}
    for name, parameter in theirs.named_parameters():
        hf_name = name.replace("lm_head", "embed_out") if kind == "gpt_neox" else name
        own = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        tensors[own] = in_gguf(kind, name, parameter.detach().numpy(), config)
    tensors |= factors(config)
    for name, rows in (fused(tensors) if fuse else tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(rows, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_gguf(kind, name, rows, config):
    """Return a parameter as the converter stores it."""
    heads = config.num_attention_heads
    if kind.startswith("gemma") and "norm" in name:
        return rows + 1
    if kind == "gpt_neox" and "query_key_value" in name:
        return rows.reshape(heads, 3, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)
    projection = re.search(r"\.([qk])_proj\.", name)
    if kind in ADJACENT and projection:
        return pair_neighbours(rows, heads if projection[1] == "q" else config.num_key_value_heads)
    return rows


def fused(tensors):
    """Return the tensors with q, k and v in one matrix, as `--fuse-qkv` of the converter writes them."""
    result = {name: rows for name, rows in tensors.items() if not re.search(r"attn_[qkv]\.", name)}
    for name in tensors:
        if ".attn_q." in name:
            parts = [tensors[name.replace("attn_q.", f"attn_{n}.")] for n in "qkv"]
            result[name.replace("attn_q.", "attn_qkv.")] = np.concatenate(parts)
    return result


def rope_of(config):
    rope = config.rope_parameters
    return rope.get("full_attention", rope)


def factors(config):
    """Return the divisors of longrope, which are tensors in GGUF files."""
    rope = rope_of(config)
    kinds = ("long", "short") if rope["rope_type"] == "longrope" else ()
    return {f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"]) for kind in kinds}


def fields(config):
    """Return the metadata, by the names that the package gguf gives them."""
    import gguf

    kind, rope = config.model_type, rope_of(config)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon")
    rms_eps, *layer_eps = (getattr(config, key, None) for key in keys)
    values = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": getattr(config, "num_key_value_heads", None), "vocab_size": config.vocab_size,
        "layer_norm_rms_eps": rms_eps, "layer_norm_eps": next(filter(None, layer_eps), None),
        "rope_freq_base": rope["rope_theta"] if kind != "gpt_neox" else None,
        "rope_dimension_count": int(dim * rope.get("partial_rotary_factor", 1)),
        "key_length": dim, "value_length": dim,
    }  # fmt: skip
    if kind == "granite":
        values |= {
            "attention_scale": config.attention_multiplier, "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier, "logit_scale": config.logits_scaling,
        }  # fmt: skip
    if kind == "gpt_neox":
        values |= {"parallel_residual": config.use_parallel_residual}
    if kind.startswith("gemma") or kind == "phi3":
        values |= {"sliding_window": config.sliding_window}
    if kind == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        values |= {key: getattr(config, key) for key in caps}
    if rope["rope_type"] == "linear":
        values |= {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": rope["factor"]}
    if rope["rope_type"] == "longrope":
        values |= {"rope_scaling_orig_ctx_len": rope["original_max_position_embeddings"]}
        values |= {"rope_scaling_attn_factors": rope.get("attention_factor")}
    return values
