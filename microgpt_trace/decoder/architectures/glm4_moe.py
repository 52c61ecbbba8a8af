"""GLM-4.5 and MiniMax-M2: routers that score experts by a sigmoid, and correct the scores before the choice.
GLM-4.5 has experts in groups, and shared experts, which all positions use.

DeepSeek-AI, "DeepSeek-V3 Technical Report" (2024), sec. 2.1.2, describes the router.
"""

from __future__ import annotations

from functools import partial

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.kinds import Activation, Add, Choice, Routing, Shift
from ...plans.rope import Rope
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import COUNT, FLAG, POSITIVE, TEXT, WHOLE, Options, Settings, Sizes, one_of
from ..shared_options import (
    LLAMA_CPP,
    gguf_rope,
    read_activation,
    read_experts,
    read_rope,
    rotated_channels,
    typed_layers,
)
from .llama import NAMES as LLAMA
from .llama import QK_NORMS
from .mixtral import EXPERTS, MORE_EXPERTS, OLD, gguf_experts
from .mixtral import NAMES as MIXTRAL
from .qwen3_moe import OF_SOME_LAYERS


@frozen(slots=False)
class SigmoidRoutedConfig(LayeredConfig):
    """The config of a model with mixtures whose router may use a sigmoid and groups of experts."""

    experts: int = 1
    experts_used: int = 1
    expert_inner: int = 1  # the inner width of an expert
    shared_inner: int = 0  # the inner width of all shared experts together, or 0 without shared experts
    dense_layers: tuple[int, ...] = ()
    scoring: str = "sigmoid"  # "sigmoid" or "softmax": how the router turns logits into shares
    normalised: bool = False  # True if the shares of the chosen experts add up to 1, before the factor
    routing_factor: float | None = None  # multiplies all shares
    expert_groups: int = 1
    expert_groups_used: int = 1

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of an MLP, or of a mixture of experts and the shared experts, a gated MLP."""
        if rows.layer in self.dense_layers:
            return rows.gated_mlp(source)
        chosen, routing = self.router(rows, source)
        mixture = rows.experts(source, self.expert_inner, chosen, routing)
        if not self.shared_inner:
            return mixture
        shared = rows.shared_mlp(source, self.shared_inner)
        return rows.add("mlp.both", Add(), mixture, shared, expr="mlp_out = mlp_out + shared")

    def router(self, rows: Blocks, source: str) -> tuple[str, str]:
        """Add the rows of the chosen experts and of their shares. With a sigmoid, a learned correction is
        added to the scores for the choice only."""
        scored, count, used = self.scoring == "sigmoid", self.experts_used, self.expert_groups_used
        scores = ranked = rows.product("mlp.router", "wrouter", source, self.experts, "router = x_n")
        if scored:
            expr = "scores = sigmoid(router)"
            scores = rows.add("mlp.scores", Activation("sigmoid"), scores, expr=expr)
            bias, expr = rows.name("mlp_correction"), "corrected = scores + correction"
            parameter = f"correction = {bias}"
            ranked = rows.add("mlp.corrected", Shift(bias), scores, expr=expr, parameter=parameter)
        where = f" in the {used} best of {self.expert_groups} groups" * (used < self.expert_groups)
        expr = f"chosen = the {count} largest of {'corrected' if scored else 'router'}{where}"
        choice = Choice(count, self.expert_groups, used, 2 if scored else 1, any_order=True)
        chosen = rows.add("mlp.chosen", choice, ranked, expr=expr)
        expr = "routing = scores[chosen]" + " / their sum" * self.normalised
        expr = expr if scored else "routing = softmax(router)[chosen]"
        name = "mlp.routing" if self.routing_factor is None else "mlp.shares"
        kind = Routing(self.normalised, of_scores=scored)
        shares = rows.add(name, kind, scores, chosen, expr=expr)
        return chosen, rows.scaled("mlp.routing", shares, self.routing_factor, "routing")


@frozen(slots=False)
class Glm4MoeConfig(SigmoidRoutedConfig):
    """The config of a GLM-4.5 or a MiniMax-M2."""

    norms_of_rows: bool = False  # True if the norms of q and k are norms of whole rows, not of heads

    @property
    def layout(self) -> Layout:
        return Layout(mlp=self.mlp, qk_norm="rows" if self.norms_of_rows else "heads")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the experts, and whether q and k are normalised."""
    return {
        "rope": read_rope(settings, partial=True),
        "rotary_dim": rotated_channels(settings, sizes["head_dim"], 0.5),
        "qk_norm": settings.get_or_default("use_qk_norm", FLAG, False),
        **read_routing(settings, sizes, GLM),
    }


