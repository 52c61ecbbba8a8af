"""GLM-4: norms before and after attention and MLP, and RoPE of pairs of neighbouring channels in half of each
head.
"""

from __future__ import annotations

from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture, FileNames
from ..layered_plan import LayeredConfig, Layout
from ..settings import Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope, rotated_channels
from .llama import NAMES as LLAMA
from .phi3 import NAMES as PHI3


@frozen(slots=False)
class Glm4Config(LayeredConfig):
    """The config of a GLM-4."""

    layout = Layout(norms="both", adjacent=True)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the rotated channels, and the function of the MLP."""
    return {
        "rope": read_rope(settings, partial=True),
        "rotary_dim": rotated_channels(settings, sizes["head_dim"], 0.5),
        "activation": read_activation(settings, "hidden_act", "silu"),
    }


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE."""
    return {"hidden_act": "silu", **gguf_rope(keys, sizes["head_dim"], partial=True)}


NAMES = FileNames(
    "a GLM-4",
    LLAMA.model,
    {name: theirs for name, theirs in LLAMA.layer.items() if name.startswith("attn_w")}
    | {name: theirs for name, theirs in PHI3.layer.items() if name != "attn_wqkv"}
    | {
        "attn_post_norm": ("post_attention_norm", "post_self_attn_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_mlp_layernorm"),
    },
)

ARCHITECTURES = {
    "glm4": Architecture(
        Glm4Config, NAMES, options, from_gguf=from_gguf, tied=False,
        modules={"self_attn": "attn.out", "mlp": "mlp.down", "mlp.activation_fn": "mlp.act"},
        flagged_biases={"attention_bias": QKV_BIASES}, flags={"attention_bias": True},
        defaults={"norm_eps": 1.5625e-7, "head_dim": 128, "n_kv_head": 2},
    ),
}  # fmt: skip
