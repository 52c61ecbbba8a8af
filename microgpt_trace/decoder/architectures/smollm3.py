"""SmolLM3: a Llama without RoPE in some layers, and perhaps with a window in these layers."""

from __future__ import annotations

from ...errors import InputError
from ...text.brief import brief
from ..architecture import Architecture
from ..settings import FLAG, WHOLE, Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope, read_window, typed_layers
from .llama import FLAGGED_BIASES, MODULES, NAMES, LlamaConfig


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the layers without RoPE. By default, the layers without RoPE have the window, if any."""
    n_layer = sizes["n_layer"]
    flags = settings.raw("no_rope_layers")  # 1 marks a layer with RoPE
    if flags is None:
        every = settings.get_or_default("no_rope_layer_interval", WHOLE, 4)
        flags = [int((i + 1) % every != 0) for i in range(n_layer)]
    if not isinstance(flags, list) or len(flags) != n_layer or any(flag not in (0, 1) for flag in flags):
        raise InputError(f"no_rope_layers: expected {n_layer} values 0 or 1, found {brief(flags)}")
    without, windowed = tuple(i for i, flag in enumerate(flags) if not flag), typed_layers(settings, n_layer)
    if windowed is None:
        windowed = without if settings.get("use_sliding_window", FLAG) else ()
    return {
        "rope": read_rope(settings, 2e6), "layers_without_rope": without,
        "activation": read_activation(settings, "hidden_act", "silu"), **read_window(settings, windowed),
    }  # fmt: skip


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE. GGUF files do not store which layers lack it: every fourth layer, as in llama.cpp."""
    keys.notes.append("no RoPE in every fourth layer, as llama.cpp assumes")
    return {"hidden_act": "silu", "no_rope_layer_interval": 4, **gguf_rope(keys, sizes["head_dim"])}


ARCHITECTURES = {
    "smollm3": Architecture(
        LlamaConfig, NAMES, options, MODULES, from_gguf=from_gguf, permuted=True,
        defaults={"norm_eps": 1e-6, "n_kv_head": 4}, tied=True, flagged_biases=FLAGGED_BIASES,
    ),
}  # fmt: skip
