"""Qwen2-MoE: a Qwen2 with mixtures of experts. In each mixture, all positions also use a shared expert."""

from __future__ import annotations

from ...plans.blocks import Blocks
from ...plans.kinds import Activation, Add, Mixture
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture
from ..settings import COUNT, FLAG, WHOLE, Options, Settings, Sizes
from ..shared_options import read_window, typed_layers
from . import qwen3_moe
from .qwen3_moe import EXAMPLE, OF_SOME_LAYERS, Qwen3MoeConfig, read_mixture


@frozen(slots=False)
class Qwen2MoeConfig(Qwen3MoeConfig):
    """The config of a Qwen2-MoE."""

    shared_inner: int = 1  # the inner width of the shared expert

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of an MLP. The output of the shared expert, a gated MLP, is multiplied by a share."""
        mixture = super().mlp(rows, source)
        if rows.layer in self.dense_layers:
            return mixture
        down = rows.shared_mlp(source, self.shared_inner)
        logit = rows.product("mlp.shared_router", "wrouter_shared", source, 1, "router = x_n")
        share = rows.add("mlp.shared_routing", Activation("sigmoid"), logit, expr="share = sigmoid(router)")
        shared = rows.add("mlp.shared", Mixture(), down, share, expr="shared = share * down")
        return rows.add("mlp.both", Add(), mixture, shared, expr="mlp_out = mlp_out + shared")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read the options of all Qwens with experts, the width of the shared expert, and the window."""
    inner = settings.get_or_default(SHARED_INNER, WHOLE, 5632)
    experts = read_mixture(settings, sizes, 60, 4, 1408)
    return {**experts, "shared_inner": inner, **read_window(settings, _windowed_layers(settings, sizes))}


SHARED_INNER = "shared_expert_intermediate_size"


def _windowed_layers(settings: Settings, sizes: Sizes) -> tuple[int, ...]:
    """Return the layers with a window: without `layer_types`, even layers before max_window_layers if
    use_sliding_window is set."""
    typed = typed_layers(settings, sizes["n_layer"])
    if typed is not None or not settings.get_or_default("use_sliding_window", FLAG, False):
        return typed or ()
    most = settings.get_or_default("max_window_layers", COUNT, 28)
    return tuple(range(0, min(sizes["n_layer"], most), 2))


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate as for Qwen3-MoE. llama.cpp never normalises the shares."""
    inner = keys.get("expert_shared_feed_forward_length", WHOLE) or sizes["n_inner"]
    return qwen3_moe.from_gguf(keys, sizes, normalised=False) | {SHARED_INNER: inner}


SHARED = {
    "mlp_wgate_shared": ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    "mlp_wup_shared": ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    "mlp_wdown_shared": ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    "mlp_wrouter_shared": ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
}
NAMES = qwen3_moe.NAMES.changed("a Qwen2-MoE", layer=SHARED)
MODULES = {
    "self_attn": "attn.out", "mlp.experts": "mlp.mixture", "mlp.shared_expert": "mlp.shared_down",
    "mlp": "mlp.both",
}  # fmt: skip
ENGINE_NAMES = {  # llama.cpp's
    f"{name}-#": f"layer#.mlp.{event}"
    for name, event in (
        ("ffn_gate", "shared_gate"), ("ffn_up", "shared_up"), ("ffn_swiglu", "shared_hidden"),
        ("ffn_shexp", "shared_down"), ("ffn_shexp_gate_inp", "shared_router"),
        ("ffn_shexp_gate", "shared_routing"), ("ffn_shexp_out", "shared"), ("ffn_out", "both"),
    )
}  # fmt: skip
ARCHITECTURES = {
    "qwen2_moe": Architecture(
        Qwen2MoeConfig, NAMES, options, MODULES, from_gguf=from_gguf, tied=False,
        flagged_biases={"qkv_bias": QKV_BIASES}, flags={"qkv_bias": True}, example=EXAMPLE,
        optional_modules=(*OF_SOME_LAYERS, *(module for _, module in SHARED.values())),
        defaults={"norm_eps": 1e-6, "n_kv_head": 16}, engine_names=ENGINE_NAMES,
    ),
}  # fmt: skip
