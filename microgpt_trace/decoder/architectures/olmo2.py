"""OLMo 2: a Llama with norms after attention and MLP instead of before, and norms of all of q and k."""

from __future__ import annotations

from ...text.frozen import frozen
from ..architecture import Architecture, FileNames
from ..layered_plan import LayeredConfig, Layout
from ..settings import Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope
from .llama import ATTENTION_BIASES, MODULES
from .llama import NAMES as LLAMA


@frozen(slots=False)
class OLMo2Config(LayeredConfig):
    """The config of an OLMo 2."""

    layout = Layout(norms="after", qk_norm="rows")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    activation = read_activation(settings, "hidden_act", "silu")
    return {"rope": read_rope(settings), "activation": activation, "qk_norm": True}


NAMES = FileNames(
    "an OLMo 2",
    LLAMA.model,
    {name: theirs for name, theirs in LLAMA.layer.items() if name not in ("attn_norm", "mlp_norm")}
    | {
        "attn_post_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
    },
)

ARCHITECTURES = {
    "olmo2": Architecture(
        OLMo2Config, NAMES, options, MODULES, defaults={"norm_eps": 1e-5}, tied=False,
        from_gguf=lambda keys, sizes: {"hidden_act": "silu", **gguf_rope(keys, sizes["head_dim"])},
        flagged_biases=ATTENTION_BIASES, example={"qk_norm": True},
    ),
}  # fmt: skip
