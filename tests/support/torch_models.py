"""Tiny models of transformers for tests: every parameter is random, norms and biases too, and windows are
shorter than the text. Needs torch and transformers.
"""

from copy import deepcopy

import numpy as np
import pytest

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
GEMMA = GROUPED | {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 5}
GEMMA4 = GROUPED | {"head_dim": 12, "global_head_dim": 16, "sliding_window": 5}
TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.2, 2.5, 4.0],
}  # fmt: skip
MIXTURE = GROUPED | {
    "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 14,
}  # fmt: skip
OSS = {
    "num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 12, "sliding_window": 5,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0, "beta_fast": 2.0, "beta_slow": 1.0,
        "truncate": False, "original_max_position_embeddings": 16,  # the ramp has two pairs between its ends
    },
}  # fmt: skip
ROUTED = {
    "n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "moe_intermediate_size": 13, "first_k_dense_replace": 1, "routed_scaling_factor": 1.7,
}  # fmt: skip
LATENT = ROUTED | {
    "num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 14, "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6, "v_head_dim": 9,
}  # fmt: skip
YARN_WITH_MSCALES = {
    "rope_type": "yarn", "rope_theta": 10.0, "factor": 8.0, "beta_fast": 2.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 1.0,
}  # fmt: skip
LLAMA4 = {"num_local_experts": 6, "head_dim": 12, "intermediate_size": 14, "intermediate_size_mlp": 48}
MODELS = {  # type and settings
    "llama": ("llama", GROUPED), "qwen2": ("qwen2", GROUPED), "qwen3": ("qwen3", GROUPED | {"head_dim": 12}),
    "mistral": ("mistral", GROUPED | {"sliding_window": 5}),
    "gpt2": ("gpt2", {
        "vocab_size": 61, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": 2,
    }),
    "smollm3": ("smollm3", GROUPED),
    "smollm3_own": ("smollm3", GROUPED | {
        "no_rope_layers": [1, 0, 0, 1], "tie_word_embeddings": False, "use_sliding_window": True,
        "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"] * 2,
    }),
    "olmo2": ("olmo2", GROUPED),
    "olmo2_wide": ("olmo2", GROUPED | {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", SMALL | {"rotary_pct": 0.25, "head_dim": None}),
    "gpt_neox_sequential": ("gpt_neox", SMALL | {
        "rotary_pct": 0.5, "use_parallel_residual": False, "hidden_act": "gelu_fast",
        "attention_bias": False, "tie_word_embeddings": True,
    }),
    "gemma2": ("gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "gemma3_text": ("gemma3_text", GEMMA | {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": TWO_ROPES,
    }),
    "phi3": ("phi3", GROUPED | {"sliding_window": 5}),
    "phi3_short": ("phi3", GROUPED | {
        "rope_parameters": LONGROPE, "original_max_position_embeddings": 32,
    }),
    "phi3_long": ("phi3", GROUPED | {
        "rope_parameters": LONGROPE, "original_max_position_embeddings": 16, "tie_word_embeddings": True,
    }),
    "granite": ("granite", GROUPED | {
        "embedding_multiplier": 6.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3,
        "logits_scaling": 4.0,
    }),
    "granite_tied": ("granite", GROUPED | {
        "head_dim": 12, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        "residual_multiplier": 0.7,
    }),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 12}),
    "mixtral_window": ("mixtral", GROUPED | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5, "tie_word_embeddings": True,
    }),
    "qwen3_moe": ("qwen3_moe", MIXTURE | {
        "head_dim": 12, "norm_topk_prob": True, "mlp_only_layers": [1], "attention_bias": True,
    }),
    "qwen3_moe_sparse": ("qwen3_moe", MIXTURE | {
        "head_dim": 12, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 5,
    }),
    "qwen2_moe": ("qwen2_moe", MIXTURE | {
        "shared_expert_intermediate_size": 20, "use_sliding_window": True, "sliding_window": 5,
        "max_window_layers": 3, "decoder_sparse_step": 1,
    }),
    "qwen2_moe_own": ("qwen2_moe", MIXTURE | {
        "shared_expert_intermediate_size": 20, "norm_topk_prob": True, "qkv_bias": False,
        "mlp_only_layers": [0],
    }),
    "gpt_oss": ("gpt_oss", GROUPED | OSS),
    "deepseek_v3": ("deepseek_v3", SMALL | LATENT),
    "deepseek_v3_yarn": ("deepseek_v3", SMALL | LATENT | {
        "q_lora_rank": None, "attention_bias": True, "rope_interleave": False, "norm_topk_prob": False,
        "n_shared_experts": 2, "rope_parameters": YARN_WITH_MSCALES,
    }),
    "deepseek_v2": ("deepseek_v2", SMALL | LATENT | {
        "topk_method": "group_limited_greedy", "rope_parameters": YARN_WITH_MSCALES,
    }),
    "glm4_moe_lite": ("glm4_moe_lite", SMALL | LATENT),
    "glm4_moe": ("glm4_moe", GROUPED | ROUTED | {
        "use_qk_norm": True, "attention_bias": True, "head_dim": 12,
    }),
    "minimax_m2": ("minimax_m2", GROUPED | {
        "num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    }),
    "gpt_oss_plain": ("gpt_oss", GROUPED | OSS | {
        "attention_bias": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "layer_types": ["full_attention", "sliding_attention"] * 2, "swiglu_limit": 0.05, "swiglu_alpha": 3.0,
    }),
    "olmo3": ("olmo3", GROUPED | {"sliding_window": 5, "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        "full_attention": {
            "rope_type": "yarn", "rope_theta": 5e3, "factor": 4.0, "beta_fast": 2.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 16,
        },
    }}),
    "glm4": ("glm4", GROUPED | {"head_dim": 12}),
    "glm4_plain": ("glm4", GROUPED | {
        "head_dim": 8, "attention_bias": False, "partial_rotary_factor": 0.25, "tie_word_embeddings": True,
    }),
    "gemma": ("gemma", GROUPED | {"head_dim": 12, "attention_bias": True}),
    "cohere": ("cohere", GROUPED | {"use_qk_norm": True, "attention_bias": True, "logit_scale": 0.3}),
    "cohere_plain": ("cohere", GROUPED | {"head_dim": 12, "tie_word_embeddings": False}),
    "cohere2": ("cohere2", GROUPED | {"sliding_window": 5}),
    "stablelm": ("stablelm", GROUPED | {
        "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True,
        "partial_rotary_factor": 0.5,
    }),
    "stablelm_plain": ("stablelm", GROUPED | {"tie_word_embeddings": True}),
    "phi": ("phi", GROUPED),
    "starcoder2": ("starcoder2", GROUPED | {"sliding_window": 5}),
    "starcoder2_plain": ("starcoder2", GROUPED | {
        "use_bias": False, "head_dim": 12, "tie_word_embeddings": False,
    }),
    "exaone4": ("exaone4", GROUPED | {"sliding_window": 5, "head_dim": 12}),
    "exaone4_full": ("exaone4", GROUPED | {
        "sliding_window": None, "layer_types": ["full_attention"] * 4, "tie_word_embeddings": True,
    }),
    "gemma4_text": ("gemma4_text", GEMMA4 | {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True, "hidden_size_per_layer_input": 10, "vocab_size_per_layer_input": 61,
        "final_logit_softcapping": 2.0,
    }),
    "gemma4_experts": ("gemma4_text", GEMMA4 | {
        "attention_k_eq_v": True, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0,
        "enable_moe_block": True, "num_experts": 6, "top_k_experts": 3, "moe_intermediate_size": 14,
        "attention_bias": True,
    }),
    "ministral3": ("ministral3", GROUPED | {"head_dim": 12, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0, "original_max_position_embeddings": 6,
        "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 0.7, "llama_4_scaling_beta": 0.3,
    }}),
    "ernie4_5": ("ernie4_5", GROUPED | {"head_dim": 12}),
    "ernie4_5_biased": ("ernie4_5", GROUPED | {
        "head_dim": 8, "use_bias": True, "tie_word_embeddings": False,
    }),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", GROUPED | {"head_dim": 12}),
    "hunyuan_v1_dense_alpha": ("hunyuan_v1_dense", GROUPED | {
        "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0},
    }),
    "apertus": ("apertus", GROUPED | {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 16,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }}),
    "apertus_biased": ("apertus", GROUPED | {
        "attention_bias": True, "tie_word_embeddings": True, "dtype": "float32",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }),
    "bloom": ("bloom", {
        "vocab_size": 61, "hidden_size": 48, "n_layer": 4, "n_head": 6, "bos_token_id": 1, "eos_token_id": 2,
    }),
    "mpt": ("mpt", {
        "vocab_size": 61, "d_model": 48, "n_layers": 4, "n_heads": 6, "max_seq_len": 64, "bos_token_id": 1,
        "eos_token_id": 2,
    }),
    "mpt_clipped": ("mpt", {
        "vocab_size": 61, "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64, "bos_token_id": 1,
        "eos_token_id": 2, "attn_config": {"clip_qkv": 0.9, "softmax_scale": 0.3},
    }),
    "falcon": ("falcon", SMALL),
    "falcon_40b": ("falcon", SMALL | {
        "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "ffn_hidden_size": 40,
    }),
    "llama4_text": ("llama4_text", GROUPED | LLAMA4 | {
        "attention_chunk_size": 5, "floor_scale": 3, "attn_scale": 0.3, "interleave_moe_layer_step": 2,
        "rope_parameters": {  # no frequency is between low and high
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 1.0, "original_max_position_embeddings": 16,
        },
    }),
    "llama4_text_own": ("llama4_text", GROUPED | LLAMA4 | {
        "attention_chunk_size": 7, "use_qk_norm": False, "attn_temperature_tuning": False,
        "no_rope_layers": [0, 1, 1, 0], "moe_layers": [0, 3], "attention_bias": True, "head_dim": 8,
        "layer_types": ["chunked_attention", "full_attention"] * 2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    }),
}  # fmt: skip
EIGHT_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 3}  # of mixtral
# A GGUF file does not store all settings: the layers without RoPE, without experts or with a window, the
# scale of Gemma's scores, the function of GPT-NeoX's MLP, and whether the shares of experts add up to 1.
IN_GGUF = {
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
    "olmo2": {},
    "olmo2_wide": {},
    "gpt_neox": {},
    "gpt_neox_sequential": {"hidden_act": "gelu"},
    "gemma2": {"query_pre_attn_scalar": 12},
    "gemma3_text": {"query_pre_attn_scalar": 12, "num_hidden_layers": 7, "layer_types": None},
    "phi3": {},
    "phi3_short": {},
    "phi3_long": {},
    "granite": {},
    "granite_tied": {"head_dim": 8},
    "mixtral": {},
    "mixtral_window": {"sliding_window": None},
    "qwen3_moe": {"mlp_only_layers": []},
    "qwen3_moe_sparse": {"decoder_sparse_step": 1, "use_sliding_window": False, "norm_topk_prob": True},
    "qwen2_moe": {"use_sliding_window": False},
    "qwen2_moe_own": {"norm_topk_prob": False, "mlp_only_layers": []},
    "gpt_oss": {},
    "deepseek_v3": {},
    "deepseek_v3_yarn": {"rope_interleave": True, "rope_parameters": YARN_WITH_MSCALES | {"mscale": 1.0}},
    "glm4_moe": {},
    "minimax_m2": {},
    "deepseek_v2": {"rope_parameters": YARN_WITH_MSCALES | {"mscale": 1.0}},
    "olmo3": {},
    "exaone4": {},
    "glm4": {},
    "glm4_plain": {},
    "gemma": {},
    "cohere": {},
    "cohere_plain": {"tie_word_embeddings": True},
    "cohere2": {},
    "stablelm": {},
    "stablelm_plain": {},
    "phi": {},
    "starcoder2": {"sliding_window": None},
    "starcoder2_plain": {},
    "exaone4_full": {},
    "gpt_oss_plain": {"layer_types": None, "swiglu_limit": 7.0, "swiglu_alpha": 1.702},
    "gemma4_text": {},
    "gemma4_experts": {"attention_bias": False},
    "ministral3": {},
    "ernie4_5": {},
    "ernie4_5_biased": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_dense_alpha": {},
    "apertus": {},
    "apertus_biased": {},
    "bloom": {},
    "mpt": {},
    "mpt_clipped": {"attn_config": {"clip_qkv": 0.9}},
    "falcon": {},
    "falcon_40b": {},
    "llama4_text": {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1},
}  # fmt: skip


