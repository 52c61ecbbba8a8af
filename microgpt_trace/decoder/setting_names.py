"""The names of settings: our names, those in the metadata of GGUF files, and those in config.json."""

from __future__ import annotations

from typing import Literal

RopePairs = Literal["adjacent", "halves"]  # the rows of a head that RoPE rotates together
# Our names: (keys of GGUF metadata without the name of the architecture, keys of config.json and .apr files).
# The first key is the usual key. The names are those of the fields of `DecoderConfig`, if there is a field.
NAMES: dict[str, tuple[str, str]] = {
    "architecture": ("general.architecture", "model_type architecture hf_model_type hf_architecture"),
    "n_layer": ("block_count", "num_hidden_layers num_layers n_layers n_layer"),
    "n_embd": ("embedding_length", "hidden_size hidden_dim d_model n_embd"),
    "n_head": ("attention.head_count", "num_attention_heads num_heads n_heads n_head"),
    "n_kv_head": ("attention.head_count_kv", "num_key_value_heads num_kv_heads n_kv_heads"),
    "head_dim": ("attention.key_length attention.value_length", "head_dim qk_nope_head_dim"),
    "n_inner": ("feed_forward_length",
                "intermediate_size intermediate_size_mlp ffn_dim intermediate_dim n_inner"),
    "context_length": ("context_length", "max_position_embeddings max_seq_len n_positions n_ctx"),
    "norm_eps": ("attention.layer_norm_rms_epsilon attention.layer_norm_epsilon",
                 "rms_norm_eps layer_norm_epsilon layer_norm_eps norm_epsilon norm_eps"),
    "activation": ("", "hidden_act hidden_activation activation_function"),
    "biases": ("", "attention_bias mlp_bias qkv_bias use_bias use_qkv_bias"),
    "qk_norm": ("", "use_qk_norm qk_layernorm"),
    "window": ("attention.sliding_window", "sliding_window attention_chunk_size"),
    "windowed_layers": ("attention.sliding_window_pattern", "layer_types use_sliding_window "
                        "max_window_layers sliding_window_pattern _sliding_window_pattern"),
    "rope_base": ("rope.freq_base", "rope_theta rotary_emb_base"),
    "rope_scaling": ("rope.scaling.type", "rope_scaling rope_parameters"),
    "rope_factor": ("rope.scaling.factor rope.scale_linear", "rope_scaling.factor"),
    "rope_original_context": (
        "rope.scaling.original_context_length",
        "rope_scaling.original_max_position_embeddings original_max_position_embeddings"),
    "rope_low_freq_factor": ("", "rope_scaling.low_freq_factor"),
    "rope_high_freq_factor": ("", "rope_scaling.high_freq_factor"),
    "rope_beta_fast": ("rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast"),
    "rope_beta_slow": ("rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow"),
    "rope_attention_factor": ("rope.scaling.attn_factor", "rope_scaling.attention_factor"),
    "rope_truncate": ("", "rope_scaling.truncate"),
    "rope_factors": ("", "rope_scaling.long_factor rope_scaling.short_factor"),
    "rope_channels": ("rope.dimension_count", "partial_rotary_factor rotary_pct"),
    "rope_layers": ("", "no_rope_layers no_rope_layer_interval"),
    "rope_window_base": ("rope.freq_base_swa", "rope_local_base_freq"),
    "rope_window_scaling": ("", ""),
    "rope_pairs": ("", "rope_type original_format"),
    "score_scale": ("attention.scale", "query_pre_attn_scalar attention_multiplier scale_attn_weights "
                    "scale_attn_by_inverse_layer_idx"),
    "attn_logit_softcapping": ("attn_logit_softcapping", "attn_logit_softcapping"),
    "final_logit_softcapping": ("final_logit_softcapping", "final_logit_softcapping"),
    "embedding_multiplier": ("embedding_scale", "embedding_multiplier"),
    "residual_multiplier": ("residual_scale", "residual_multiplier"),
    "logits_multiplier": ("logit_scale", "logits_scaling"),
    "logit_scale": ("logit_scale", "logit_scale"),  # of Command R
    "parallel": ("use_parallel_residual", "use_parallel_residual"),
    "experts": ("expert_count", "num_local_experts num_experts n_routed_experts"),
    "experts_used": ("expert_used_count", "num_experts_per_tok top_k_experts"),
    "expert_inner": ("expert_feed_forward_length", "moe_intermediate_size"),
    "shared_inner": ("expert_shared_feed_forward_length expert_shared_count",
                     "shared_expert_intermediate_size n_shared_experts"),
    "dense_layers": ("leading_dense_block_count interleave_moe_layer_step",
                     "mlp_only_layers decoder_sparse_step first_k_dense_replace mlp_layer_types moe_layers"),
    "normalised": ("expert_weights_norm", "norm_topk_prob"),
    "scoring": ("expert_gating_func", "scoring_func"),
    "routing_factor": ("expert_weights_scale", "routed_scaling_factor"),
    "expert_groups": ("expert_group_count", "n_group"),
    "expert_groups_used": ("expert_group_used_count", "topk_group"),
    "query_rank": ("attention.q_lora_rank", "q_lora_rank"),
    "latent_rank": ("attention.kv_lora_rank", "kv_lora_rank"),
    "rope_dim": ("", "qk_rope_head_dim"),
    "value_dim": ("attention.value_length_mla", "v_head_dim"),
    "pairs_adjacent": ("", "rope_interleave"),
    "score_factor": ("rope.scaling.yarn_log_multiplier", "rope_scaling.mscale_all_dim"),
    "query_growth": ("attention.temperature_scale", "rope_parameters.llama_4_scaling_beta "
                     "attn_scale attn_temperature_tuning"),
    "query_period": ("", "floor_scale"),
    "parallel_norms": ("", "num_ln_in_parallel_attn new_decoder_architecture"),
    "attn_clamp": ("attention.clamp_kqv", "attn_config.clip_qkv"),
    "swiglu_limit": ("", "swiglu_limit"),
    "swiglu_alpha": ("", "swiglu_alpha"),
    "head_dims": ("attention.key_length_swa", "per_layer_config global_head_dim"),
    "kv_heads": ("", "num_global_key_value_heads"),
    "layer_scales": ("", ""),
    "shared_layers": ("attention.shared_kv_layers", "num_kv_shared_layers"),
    "wide_shared_layers": ("", "use_double_wide_mlp"),
    "keys_as_values": ("", "attention_k_eq_v"),
    "layer_input": ("embedding_length_per_layer_input", "hidden_size_per_layer_input"),
    "layer_input_rows": ("", "vocab_size_per_layer_input"),
}  # fmt: skip
_NAME_OF = {key: name for name, keys in NAMES.items() for key in " ".join(keys).split()} | {
    "attention.causal": "causal", "vocab_size": "vocab_size",
    "granite.logit_scale": "logits_multiplier", "llama.logit_scale": "logits_multiplier",
}  # fmt: skip


def setting_named(key: str) -> str:
    """Return our name for the setting under a key of any format, or "" if there is none. The key may begin
    with the name of an architecture.

    >>> setting_named("llama.rope.freq_base"), setting_named("rope_theta")
    ('rope_base', 'rope_base')
    """
    return _NAME_OF.get(key) or _NAME_OF.get(key.partition(".")[2], "")
