"""What files say of each architecture, and what is taken where they do not: names, keys and defaults.

An architecture is a row of TERMS, with the Names of its parameters; how it computes is its plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

FUSED = {"attn_wqkv": ("attn_wq", "attn_wk", "attn_wv"), "attn_bqkv": ("attn_bq", "attn_bk", "attn_bv")}


@dataclass(frozen=True, eq=False)
class Names:
    """What files call the parameters of an architecture: ours -> (GGUF's, Hugging Face's), without ".weight"
    or ".bias", those of a layer without its number.

    `blocks` is what Hugging Face puts before the number, `outer` what it may put before any name. A fused
    matrix has a name of FUSED. `vectors` have a bias of the same name; else matrices have. The matrices in
    `transposed` are stored [in, out] by Hugging Face; `skipped` are constants that old files store.
    """

    of: str  # "a Llama or Qwen2-class decoder"
    whole: Mapping[str, tuple[str, str]]
    layer: Mapping[str, tuple[str, str]]
    blocks: str = "model.layers"
    outer: str = ""
    vectors: bool = False
    transposed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ("rotary_emb.inv_freq", "masked_bias")

    @cached_property
    def ours(self) -> Mapping[str, str]:
        """Our name of each of theirs, without the number of the layer."""
        found: dict[str, str] = {}
        for own, theirs in self.whole.items():
            for name in theirs:
                found |= self._named(name, own)
        for own, (gguf, hf) in self.layer.items():
            for prefix, name in (("blk", gguf), (self.blocks, hf)):
                found |= self._named(f"{prefix}.{name}", own)
        return found

    def _named(self, name: str, own: str) -> dict[str, str]:
        bias = bias_name(own)
        has_bias = "." in name and "_w" in own if not self.vectors else bias is not None
        return {f"{name}.weight": own} | ({f"{name}.bias": bias} if has_bias and bias else {})

    def our_name(self, name: str) -> str | None:
        """Our name of a file's tensor, or None where it has none."""
        name = name.removeprefix(self.outer)
        layered = re.fullmatch(rf"(blk|{re.escape(self.blocks)})\.(0|[1-9][0-9]{{0,3}})\.(.+)", name)
        if layered is None:
            ours = self.ours.get(name)
            return None if name.startswith(("blk.", f"{self.blocks}.")) else ours
        prefix, index, rest = layered.groups()
        ours = self.ours.get(f"{prefix}.{rest}")
        return f"layer{index}.{ours}" if ours else None

    def gguf_name(self, own: str) -> str:
        """What GGUF calls the tensor of one of our matrices or gains, or the fused one that it is a part of.
        Raises KeyError for what is none of them."""
        layer, _, kind = own.rpartition(".")
        if not layer:
            return f"{self.whole[kind][0]}.weight"
        fused = [whole for whole, parts in FUSED.items() if kind in parts and whole in self.layer]
        return f"blk.{layer.removeprefix('layer')}.{self.layer[fused[0] if fused else kind][0]}.weight"

    def is_transposed(self, own: str) -> bool:
        """Whether Hugging Face stores our matrix of that name as [in, out]."""
        return own.rpartition(".")[2] in self.transposed

    def like(self, name: str) -> list[str]:
        """The names of a file's tensors that exist, nearest first: up to three, for the layer of `name`."""
        from difflib import get_close_matches

        number = re.search(r"\.([0-9]{1,4})\.", name)
        index = number[1] if number else "0"
        blocks = rf"^(blk|{re.escape(self.blocks)})\."
        known = [re.sub(blocks, rf"\1.{index}.", pattern) for pattern in self.ours]
        return get_close_matches(name[:200], known, 3)


def bias_name(own: str) -> str | None:
    """The bias beside one of our matrices or gains: attn_bq of attn_wq, attn_bnorm of attn_norm; None beside
    a table."""
    half, _, rest = own.partition("_")
    return f"{half}_b{rest.removeprefix('w')}" if rest.startswith(("w", "norm")) else None


LLAMA = Names(
    "a Llama or Qwen2-class decoder",
    {
        "wte": ("token_embd", "model.embed_tokens"),
        "final_norm": ("output_norm", "model.norm"),
        "lm_head": ("output", "lm_head"),
    },
    {
        "attn_norm": ("attn_norm", "input_layernorm"),
        "attn_wq": ("attn_q", "self_attn.q_proj"),
        "attn_wk": ("attn_k", "self_attn.k_proj"),
        "attn_wv": ("attn_v", "self_attn.v_proj"),
        "attn_wo": ("attn_output", "self_attn.o_proj"),
        "attn_q_norm": ("attn_q_norm", "self_attn.q_norm"),
        "attn_k_norm": ("attn_k_norm", "self_attn.k_norm"),
        "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
        "mlp_wgate": ("ffn_gate", "mlp.gate_proj"),
        "mlp_wup": ("ffn_up", "mlp.up_proj"),
        "mlp_wdown": ("ffn_down", "mlp.down_proj"),
    },
)

GPT2 = Names(
    "a GPT-2",
    {
        "wte": ("token_embd", "wte"),
        "wpe": ("position_embd", "wpe"),
        "final_norm": ("output_norm", "ln_f"),
        "lm_head": ("output", "lm_head"),
    },
    {
        "attn_norm": ("attn_norm", "ln_1"),
        "attn_wqkv": ("attn_qkv", "attn.c_attn"),
        "attn_wo": ("attn_output", "attn.c_proj"),
        "mlp_norm": ("ffn_norm", "ln_2"),
        "mlp_wup": ("ffn_up", "mlp.c_fc"),
        "mlp_wdown": ("ffn_down", "mlp.c_proj"),
    },
    blocks="h",
    outer="transformer.",
    vectors=True,
    transposed=("attn_wqkv", "attn_wo", "mlp_wup", "mlp_wdown"),
    skipped=(".attn.bias", ".attn.masked_bias"),
)


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
    `n_inner`: how many times the width). `activations` are the functions by config.json's names; where it
    says none, as GGUF never does, it is `activation`. `biases` every file has, those of `said_biases` one
    whose config has such a flag. `windows` tells which layers have a sliding window where a file names none.
    """

    names: Names = LLAMA
    keys: Mapping[str, str] = field(default_factory=lambda: LLAMA_KEYS)
    gguf_eps: str = "attention.layer_norm_rms_epsilon"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "SiLU", "swish": "SiLU"})
    activation: str = "silu"
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
        rope=False,
        tied=True,
        biases=(*QKV, "attn_bo", "mlp_bup", "mlp_bdown", "attn_bnorm", "mlp_bnorm"),
        score_flags=("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
        in_apr=False,
    ),
}  # fmt: skip
