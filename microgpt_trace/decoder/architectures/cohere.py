"""Cohere's Command R and Command R7B: attention and MLP read one LayerNorm without a bias, RoPE turns pairs
of neighbouring channels, and the logits are multiplied by a number.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

from ...plans.plan import Plan
from ...text.frozen import frozen
from ..architecture import SIZES, Architecture
from ..config import DecoderConfig
from ..layered_plan import Layout, plan_of
from ..settings import FLAG, POSITIVE, Options, Settings, Sizes
from ..shared_options import gguf_rope, gguf_windows, read_activation, read_rope, read_rope_in_windows
from .llama import ATTENTION_BIASES, MODULES, QK_NORMS
from .llama import NAMES as LLAMA


@frozen(slots=False)
class CohereConfig(DecoderConfig):
    """The config of a Cohere."""

    logit_scale: float = 0.0625  # multiplies the logits

    @cached_property
    def plan(self) -> Plan:
        layout = Layout(
            centred=True, parallel="one norm", qk_norm="each head", adjacent=True,
            logits_factor=self.logit_scale,
        )  # fmt: skip
        return plan_of(self, layout)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the factor of the logits, the function of the MLP, and whether q and k are normalised."""
    normed = settings.get_or_default("use_qk_norm", FLAG, False)
    return {**_common(settings), "rope": read_rope(settings, 5e5), "qk_norm": normed}


def options_of_cohere2(settings: Settings, sizes: Sizes) -> Options:
    """Read as for a Cohere, and the window. Layers without a window have no RoPE."""
    windows = read_rope_in_windows(settings, sizes["n_layer"])
    every = {"layers_without_rope": tuple(range(sizes["n_layer"]))}
    return {**_common(settings), "rope": read_rope(settings), **(windows or every)}


def _common(settings: Settings) -> Options:
    return {
        "logit_scale": float(settings.get_or_default("logit_scale", POSITIVE, 0.0625)),
        "activation": read_activation(settings, "hidden_act", "silu"),
    }


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the factor of the logits. The tensors say whether q and k are normalised."""
    scale, normed = keys.require("logit_scale", POSITIVE), "layer0.attn_q_norm" in keys.problems.tensors
    rope = gguf_rope(keys, sizes["head_dim"])
    return {"logit_scale": scale, "hidden_act": "silu", "use_qk_norm": normed, **rope}


def from_gguf_of_cohere2(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE, the factor of the logits, and the window."""
    return from_gguf(keys, sizes) | gguf_windows(keys, sizes["n_layer"])


NAMES = replace(
    LLAMA,
    family="a Cohere",
    layer={name: theirs for name, theirs in LLAMA.layer.items() if name != "mlp_norm"},
)

_EPS = {"norm_eps": "layer_norm_eps"}
_like_cohere = partial(
    Architecture, CohereConfig, NAMES, modules=MODULES, optional_modules=QK_NORMS, tied=True,
    flagged_biases=ATTENTION_BIASES, gguf_eps="attention.layer_norm_epsilon", example={"qk_norm": True},
    defaults={"norm_eps": 1e-5},
)  # fmt: skip
ARCHITECTURES = {
    "cohere": _like_cohere(options, from_gguf=from_gguf, sizes=SIZES | _EPS),
    "cohere2": _like_cohere(
        options_of_cohere2, from_gguf=from_gguf_of_cohere2,
        sizes={own: key for own, key in (SIZES | _EPS).items() if own != "head_dim"},
    ),
}  # fmt: skip