def options_of_minimax(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the experts. All shares are normalised."""
    channels = settings.get("rotary_dim", WHOLE) or rotated_channels(settings, sizes["head_dim"])
    return {
        "rope": read_rope(settings, partial=True), "rotary_dim": channels, "qk_norm": True,
        "norms_of_rows": True, "activation": read_activation(settings, "hidden_act", "silu"),
        **read_experts(settings, 256, 8), "expert_inner": sizes["n_inner"], "normalised": True,
    }  # fmt: skip


def read_routing(settings: Settings, sizes: Sizes, usual: Sizes) -> Options:
    """Read the activation, the experts, their groups, and the layers without experts."""
    inner = settings.get_or_default("moe_intermediate_size", WHOLE, usual["moe_intermediate_size"])
    shared = settings.get_or_default("n_shared_experts", COUNT, usual["n_shared_experts"])
    each = usual["num_experts_per_tok"] or settings.require("num_experts_per_tok", WHOLE)
    found = read_experts(settings, usual["n_routed_experts"], each)
    scoring = one_of("scoring_func", settings.get("scoring_func", TEXT) or usual["scoring_func"], SCORING)
    if (settings.get("moe_layer_freq", WHOLE) or 1) != 1:
        raise InputError("moe_layer_freq: expected 1, as in all models, found another number")
    factor = settings.get_or_default("routed_scaling_factor", POSITIVE, usual["routed_scaling_factor"])
    groups = used = 1
    if scoring == "sigmoid" or settings.get_or_default("topk_method", TEXT, "greedy") != "greedy":
        groups = settings.get("n_group", WHOLE) or usual["n_group"]
        used = settings.get("topk_group", WHOLE) or usual["topk_group"]
    size, rest = divmod(found["experts"], groups)
    if rest or used > groups or size * used < found["experts_used"] or (scoring == "sigmoid" and size < 2):
        text = f"{found['experts_used']} experts of {used} of {groups} groups of {found['experts']} experts"
        raise InputError(f"n_group, topk_group: cannot choose {text}")
    flag = settings.get_or_default("norm_topk_prob", FLAG, True) if scoring == "sigmoid" else False
    return {
        "activation": read_activation(settings, "hidden_act", "silu"), **found, "scoring": scoring,
        "expert_inner": inner, "shared_inner": inner * shared, "normalised": flag,
        "dense_layers": _dense_layers(settings, sizes["n_layer"], usual["first_k_dense_replace"]),
        "routing_factor": None if factor == 1 else float(factor),
        "expert_groups": groups, "expert_groups_used": used,
    }  # fmt: skip


SCORING = ("sigmoid", "softmax")


def _dense_layers(settings: Settings, n_layer: int, usual: int) -> tuple[int, ...]:
    """Return the layers without experts: those that `mlp_layer_types` calls dense, or the first layers."""
    typed = typed_layers(settings, n_layer, "mlp_layer_types", ("dense", "sparse"), "dense")
    if typed is None:
        first = settings.get_or_default("first_k_dense_replace", COUNT, usual)
        return tuple(range(min(first, n_layer)))
    return typed


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the experts. The tensors say whether q and k are normalised."""
    rope = gguf_rope(keys, sizes["head_dim"], partial=True)
    normed = "layer0.attn_q_norm" in keys.problems.tensors
    return {"use_qk_norm": normed, **rope, **gguf_routing(keys)}


def from_gguf_of_minimax(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the experts. llama.cpp always normalises the shares, as transformers does."""
    if keys.get("expert_gating_func", COUNT) not in (None, 0, GATING["sigmoid"]):
        raise InputError(f"expert_gating_func: expected {GATING['sigmoid']} (sigmoid)")
    inner = keys.require("expert_feed_forward_length", WHOLE)
    rope = gguf_rope(keys, sizes["head_dim"], partial=True)
    return {"hidden_act": "silu", "intermediate_size": inner, **gguf_experts(keys), **rope}


def gguf_routing(keys: Settings, scoring: str = "sigmoid") -> Options:
    """Translate the experts, their groups and their shares."""
    groups = keys.get("expert_group_count", COUNT) or 1
    normalised = keys.get_or_default("expert_weights_norm", FLAG, False, LLAMA_CPP)
    if normalised and scoring == "softmax":
        raise InputError("expert_weights_norm: shares of a softmax that are divided by their sum")
    if keys.get("expert_gating_func", COUNT) not in (None, 0, GATING[scoring]):
        raise InputError(f"expert_gating_func: expected {GATING[scoring]} ({scoring})")
    return {
        "hidden_act": "silu", **gguf_experts(keys), "norm_topk_prob": normalised,
        "n_group": groups, "topk_group": keys.get("expert_group_used_count", COUNT) or groups,
        "topk_method": "greedy" if groups == 1 else "group_limited_greedy",
        "moe_intermediate_size": keys.require("expert_feed_forward_length", WHOLE),
        "n_shared_experts": keys.get("expert_shared_count", COUNT) or 0,
        "first_k_dense_replace": keys.get("leading_dense_block_count", COUNT) or 0,
        "routed_scaling_factor": keys.get("expert_weights_scale", POSITIVE) or 1.0,
    }  # fmt: skip


GATING = {"softmax": 1, "sigmoid": 2}
CORRECTION = {
    "exp_probs_b.bias": "mlp_correction", "exp_probs_b": "mlp_correction",
    "mlp.gate.e_score_correction_bias": "mlp_correction",
}  # fmt: skip
SHARED_EXPERTS = {
    "mlp_wgate_shared": ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    "mlp_wup_shared": ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    "mlp_wdown_shared": ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
}
NAMES = LLAMA.changed(
    "a GLM-4.5",
    layer={
        "mlp_norm": ("post_attention_norm", "post_attention_layernorm"), **EXPERTS, **SHARED_EXPERTS,
    },
    more={**MORE_EXPERTS, **CORRECTION},
)  # fmt: skip
NAMES_OF_MINIMAX = MIXTRAL.changed(
    "a MiniMax-M2",
    more={
        **CORRECTION, "mlp.e_score_correction_bias": "mlp_correction",
        f"{OLD}.e_score_correction_bias": "mlp_correction",
    },
)  # fmt: skip
OF_SHARED = ("mlp.shared_experts", *(module for _, module in SHARED_EXPERTS.values()))
MODULES = {
    "self_attn": "attn.out", "mlp.experts": "mlp.mixture", "mlp.shared_experts": "mlp.shared_down",
    "mlp": "mlp.both",
}  # fmt: skip
ENGINE_NAMES = {  # llama.cpp's
    f"{name}-#": f"layer#.mlp.{event}"
    for name, event in (
        ("ffn_moe_probs", "scores"), ("ffn_moe_probs_biased", "corrected"), ("ffn_shexp", "shared_down"),
        ("ffn_out", "both"),
    )
}  # fmt: skip
EXAMPLE = {
    "experts": 2, "n_layer": 2, "dense_layers": (1,), "shared_inner": 2, "routing_factor": 2.0,
    "rope": Rope(1e4),
}  # fmt: skip
GLM = {
    "moe_intermediate_size": 1408, "n_shared_experts": 1, "n_routed_experts": 128, "num_experts_per_tok": 8,
    "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "scoring_func": "sigmoid",
}  # fmt: skip
_architecture = partial(Architecture, Glm4MoeConfig, tied=False, engine_names=ENGINE_NAMES)
ARCHITECTURES = {
    "glm4_moe": _architecture(
        NAMES, options, MODULES, from_gguf=from_gguf, flagged_biases={"attention_bias": QKV_BIASES},
        optional_modules=(*OF_SOME_LAYERS, *OF_SHARED, *QK_NORMS),
        defaults={"norm_eps": 1e-5, "n_kv_head": 8}, example={**EXAMPLE, "qk_norm": True},
    ),
    "minimax_m2": _architecture(
        NAMES_OF_MINIMAX, options_of_minimax, {"self_attn": "attn.out", "mlp.experts": "mlp.mixture"},
        from_gguf=from_gguf_of_minimax, example={"experts": 2, "qk_norm": True, "norms_of_rows": True},
        defaults={"norm_eps": 1e-6, "n_kv_head": 8, "head_dim": 128},
    ),
}  # fmt: skip
