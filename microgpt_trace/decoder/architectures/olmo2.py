"""OLMo 2, OLMo 3 and EXAONE 4: a Llama with norms after attention and MLP instead of before, and norms of q
and k. OLMo 3 and EXAONE 4 have windows in some layers, and other RoPE or no RoPE in the other layers.
"""

from __future__ import annotations

from functools import partial

from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import Options, Settings, Sizes
from ..shared_options import (
    gguf_windows,
    layers_with_window,
    read_activation,
    read_rope_in_windows,
    read_ropes,
    read_window,
    usual_from_gguf,
    usual_options,
)
from .llama import ATTENTION_BIASES, MODULES, QK_NORMS
from .llama import NAMES as LLAMA


@frozen(slots=False)
class OLMo2Config(LayeredConfig):
    """The config of an OLMo 2 or OLMo 3, with norms of whole rows of q and k."""

    layout = Layout(norms="after", qk_norm="rows")


@frozen(slots=False)
class Exaone4Config(LayeredConfig):
    """The config of an EXAONE 4."""

    layout = Layout(norms="after")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    return {**usual_options(settings, sizes), "qk_norm": True}


def options_of_olmo3(settings: Settings, sizes: Sizes) -> Options:
    """Read the function of the MLP, the layers with a window, and RoPE of these and of the other layers."""
    layers = layers_with_window(settings, sizes["n_layer"], 4)
    activation = read_activation(settings, "hidden_act", "silu")
    ropes, windows = read_ropes(settings, 5e5), read_window(settings, layers)
    return {**ropes, **windows, "activation": activation, "qk_norm": True}


def options_of_exaone4(settings: Settings, sizes: Sizes) -> Options:
    """Read as for an OLMo 2, and the window. In a model with a window, the other layers have no RoPE."""
    return options(settings, sizes) | read_rope_in_windows(settings, sizes["n_layer"])


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the windows."""
    return {**usual_from_gguf(keys, sizes), **gguf_windows(keys, sizes["n_layer"])}


NAMES = LLAMA.changed(
    "an OLMo 2",
    ("attn_norm", "mlp_norm"),
    layer={
        "attn_post_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
    },
)

_like_olmo2 = partial(
    Architecture, OLMo2Config, NAMES, modules=MODULES, defaults={"norm_eps": 1e-5}, tied=False,
    flagged_biases=ATTENTION_BIASES, example={"qk_norm": True},
)  # fmt: skip
ARCHITECTURES = {
    "olmo2": _like_olmo2(options, from_gguf=usual_from_gguf),
    "olmo3": _like_olmo2(options_of_olmo3, from_gguf=from_gguf),
    "exaone4": Architecture(
        Exaone4Config, NAMES.changed("an EXAONE 4"), options_of_exaone4, MODULES, from_gguf=from_gguf,
        defaults={"norm_eps": 1e-5, "n_kv_head": 32}, tied=False, example={"qk_norm": True},
        heads_first=QK_NORMS,
    ),
}  # fmt: skip