def torch_model(name, changes=None, seed=1):
    """Return a model of transformers in float32 with random parameters."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings = MODELS[name]
    settings = deepcopy(settings) | (changes or {})  # transformers changes the settings of RoPE
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    rng = np.random.default_rng(seed)
    for key, parameter in model.named_parameters():
        size = 0.3 if parameter.ndim == 1 else 1.5 / parameter.shape[-1] ** 0.5
        values = rng.standard_normal(parameter.shape) * size
        if "norm" in key and key.endswith("weight") and kind not in ("gemma2", "gemma3_text"):
            values += 1
        parameter.data = torch.tensor(values, dtype=torch.float32)
    for key, buffer in model.named_buffers():
        if "e_score_correction_bias" in key:
            buffer.data = torch.tensor(rng.standard_normal(buffer.shape) * 0.3, dtype=torch.float32)
        if key.endswith("layer_scalar"):
            buffer.copy_(torch.tensor(rng.uniform(0.5, 1.5, buffer.shape)))
    return model


def written(name, folder):
    """Write a model to a folder, as transformers does, and return the model."""
    model = torch_model(name)
    model.save_pretrained(folder)
    return model


def fifth_best(layer):
    """Choose the fifth-best expert in place of the second, except at position 0."""

    def chosen(module, args, output):
        logits, _, experts = output
        all_shares = logits.float().softmax(-1)
        experts[1:, 1] = all_shares.argsort(-1, descending=True)[1:, 4]
        shares = all_shares.gather(1, experts)
        return logits, shares / shares.sum(-1, keepdim=True), experts

    layer.mlp.gate.register_forward_hook(chosen)
