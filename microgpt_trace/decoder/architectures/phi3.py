"""Phi-3, Phi-4 and GLM-4, with one matrix for gate and up, and RoPE of a part of each head.

Phi-3 also has one matrix for q, k and v, and longrope for long texts. GLM-4 has norms before and after
attention and MLP, and RoPE of pairs of neighbouring channels.
"""

from __future__ import annotations

from functools import partial

from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import COUNT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import LONG, SHORT, read_window, usual_from_gguf, usual_options
from .llama import NAMES as LLAMA
from .llama import LlamaConfig


@frozen(slots=False)
class Glm4Config(LayeredConfig):
    """The config of a GLM-4."""

    layout = Layout(norms="both", adjacent=True)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the rotated channels, the window of all layers, and the function of the MLP."""
    windows = read_window(settings, range(sizes["n_layer"]), None)
    return {**usual_options(settings, sizes, share=1.0), **windows}


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the window, which llama.cpp ignores. The divisors of longrope are tensors."""
    window = keys.get("attention.sliding_window", COUNT) or None
    if window:
        keys.notes.append(f"a sliding window of {window:,} in every layer, which llama.cpp ignores")
    if LONG not in sizes and SHORT not in sizes:
        return {"sliding_window": window, **usual_from_gguf(keys, sizes, partial=True)}
    scaling = {
        "rope_type": "longrope", "short_factor": sizes.get(SHORT), "long_factor": sizes.get(LONG),
        "original_max_position_embeddings": keys.get("rope.scaling.original_context_length", WHOLE),
        "attention_factor": keys.get("rope.scaling.attn_factor", POSITIVE),
    }  # fmt: skip
    unscaled = {key: value for key, value in keys.values.items() if ".scaling." not in key}
    plain = Settings(unscaled, keys.problems, keys.prefix)
    values = usual_from_gguf(plain, sizes, partial=True)
    return {**values, "sliding_window": window, "rope_scaling": scaling}


GATE_UP = {"mlp_wgate_up": ("ffn_up", "mlp.gate_up_proj")}
NAMES = LLAMA.changed(
    "a Phi-3",
    ("attn_wq", "attn_wk", "attn_wv", "attn_q_norm", "attn_k_norm", "mlp_wgate", "mlp_wup"),
    layer={"attn_wqkv": ("attn_qkv", "self_attn.qkv_proj"), **GATE_UP},
)
GLM4 = LLAMA.changed(
    "a GLM-4",
    ("mlp_wgate", "mlp_wup"),
    layer={
        **GATE_UP,
        "attn_post_norm": ("post_attention_norm", "post_self_attn_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_mlp_layernorm"),
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
    "glm4": Architecture(
        Glm4Config, GLM4, partial(usual_options, share=0.5), tied=False,
        from_gguf=partial(usual_from_gguf, partial=True),
        modules={"self_attn": "attn.out", "mlp": "mlp.down", "mlp.activation_fn": "mlp.act"},
        flagged_biases={"attention_bias": QKV_BIASES}, flags={"attention_bias": True},
        defaults={"norm_eps": 1.5625e-7, "head_dim": 128, "n_kv_head": 2},
    ),
}  # fmt: skip
