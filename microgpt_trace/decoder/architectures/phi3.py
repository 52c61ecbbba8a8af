"""Phi-3 and Phi-4: a Llama with fused matrices, RoPE of a part of each head, and longrope for long texts."""

from __future__ import annotations

from ..architecture import Architecture, FileNames
from ..settings import COUNT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import LONG, SHORT, gguf_rope, read_activation, read_rope, read_window, rotated_channels
from .llama import NAMES as LLAMA
from .llama import LlamaConfig


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the rotated channels, the window of all layers, and the function of the MLP."""
    windowed = tuple(range(sizes["n_layer"])) if settings.get("sliding_window", COUNT) else ()
    return {
        "rope": read_rope(settings, partial=True),
        "rotary_dim": rotated_channels(settings, sizes["head_dim"]),
        "activation": read_activation(settings, "hidden_act", "silu"), **read_window(settings, windowed),
    }  # fmt: skip


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the window, which llama.cpp ignores. The divisors of longrope are tensors."""
    window = keys.get("attention.sliding_window", COUNT) or None
    if window:
        keys.notes.append(f"a sliding window of {window:,} in every layer, which llama.cpp ignores")
    values = {"hidden_act": "silu", "sliding_window": window}
    if LONG not in sizes:
        return values | gguf_rope(keys, sizes["head_dim"], partial=True)
    scaling = {
        "rope_type": "longrope", "short_factor": sizes.get(SHORT), "long_factor": sizes[LONG],
        "original_max_position_embeddings": keys.get("rope.scaling.original_context_length", WHOLE),
        "attention_factor": keys.get("rope.scaling.attn_factor", POSITIVE),
    }  # fmt: skip
    unscaled = {key: value for key, value in keys.values.items() if ".scaling." not in key}
    plain = Settings(unscaled, keys.problems, keys.prefix)
    return values | gguf_rope(plain, sizes["head_dim"], partial=True) | {"rope_scaling": scaling}


NAMES = FileNames(
    "a Phi-3",
    LLAMA.model,
    {name: theirs for name, theirs in LLAMA.layer.items() if name in ("attn_norm", "attn_wo", "mlp_norm")}
    | {
        "attn_wqkv": ("attn_qkv", "self_attn.qkv_proj"),
        "mlp_wgate_up": ("ffn_up", "mlp.gate_up_proj"),
        "mlp_wdown": ("ffn_down", "mlp.down_proj"),
    },
)

ARCHITECTURES = {
    "phi3": Architecture(
        LlamaConfig, NAMES, options, from_gguf=from_gguf, tied=False,
        modules={
            "self_attn": "attn.out", "resid_attn_dropout": "attn.out", "mlp": "mlp.down",
            "mlp.activation_fn": "mlp.act", "resid_mlp_dropout": "mlp.down",
        },
        defaults={"norm_eps": 1e-5},
    ),
}  # fmt: skip
