"""Write models of transformers as GGUF files, with the names and orders of llama.cpp's converter."""

import re

import numpy as np
import pytest
from support.tiny_models import pair_neighbours

NAMES = {
    "gpt_neox": "gptneox", "gemma3_text": "gemma3", "mixtral": "llama", "qwen3_moe": "qwen3moe",
    "qwen2_moe": "qwen2moe", "gpt_oss": "gpt-oss", "olmo3": "olmo2", "cohere": "command-r", "phi": "phi2",
    "deepseek_v3": "deepseek2", "deepseek_v2": "deepseek2", "glm4_moe": "glm4moe",
    "minimax_m2": "minimax-m2", "gemma4_text": "gemma4", "ministral3": "mistral3",
    "hunyuan_v1_dense": "hunyuan-dense", "llama4_text": "llama4",
}  # fmt: skip
ARCHITECTURES = {"glm4_moe": "GLM4_MOE", "minimax_m2": "MINIMAXM2"}  # names in the package gguf that differ
GEMMA4_SCALES = {"router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale"}
# The converter puts the rows of each RoPE pair side by side.
ADJACENT = ("granite", "smollm3", "mixtral", "ministral3")


def write_gguf_of(theirs, path, form="", type="F32"):
    """Write a model of transformers. The form "fused" has q, k and v, and gate and up of all experts, in one
    matrix each. The form "single" has a matrix for each expert. `type` is the type of the matrices of experts
    in other forms."""
    gguf = pytest.importorskip("gguf", reason="the package gguf writes the files")
    config = theirs.config
    kind = config.model_type
    writer = gguf.GGUFWriter(path, NAMES.get(kind, kind))
    writer.add_tokenizer_model("none")
    values = fields(config)
    if form != "absorbed" and hasattr(config, "kv_lora_rank"):
        values = old_latent_fields(values)
    for key, value in values.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    architecture = gguf.MODEL_ARCH[ARCHITECTURES.get(kind, writer.arch.upper().replace("-", "_"))]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors, learned = {}, dict(theirs.named_parameters())
    for key in ("alpha_p", "alpha_n"):  # of Apertus
        if numbers := [learned[name].item() for name in learned if name.endswith(f"act_fn.{key}")]:
            getattr(writer, f"add_xielu_{key}")(numbers)
    own = {name: parameter.detach().numpy() for name, parameter in learned.items()}
    own |= {name: buffer.numpy() for name, buffer in theirs.named_buffers() if name.endswith("layer_scalar")}
    for whole, parameter in of_heads_joined(own):
        for name, rows in experts(kind, whole, parameter).items() if "act_fn" not in whole else ():
            hf_name = name.replace("lm_head", "embed_out") if kind == "gpt_neox" else name
            hf_name = hf_name.removeprefix("transformer.") if kind == "bloom" else hf_name
            hf_name = re.sub(r"layer_scalar$", "layer_scalar.weight", hf_name)
            own = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
            for theirs_of, in_file in GEMMA4_SCALES.items():
                own = re.sub(rf"model\.layers\.(\d+)\.{theirs_of}$", rf"blk.\1.{in_file}", own or hf_name)
            tensors[own] = in_gguf(kind, name, rows, config)
    for name, buffer in theirs.named_buffers():
        if "e_score_correction_bias" in name:
            tensors[f"blk.{name.split('.')[2]}.exp_probs_b.bias"] = buffer.numpy()
    if form == "absorbed":
        tensors, form = absorbed(tensors, config), ""
    tensors |= factors(config)
    tensors = {"": dict, "fused": fused, "single": single}[form](tensors)
    for name, rows in tensors.items():
        own = gguf.GGMLQuantizationType[type if name.endswith("_exps.weight") else "F32"]
        writer.add_tensor(
            name, gguf.quants.quantize(np.ascontiguousarray(rows, np.float32), own), raw_dtype=own
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def of_heads_joined(parameters):
    """Yield the parameters, with one gain for all heads of a norm: [heads, D]"""
    for whole, rows in parameters.items():
        name, head, _ = re.split(r"\.norms\.(\d+)", whole) if ".norms." in whole else (whole, "", "")
        if head in ("", "0"):
            parts = [own for other, own in parameters.items() if head and other.startswith(f"{name}.norms.")]
            yield (f"{name}.weight", np.stack(parts)) if head else (whole, rows)


def experts(kind, name, rows):
    """Return the parameters that the converter writes for a parameter, by their names of modules: one for
    gate and one for up, [experts, out, in]."""
    if ".experts." not in name:
        return {f"{name}.weight" if name.endswith("sinks") else name: rows}
    if kind == "gpt_oss":
        rows = rows.swapaxes(1, 2) if rows.ndim == 3 else rows
        gate, up = rows[:, ::2], rows[:, 1::2]  # only used for gate_up
    else:
        gate, up = rows[:, : rows.shape[1] // 2], rows[:, rows.shape[1] // 2 :]
    name = name.replace("_bias", ".bias") if name.endswith("_bias") else f"{name}.weight"
    if kind == "llama4_text":
        rows = rows.swapaxes(1, 2)
        gate, up = np.split(rows, 2, axis=1)  # only used for gate_up
    if "gate_up" not in name or kind == "gemma4_text":
        return {name: rows}
    return {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}


def in_gguf(kind, name, rows, config):
    """Return a parameter as the converter stores it."""
    rows = rows[0] if "shared_expert_gate" in name else rows  # the converter drops dimensions of 1
    heads = config.num_attention_heads
    if kind in ("gemma", "gemma2", "gemma3_text") and "norm" in name:
        return rows + 1
    if "query_key_value" in name:
        keys = heads if kind in ("gpt_neox", "bloom") else kv_heads(config)
        groups = rows.reshape(keys, heads // keys + 2, -1, *rows.shape[1:])
        parts = groups[:, :-2], groups[:, -2], groups[:, -1]
        return np.concatenate([part.reshape(-1, *rows.shape[1:]) for part in parts])
    projection = re.search(r"\.([qk])_proj\.", name)
    if kind in ADJACENT and projection:
        return pair_neighbours(rows, heads if projection[1] == "q" else config.num_key_value_heads)
    return rows


def kv_heads(config):
    """Return the number of key-value heads, which a Falcon calls otherwise."""
    if config.model_type == "falcon":
        return config.num_kv_heads if config.new_decoder_architecture else 1
    return getattr(config, "num_key_value_heads", None)


def fused(tensors):
    """Return the tensors with q, k and v in one matrix, and with gate and up of all experts in one tensor, as
    `--fuse-qkv` and `--fuse-gate-up-exps` of the converter write them."""
    wholes = {"attn_qkv.": ("attn_q.", "attn_k.", "attn_v.")}
    wholes["ffn_gate_up_exps."] = ("ffn_gate_exps.", "ffn_up_exps.")
    result = dict(tensors)
    for whole, (first, *others) in wholes.items():
        for name in [name for name in tensors if first in name and name.replace(first, others[0]) in tensors]:
            own = [result.pop(name.replace(first, part)) for part in (first, *others)]
            result[name.replace(first, whole)] = np.concatenate(own, axis=int("exps" in whole))
    return result


def absorbed(tensors, config):
    """Return the tensors with the matrices of keys and values apart, and those of keys transposed, for the
    view of latent attention with one key-value head."""
    result, heads, dim = dict(tensors), config.num_attention_heads, config.qk_nope_head_dim
    for name in [name for name in tensors if "attn_kv_b" in name]:
        both = result.pop(name).reshape(heads, dim + config.v_head_dim, -1)
        result[name.replace("kv_b", "k_b")] = both[:, :dim].swapaxes(1, 2)
        result[name.replace("kv_b", "v_b")] = both[:, dim:]
    return result


def single(tensors):
    """Return the tensors with a matrix for each expert, as in Mixtral files of 2023."""
    result = {name: rows for name, rows in tensors.items() if "_exps" not in name}
    for name in tensors.keys() - result.keys():
        result |= {name.replace("_exps", f".{e}"): rows for e, rows in enumerate(tensors[name])}
    return result


def rope_of(config):
    rope = getattr(config, "rope_parameters", {"rope_type": None, "rope_theta": None})
    return rope.get("full_attention", rope)


def factors(config):
    """Return the divisors of longrope, which are tensors in GGUF files."""
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": llama3_factors(config, rope)}
    kinds = ("long", "short") if rope["rope_type"] == "longrope" else ()
    if rope["rope_type"] == "proportional":
        pairs = config.per_layer_config["full_attention"].head_dim // 2
        turning = int(rope["partial_rotary_factor"] * pairs)
        return {"rope_freqs.weight": np.array([1.0] * turning + [1e30] * (pairs - turning))}
    return {f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"]) for kind in kinds}


def llama3_factors(config, rope):
    """Return the divisors of the frequencies in llama3 scaling."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns / (2 * np.pi) - low) / max(high - low, 1e-12), 0, 1)
    return 1 / ((1 - smooth) / rope["factor"] + smooth)


def routing_fields(config):
    import gguf

    by_sigmoid = config.model_type != "deepseek_v2"
    return {
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts, "expert_shared_count": config.n_shared_experts,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob if by_sigmoid else False,
        "expert_gating_func": gguf.ExpertGatingFuncType(2 if by_sigmoid else 1),
        "expert_group_count": config.n_group, "expert_group_used_count": config.topk_group,
    }  # fmt: skip


def latent_fields(config, rope):
    whole = config.qk_nope_head_dim + config.qk_rope_head_dim
    return {
        "q_lora_rank": config.q_lora_rank, "kv_lora_rank": config.kv_lora_rank, "head_count_kv": 1,
        "key_length": config.kv_lora_rank + config.qk_rope_head_dim, "value_length": config.kv_lora_rank,
        "key_length_mla": whole, "value_length_mla": config.v_head_dim,
        "rope_dimension_count": config.qk_rope_head_dim,
        "rope_scaling_yarn_log_mul": 0.1 * rope["mscale_all_dim"] if "mscale_all_dim" in rope else None,
    }  # fmt: skip


def old_latent_fields(values):
    """Return the metadata of files with keys and values in one matrix, without the absorbed view."""
    old = {"key_length": values["key_length_mla"], "value_length": values["value_length_mla"]}
    old |= {"head_count_kv": values["head_count"]}
    new = ("key_length_mla", "value_length_mla")
    return {key: value for key, value in values.items() if key not in new} | old


def fields(config):
    """Return the metadata, by the names that the package gguf gives them."""
    import gguf

    kind, rope = config.model_type, rope_of(config)
    config.allow_global_per_layer_attribute_access = True  # of Gemma 4
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon")
    rms_eps, *layer_eps = (getattr(config, key, None) for key in keys)
    values = {
        "context_length": getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", 2048)),
        "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "ffn_hidden_size", None)
        or getattr(config, "intermediate_size", 4 * config.hidden_size),
        "head_count": config.num_attention_heads,
        "head_count_kv": kv_heads(config), "vocab_size": config.vocab_size,
        "layer_norm_rms_eps": rms_eps, "layer_norm_eps": next(filter(None, layer_eps), None),
        "rope_freq_base": rope["rope_theta"] if kind != "gpt_neox" else None,
        "rope_dimension_count": int(dim * rope.get("partial_rotary_factor", 1)),
        "key_length": dim, "value_length": dim,
        "expert_used_count": getattr(config, "num_experts_per_tok", None),
        "expert_count": getattr(config, "num_local_experts", getattr(config, "num_experts", None)),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
        "expert_shared_feed_forward_length": getattr(config, "shared_expert_intermediate_size", None),
    }  # fmt: skip
    if hasattr(config, "n_routed_experts"):
        values |= routing_fields(config)
    if kind == "minimax_m2":
        values |= {"expert_feed_forward_length": config.intermediate_size}
        values |= {"expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID}
    if hasattr(config, "kv_lora_rank"):
        values |= latent_fields(config, rope)
    if kind == "granite":
        values |= {
            "attention_scale": config.attention_multiplier, "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier, "logit_scale": config.logits_scaling,
        }  # fmt: skip
    if kind == "gpt_oss":
        values |= {"expert_feed_forward_length": config.intermediate_size}
    if kind == "llama4_text":
        values |= {"feed_forward_length": config.intermediate_size_mlp}
        values |= {"expert_feed_forward_length": config.intermediate_size}
        values |= {"interleave_moe_layer_step": config.interleave_moe_layer_step}
    if kind == "gpt_neox":
        values |= {"parallel_residual": config.use_parallel_residual}
    if kind in ("gemma2", "gemma3_text", "gemma4_text", "phi3", "gpt_oss"):
        values |= {"sliding_window": config.sliding_window}
    if kind in ("olmo3", "exaone4") and config.sliding_window:
        flags = [layer == "sliding_attention" for layer in config.layer_types]
        values |= {"sliding_window": config.sliding_window, "sliding_window_pattern": flags}
    if kind in ("cohere", "cohere2"):
        values |= {"logit_scale": config.logit_scale}
    if kind == "cohere2":
        values |= {"sliding_window": config.sliding_window}
    if kind == "stablelm":
        values |= {"parallel_residual": config.use_parallel_residual}
    if kind == "gemma4_text":
        values |= of_gemma4(config)
    if kind == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        values |= {key: getattr(config, key) for key in caps}
    if rope["rope_type"] == "linear":
        values |= {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": rope["factor"]}
    if rope["rope_type"] == "yarn":
        values |= {f"rope_scaling_yarn_{own}": rope[own] for own in ("beta_fast", "beta_slow")}
        values |= {"rope_scaling_type": gguf.RopeScalingType.YARN, "rope_scaling_factor": rope["factor"]}
        values |= {"rope_scaling_orig_ctx_len": rope["original_max_position_embeddings"]}
    if kind == "apertus":
        values |= {"xielu_beta": [0.5] * config.num_hidden_layers}
        values |= {"xielu_eps": [-1e-6] * config.num_hidden_layers}
    if kind == "mpt":
        values |= {"max_alibi_bias": 8.0, "clamp_kqv": config.attn_config.clip_qkv}
    if kind == "ministral3":
        values |= {"attn_temperature_scale": rope["llama_4_scaling_beta"]}
        values |= {"rope_scaling_yarn_log_mul": rope["mscale_all_dim"]}
    if alpha := rope.get("alpha"):
        values |= {"rope_freq_base": rope["rope_theta"] * alpha ** (dim / (dim - 2))}
        values |= {"rope_scaling_type": gguf.RopeScalingType.NONE, "rope_scaling_factor": 1}
    if rope["rope_type"] == "longrope":
        values |= {"rope_scaling_orig_ctx_len": rope["original_max_position_embeddings"]}
        grown = config.max_position_embeddings / rope["original_max_position_embeddings"]
        usual = (1 + np.log(max(grown, 1)) / np.log(rope["original_max_position_embeddings"])) ** 0.5
        values |= {"rope_scaling_attn_factors": rope.get("attention_factor") or float(usual)}
    return values


def of_gemma4(config):
    """Return the metadata of a Gemma 4, most of which differ by layer."""
    count, shared, inner = config.num_hidden_layers, config.num_kv_shared_layers, config.intermediate_size
    windowed = [kind == "sliding_attention" for kind in config.layer_types]
    full = config.per_layer_config["full_attention"]
    values = {
        "shared_kv_layers": shared, "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "sliding_window_pattern": windowed, "key_length": full.head_dim, "value_length": full.head_dim,
        "key_length_swa": config.head_dim, "value_length_swa": config.head_dim,
        "rope_dimension_count": full.head_dim, "rope_dimension_count_swa": config.head_dim,
        "rope_freq_base_swa": config.rope_parameters["sliding_attention"]["rope_theta"],
        "final_logit_softcapping": config.final_logit_softcapping,
        "expert_used_count": config.top_k_experts,
    }  # fmt: skip
    if config.use_double_wide_mlp:
        values["feed_forward_length"] = [inner] * (count - shared) + [2 * inner] * shared
    if full.num_key_value_heads != config.num_key_value_heads:
        heads = config.num_key_value_heads, full.num_key_value_heads
        values["head_count_kv"] = [heads[not own] for own in windowed]
    return values
