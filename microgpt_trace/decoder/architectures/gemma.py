"""Gemma 1, 2 and 3: a scaled embedding, and gains of norms that are stored less 1.

Gemma 2 and 3 have norms before and after attention and MLP, and windows. Gemma 2 caps scores and logits.
Gemma 3 norms q and k, and has another RoPE in layers with a window.
"""

from __future__ import annotations

from functools import partial

from ...errors import InputError
from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import COUNT, FLAG, POSITIVE, Options, Settings, Sizes
from ..shared_options import (
    LLAMA_CPP,
    gguf_rope,
    layers_with_window,
    read_activation,
    read_rope,
    read_ropes,
    read_window,
    usual_from_gguf,
)
from .llama import ATTENTION_BIASES, MODULES, QK_NORMS
from .llama import NAMES as LLAMA


def embedding(rows: Blocks) -> str:
    """Add the embedding times the root of the width."""
    return rows.embedding(rows.config.n_embd**0.5)


@frozen(slots=False)
class Gemma1Config(LayeredConfig):
    """The config of a Gemma 1."""

    layout = Layout(embedding=embedding)


@frozen(slots=False)
class GemmaConfig(LayeredConfig):
    """The config of a Gemma 2 or Gemma 3."""

    score_scale: float | None = None  # None means 1/sqrt(head_dim)
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    @property
    def layout(self) -> Layout:
        return Layout(
            norms="both", embedding=embedding, score_scale=self.score_scale,
            scores_cap=self.attn_logit_softcapping, logits_cap=self.final_logit_softcapping,
        )  # fmt: skip


def options_of_gemma1(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP. The name "gelu" in old files means GELU by tanh."""
    function = _function(settings, sizes, "hidden_act")
    return {"rope": read_rope(settings), "activation": "GELU by tanh" if function == "GELU" else function}


def options_of_gemma2(settings: Settings, sizes: Sizes) -> Options:
    """Read the caps, the window, the scale of scores, RoPE and the function of the MLP. By default, every
    second layer has a window, starting with layer 0."""
    layers = layers_with_window(settings, sizes["n_layer"], 2)
    return {
        **_common(settings, sizes), **read_window(settings, layers), "rope": read_rope(settings),
        "attn_logit_softcapping": _cap(settings, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _cap(settings, "final_logit_softcapping", 30.0),
    }  # fmt: skip


def options_of_gemma3(settings: Settings, sizes: Sizes) -> Options:
    """Read the window, the scale of scores, two RoPEs and the function of the MLP. By default, every sixth
    layer has no window, and its own base of RoPE."""
    patterns = "sliding_window_pattern", "_sliding_window_pattern"
    layers = layers_with_window(settings, sizes["n_layer"], 6, *patterns)
    return {
        **_common(settings, sizes), **read_window(settings, layers), **read_ropes(settings, 1e6, 1e4),
        "qk_norm": True, "final_logit_softcapping": _cap(settings, "final_logit_softcapping", None),
    }  # fmt: skip


def _common(settings: Settings, sizes: Sizes) -> Options:
    scalar = settings.get_or_default("query_pre_attn_scalar", POSITIVE, 256)
    return {"score_scale": scalar**-0.5, "activation": _function(settings, sizes, "hidden_activation")}


def _function(settings: Settings, sizes: Sizes, key: str) -> str:
    """Return the function of the MLP. Note that the embedding is scaled."""
    if settings.get("use_bidirectional_attention", FLAG):
        raise InputError("use_bidirectional_attention: attention to later positions is not supported")
    factor = f"sqrt({sizes['n_embd']:,})"
    settings.notes.append(f"the embedding is multiplied by {factor} in float32, without rounding")
    return read_activation(settings, key, "gelu_pytorch_tanh")


def _cap(settings: Settings, key: str, default: float | None) -> float | None:
    """Return a cap. A value of null means no cap, and a missing key means the default."""
    if settings.has(key) or default is None:
        return settings.get(key, POSITIVE)
    return float(settings.get_or_default(key, POSITIVE, default))


def from_gguf(keys: Settings, sizes: Sizes, large: int) -> Options:
    """Translate the caps, the window and RoPE. The scale of the scores follows from the width of a head, or
    in the model of `large` layers from the width of the model, as in llama.cpp."""
    is_large = sizes["n_layer"] == large
    values = {
        "query_pre_attn_scalar": sizes["n_embd"] / sizes["n_head"] if is_large else sizes["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": keys.get("attention.sliding_window", COUNT),
        **gguf_rope(keys, sizes["head_dim"]),
    }  # fmt: skip
    caps = {key: keys.get(key, POSITIVE) for key in ("attn_logit_softcapping", "final_logit_softcapping")}
    return values | caps


def from_gguf_of_gemma3(keys: Settings, sizes: Sizes) -> Options:
    """Translate as for Gemma 2. Layers with a window have a base of RoPE of their own, and no scaling."""
    local = keys.get_or_default("rope.freq_base_swa", POSITIVE, 1e4, LLAMA_CPP)
    return from_gguf(keys, sizes, 62) | {"rope_local_base_freq": local}


NAMES = LLAMA.changed(
    "a Gemma",
    layer={
        "attn_post_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_norm": ("ffn_norm", "pre_feedforward_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
    },
)

DEFAULTS = {"norm_eps": 1e-6, "head_dim": 256, "n_kv_head": 4}
_GEMMA3 = {"n_head": 8, "vocab_size": 262208, "context_length": 131072}  # not in files of Gemma 3 4B

_like_gemma = partial(
    Architecture, modules=MODULES, gains_less_one=True, unclear_modules=("model.embed_tokens",),
    optional_modules=QK_NORMS, heads_first=QK_NORMS, tied=True, flagged_biases=ATTENTION_BIASES,
    defaults=DEFAULTS,
    example={"qk_norm": True, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
)  # fmt: skip
ARCHITECTURES = {
    "gemma2": _like_gemma(GemmaConfig, NAMES, options_of_gemma2, from_gguf=partial(from_gguf, large=46)),
    "gemma3_text": _like_gemma(
        GemmaConfig, NAMES, options_of_gemma3, from_gguf=from_gguf_of_gemma3, defaults=DEFAULTS | _GEMMA3
    ),
    "gemma": _like_gemma(
        Gemma1Config, LLAMA.changed("a Gemma 1"), options_of_gemma1,
        from_gguf=partial(usual_from_gguf, activation="gelu_pytorch_tanh"),
        defaults={"norm_eps": 1e-6, "head_dim": 256, "n_kv_head": 16}, example={},
    ),
}  # fmt: skip
