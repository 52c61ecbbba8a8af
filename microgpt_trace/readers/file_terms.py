"""The names, keys and defaults that model files use for each architecture.

TERMS maps each architecture to its FileTerms, which contain the Names of the parameters.
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
    """The names of an architecture's parameters: our name -> (name in GGUF, name in Hugging Face).

    `model` contains the names outside of layers. `layer` contains the names in a layer, without the layer
    number. No name includes ".weight" or ".bias". In Hugging Face files, `blocks` precedes the layer number,
    and `outer` may precede any name. If `vectors` is true, norms may have biases. Hugging Face stores the
    matrices in `transposed` as [in, out]. Names that end with an entry of `skipped` are ignored.
    """

    family: str  # "a Llama or Qwen2-class decoder"
    model: Mapping[str, tuple[str, str]]
    layer: Mapping[str, tuple[str, str]]
    blocks: str = "model.layers"
    outer: str = ""
    vectors: bool = False
    transposed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ("rotary_emb.inv_freq", "masked_bias")

    @cached_property
    def ours(self) -> Mapping[str, str]:
        """Maps each name in a file to our name. Neither name includes the layer number."""
        named = [(name, own) for own, theirs in self.model.items() for name in theirs]
        for own, (gguf, hf) in self.layer.items():
            named += [(f"blk.{gguf}", own), (f"{self.blocks}.{hf}", own)]
        result = {f"{name}.weight": own for name, own in named}
        for name, own in named:
            bias = bias_name(own)
            if bias and (self.vectors or ("." in name and "_w" in own)):
                result[f"{name}.bias"] = bias
        return result

    def our_name(self, name: str) -> str | None:
        """Return our name for a tensor of a file, or None if the architecture lacks such a parameter."""
        name = name.removeprefix(self.outer)
        layered = re.fullmatch(rf"(blk|{re.escape(self.blocks)})\.(0|[1-9][0-9]{{0,3}})\.(.+)", name)
        if layered is None:
            ours = self.ours.get(name)
            return None if name.startswith(("blk.", f"{self.blocks}.")) else ours
        prefix, index, rest = layered.groups()
        ours = self.ours.get(f"{prefix}.{rest}")
        return f"layer{index}.{ours}" if ours else None

    def gguf_name(self, own: str) -> str:
        """Return the name in GGUF of a matrix or gain, or of the fused matrix that contains the matrix.

        Raises KeyError if `own` is not the name of a matrix or gain.
        """
        layer, _, kind = own.rpartition(".")
        if not layer:
            return f"{self.model[kind][0]}.weight"
        for fused, parts in FUSED.items():
            kind = fused if kind in parts and fused in self.layer else kind
        return f"blk.{layer.removeprefix('layer')}.{self.layer[kind][0]}.weight"

    def is_transposed(self, own: str) -> bool:
        """Return True if Hugging Face stores the matrix `own` as [in, out]."""
        return own.rpartition(".")[2] in self.transposed

    def closest(self, name: str) -> list[str]:
        """Return up to three known names that are most similar to `name`, with the layer number of `name`."""
        from difflib import get_close_matches

        number = re.search(r"\.([0-9]{1,4})\.", name)
        index = number[1] if number else "0"
        blocks = rf"^(blk|{re.escape(self.blocks)})\."
        names = [re.sub(blocks, rf"\1.{index}.", pattern) for pattern in self.ours]
        return get_close_matches(name[:200], names, 3)


def bias_name(own: str) -> str | None:
    """Return the name of the bias of a matrix or gain: attn_bq for attn_wq. Return None for embeddings."""
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
    """The keys and defaults that describe an architecture in Hugging Face's config.json and in GGUF metadata.

    `keys` maps our names of settings to keys of config.json. `defaults` lists the default values of the
    transformers library. The default of `n_inner` is a multiple of the width. `activations` maps names in
    config.json to functions. `activation` is the default name. GGUF files always use the function of this
    name. Every file contains the biases in `biases`. If the config sets a flag of `flagged_biases`, the file
    also contains the biases of this flag. `windows` is used if a file does not list the layers with a sliding
    window. `windows` selects all layers, no layer, or the last layers (from layer max_window_layers on).
    """

    names: Names = LLAMA
    keys: Mapping[str, str] = field(default_factory=lambda: LLAMA_KEYS)
    gguf_eps: str = "attention.layer_norm_rms_epsilon"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "SiLU", "swish": "SiLU"})
    activation: str = "silu"
    rope: bool = True
    tied: bool | None = None  # the default of transformers; None if the tensors decide
    biases: tuple[str, ...] = ()
    flagged_biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    qk_norm: bool = False
    explicit_head_dim: bool = False
    windows: Literal["all", "none", "last"] = "none"
    score_flags: tuple[str, str] = ("", "")  # flags that divide scores by sqrt(head_dim) and by layer + 1
    in_gguf: bool = True
    in_apr: bool = True
    permuted: bool = False  # True if converters to GGUF put the rows of each RoPE pair side by side


TERMS: dict[str, FileTerms] = {
    "llama": FileTerms(
        flagged_biases={
            "attention_bias": (*QKV, "attn_bo"), "mlp_bias": ("mlp_bgate", "mlp_bup", "mlp_bdown"),
        },
        permuted=True,
    ),
    "mistral": FileTerms(windows="all", in_gguf=False),  # in GGUF files, a mistral is called llama
    "qwen2": FileTerms(biases=QKV, windows="last"),
    "qwen3": FileTerms(
        flagged_biases={"attention_bias": (*QKV, "attn_bo")}, qk_norm=True, explicit_head_dim=True,
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
