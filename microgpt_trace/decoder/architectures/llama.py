"""Llama, Mistral, Qwen2, Qwen3 and SmolLM3, with RMSNorm, RoPE, grouped-query attention and a gated MLP."""

from __future__ import annotations

from functools import partial
from typing import Literal

from ...errors import InputError
from ...text.brief import brief
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture, FileNames
from ..layered_plan import LayeredConfig
from ..settings import COUNT, FLAG, WHOLE, Options, Settings, Sizes
from ..shared_options import read_window, typed_layers, usual_from_gguf, usual_options


@frozen(slots=False)
class LlamaConfig(LayeredConfig):
    """The config of a decoder whose plan has the layout of a Llama."""


Windows = Literal["none", "all", "last"]  # the layers with a window: none, all, or from a given layer on


def options(
    settings: Settings, sizes: Sizes, windows: Windows = "none", qk_norm: bool = False, theta: float = 1e4
) -> Options:
    """Read the options of a Llama, or of an architecture with other `windows`, with norms of q and k, or with
    another default of RoPE's base."""
    layers = settings.values.get("windowed_layers")  # set by from_gguf
    if layers is None:
        layers = _windowed_layers(settings, sizes["n_layer"], windows)
    return {**usual_options(settings, sizes, theta), "qk_norm": qk_norm, **read_window(settings, layers)}


def _windowed_layers(settings: Settings, n_layer: int, windows: Windows) -> tuple[int, ...]:
    """Return the layers that use a sliding window if the file sets the size of the window.

    The setting `layer_types` lists the layers with a window. Without `layer_types`, all layers of a mistral
    use a window, and the layers of a llama do not. A qwen with use_sliding_window uses a window from layer
    max_window_layers on.
    """
    typed, every = typed_layers(settings, n_layer), tuple(range(n_layer))
    has_window = settings.values.get("sliding_window") is not None
    if windows == "last" and has_window:
        settings.get("sliding_window", WHOLE)
        settings.get_or_default("use_sliding_window", FLAG, False)
    if typed is None and windows == "last" and settings.get("use_sliding_window", FLAG):
        return every[settings.require("max_window_layers", COUNT) :]
    if typed is None:
        return every if windows == "all" else ()
    if windows == "last":
        agree = not typed or (has_window and settings.get("use_sliding_window", FLAG) is True)
    else:
        agree = typed == (every if has_window and windows == "all" else ())
    if not agree:
        kinds = brief(settings.values["layer_types"])
        raise InputError(f"layer_types {kinds} contradict sliding_window or the architecture's rules")
    return typed


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the window, which all layers of a GGUF file share."""
    window = keys.get("attention.sliding_window", COUNT)
    values = usual_from_gguf(keys, sizes)
    if not window:
        return values
    keys.notes.append(f"a sliding window of {window:,} in every layer (attention.sliding_window)")
    return values | {"sliding_window": window, "windowed_layers": tuple(range(sizes["n_layer"]))}


def options_of_smollm3(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the layers without RoPE. By default, the layers without RoPE have the window, if any."""
    without = layers_without_rope(settings, sizes["n_layer"])
    windowed = typed_layers(settings, sizes["n_layer"])
    if windowed is None:
        windowed = without if settings.get("use_sliding_window", FLAG) else ()
    windows = read_window(settings, windowed)
    return {**usual_options(settings, sizes, 2e6), "layers_without_rope": without, **windows}


def layers_without_rope(settings: Settings, n_layer: int) -> tuple[int, ...]:
    """Return the layers without RoPE. Without a list, or with an empty list, each fourth layer has no RoPE,
    or each layer that is a multiple of no_rope_layer_interval."""
    flags = settings.raw("no_rope_layers")  # 1 marks a layer with RoPE
    if flags is None or flags == []:
        every = settings.get_or_default("no_rope_layer_interval", WHOLE, 4)
        flags = [int((i + 1) % every != 0) for i in range(n_layer)]
    if not isinstance(flags, list) or len(flags) != n_layer or any(flag not in (0, 1) for flag in flags):
        raise InputError(f"no_rope_layers: expected {n_layer} values 0 or 1, found {brief(flags)}")
    return tuple(i for i, flag in enumerate(flags) if not flag)


def gguf_of_smollm3(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE. GGUF files do not store which layers lack it: every fourth layer, as in llama.cpp."""
    keys.notes.append("no RoPE in every fourth layer, as llama.cpp assumes")
    return {"no_rope_layer_interval": 4, **usual_from_gguf(keys, sizes)}


NAMES = FileNames(
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

MODULES = {"self_attn": "attn.out", "mlp": "mlp.down", "mlp.act_fn": "mlp.act"}
QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_like_llama = partial(
    Architecture, LlamaConfig, NAMES, from_gguf=from_gguf, modules=MODULES,
    optional_modules=QK_NORMS, example={"qk_norm": True},
)  # fmt: skip
ATTENTION_BIASES = {"attention_bias": (*QKV_BIASES, "attn_bo")}
FLAGGED_BIASES = ATTENTION_BIASES | {"mlp_bias": ("mlp_bgate", "mlp_bup", "mlp_bdown")}
ARCHITECTURES = {
    "llama": _like_llama(options, flagged_biases=FLAGGED_BIASES, permuted=True),
    # In GGUF files, a mistral is called llama.
    "mistral": _like_llama(partial(options, windows="all"), from_gguf=None, defaults={"n_kv_head": 8}),
    "qwen2": _like_llama(partial(options, windows="last"), biases=QKV_BIASES, defaults={"n_kv_head": 32}),
    "qwen3": _like_llama(
        partial(options, windows="last", qk_norm=True),
        flagged_biases=ATTENTION_BIASES, defaults={"head_dim": 128, "n_kv_head": 32},
    ),
    "smollm3": _like_llama(
        options_of_smollm3, from_gguf=gguf_of_smollm3, permuted=True, tied=True, example={},
        defaults={"norm_eps": 1e-6, "n_kv_head": 4}, flagged_biases=FLAGGED_BIASES,
    ),
}  # fmt: skip
