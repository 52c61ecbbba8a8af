"""gpt-oss: attention with sinks and windows, and mixtures of experts with clipped gates and biases."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...plans.blocks import Blocks
from ...plans.kinds import Activation, Clip, Multiply, Scale
from ...plans.rope import Rope
from ...text.frozen import frozen
from ..architecture import Architecture
from ..settings import COUNT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import gguf_rope, layers_with_window, read_experts, read_rope, read_window
from .llama import ATTENTION_BIASES
from .mixtral import MODULES, MixtralConfig, gguf_experts
from .mixtral import NAMES as MIXTRAL

BIASES = ("mlp_brouter", "mlp_bgate_experts", "mlp_bup_experts", "mlp_bdown_experts")


@frozen(slots=False)
class GptOssConfig(MixtralConfig):
    """The config of a gpt-oss."""

    sinks = True
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of a mixture of experts."""
        return rows.mixture(source, self.n_inner, normalised=True, gated=partial(self.gated, rows))

    def gated(self, rows: Blocks, gate: str, up: str) -> str:
        """Add (clipped up + 1) * g * sigmoid(alpha * g), where g is the clipped gate."""
        limit, alpha = self.swiglu_limit, self.swiglu_alpha
        expr = f"up = min(max(up, -{limit:g}), {limit:g}) + 1"
        up = rows.add("mlp.up_clipped", Clip(-limit, limit, 1.0), up, expr=expr)
        expr = f"gate = min(gate, {limit:g})"
        gate = rows.add("mlp.gate_clipped", Clip(float("-inf"), limit), gate, expr=expr)
        gate = rows.add("mlp.gate_scaled", Scale(alpha), gate, expr=f"gate = gate * {alpha:g}")
        act = rows.add("mlp.act", Activation(self.activation), gate, expr=f"act = {self.activation}(gate)")
        act = rows.add("mlp.act_scaled", Scale(1 / alpha), act, expr=f"act = act / {alpha:g}")
        return rows.add("mlp.hidden", Multiply(), act, up, expr="hidden = act * up")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the window, which every second layer has, the numbers of experts, and the gate."""
    layers = layers_with_window(settings, sizes["n_layer"], 2)
    gate = {key: settings.get_or_default(key, POSITIVE, usual) for key, usual in GATE.items()}
    return {
        "rope": read_rope(settings, 150000.0, usual=YARN), "activation": "SiLU", **gate,
        **read_window(settings, layers, 128), **read_experts(settings, 128, 4),
    }  # fmt: skip


GATE = {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE, the window and the experts. Only llama.cpp rounds the bounds of YaRN's ramp."""
    rope = gguf_rope(keys, sizes["head_dim"])
    if rope["rope_scaling"].get("type") == "yarn":
        rope["rope_scaling"]["truncate"] = False
        why = "as in the models; llama.cpp rounds the bounds of YaRN's ramp"
        keys.notes.append(f"rope_scaling.truncate = false ({why})")
    return {
        "intermediate_size": keys.get("expert_feed_forward_length", WHOLE) or sizes["n_inner"],
        "sliding_window": keys.require("attention.sliding_window", COUNT) or None,
        **GATE, **gguf_experts(keys), **rope,
    }  # fmt: skip


NAMES = replace(
    MIXTRAL,
    family="a gpt-oss",
    layer={
        **MIXTRAL.layer,
        "mlp_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_wrouter": ("ffn_gate_inp", "mlp.router"),
    },
    more={
        "attn_sinks.weight": "attn_sinks",
        "ffn_gate_up_exps.weight": "mlp_wgate_up_experts",
        "ffn_gate_up_exps.bias": "mlp_bgate_up_experts",
        "self_attn.sinks": "attn_sinks",
        "mlp.experts.gate_up_proj": "mlp_wgate_up_experts",
        "mlp.experts.gate_up_proj_blocks": "mlp_wgate_up_experts.blocks",
        "mlp.experts.gate_up_proj_scales": "mlp_wgate_up_experts.scales",
        "mlp.experts.gate_up_proj_bias": "mlp_bgate_up_experts",
        "mlp.experts.down_proj": "mlp_wdown_experts",
        "mlp.experts.down_proj_blocks": "mlp_wdown_experts.blocks",
        "mlp.experts.down_proj_scales": "mlp_wdown_experts.scales",
        "mlp.experts.down_proj_bias": "mlp_bdown_experts",
    },
    experts_in_out=True,
    experts_in_pairs=True,
)
ARCHITECTURES = {
    "gpt_oss": Architecture(
        GptOssConfig, NAMES, options, MODULES, from_gguf=from_gguf, tied=False, biases=BIASES,
        flagged_biases=ATTENTION_BIASES, flags={"attention_bias": True},
        example={"rope": Rope(1e4), "experts": 2},
        defaults={"norm_eps": 1e-5, "n_kv_head": 8, "head_dim": 64},
        engine_names={"ffn_moe_probs-#": "layer#.mlp.router", "attn_post_norm-#": "layer#.mlp.norm"},
        refused_names={
            "ffn_moe_logits-#": "the router logits without their bias",
            "ffn_moe_weights-#": "the logits of the chosen experts, before the softmax",
        },
    ),
}  # fmt: skip
