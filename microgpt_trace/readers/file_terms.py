"""What files say of each architecture, and what is taken where they do not: names, keys and defaults.

An architecture is a row of this table; how it computes is its plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .parameter_names import GPT2, LLAMA, Names

QKV = ("attn_bq", "attn_bk", "attn_bv")


LLAMA_KEYS = {
    "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size",
    "n_kv_head": "num_key_value_heads", "head_dim": "head_dim", "n_inner": "intermediate_size",
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "norm_eps": "rms_norm_eps",
    "activation": "hidden_act",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FileTerms:
    """How Hugging Face's config.json and GGUF's metadata describe an architecture.

    `keys` are config.json's for our dimensions, `defaults` what transformers takes where one is missing (of
    `n_inner`: how many times the width). `activations` are the functions by config.json's names; GGUF says
    none, and it is `gguf_activation`. `biases` every file has, those of `said_biases` one whose config has
    such a flag. `windows` tells which layers have a sliding window where a file names none.
    """

    names: Names = LLAMA
    keys: Mapping[str, str] = field(default_factory=lambda: LLAMA_KEYS)
    gguf_eps: str = "attention.layer_norm_rms_epsilon"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "SiLU", "swish": "SiLU"})
    activation: str = "silu"  # where config.json says none
    gguf_activation: str = "SiLU"
    rope: bool = True
    tied: bool | None = None  # what transformers takes where config.json does not say; None: as the tensors
    biases: tuple[str, ...] = ()
    said_biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    qk_norm: bool = False
    explicit_head_dim: bool = False
    windows: Literal["all", "none", "last"] = "none"
    score_flags: tuple[str, str] = ("", "")  # that scores are scaled at all, and by 1/(layer + 1) as well
    in_gguf: bool = True
    in_apr: bool = True
    permuted: bool = False  # whether converters to GGUF put pairs of RoPE side by side


TERMS: dict[str, FileTerms] = {
    "llama": FileTerms(
        said_biases={
            "attention_bias": (*QKV, "attn_bo"), "mlp_bias": ("mlp_bgate", "mlp_bup", "mlp_bdown"),
        },
        permuted=True,
    ),
    "mistral": FileTerms(windows="all", in_gguf=False),  # in GGUF a llama
    "qwen2": FileTerms(biases=QKV, windows="last"),
    "qwen3": FileTerms(
        said_biases={"attention_bias": (*QKV, "attn_bo")}, qk_norm=True, explicit_head_dim=True,
        windows="last",
    ),
    "gpt2": FileTerms(
        names=GPT2,
        keys={
            "n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_inner": "n_inner",
            "vocab_size": "vocab_size", "context_length": "n_positions", "norm_eps": "layer_norm_epsilon",
            "activation": "activation_function",
        },
        gguf_eps="attention.layer_norm_epsilon",
        defaults={"norm_eps": 1e-5, "n_inner": 4},
        activations={
            "gelu_new": "GELU by tanh", "gelu_pytorch_tanh": "GELU by tanh", "gelu_fast": "GELU by tanh",
            "gelu": "GELU", "relu": "ReLU", "silu": "SiLU", "swish": "SiLU",
        },
        activation="gelu_new",
        gguf_activation="GELU by tanh",
        rope=False,
        tied=True,
        biases=(*QKV, "attn_bo", "mlp_bup", "mlp_bdown", "attn_bnorm", "mlp_bnorm"),
        score_flags=("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
        in_apr=False,
    ),
}  # fmt: skip
