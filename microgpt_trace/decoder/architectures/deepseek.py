"""DeepSeek V2 and V3, and GLM-4.7-Flash: latent attention, and mixtures of experts whose router may score
experts by a sigmoid, correct the scores before the choice, and use experts of some groups only.

DeepSeek-AI, "DeepSeek-V2" (2024), sec. 2.1, and "DeepSeek-V3 Technical Report" (2024), sec. 2.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.kinds import Activation, Add, Choice, Routing, Scores, Shift
from ...plans.plan import Plan
from ...plans.rope import Rope, yarn_attention_factor
from ...text.brief import brief
from ...text.frozen import frozen
from ..architecture import SIZES, Architecture
from ..config import DecoderConfig
from ..layered_plan import Layout, plan_of
from ..settings import COUNT, FLAG, POSITIVE, TEXT, WHOLE, Options, Settings, Sizes, one_of
from ..shared_options import LLAMA_CPP, gguf_rope, read_activation, read_experts, read_rope
from .llama import FLAGGED_BIASES
from .llama import NAMES as LLAMA
from .mixtral import EXPERTS, MORE_EXPERTS, gguf_experts
from .qwen3_moe import OF_SOME_LAYERS

LATENT_EPS = 1e-6  # of the norms of latent vectors in transformers, whatever the eps of the other norms


@frozen(slots=False)
class SharedExpertsConfig(DecoderConfig):
    """The config of mixtures with shared experts, which all positions use, and a router with groups."""

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
class LatentConfig(SharedExpertsConfig):
    """The config of a DeepSeek. `head_dim` is the number of channels of q and k without RoPE."""

    query_rank: int | None = None  # the width of the latent vector of queries; None means no latent vector
    latent_rank: int = 1  # the width of the latent vector of keys and values
    rope_dim: int = 2  # the channels of q with RoPE, and of the key with RoPE that all heads share
    value_dim: int = 1
    pairs_adjacent: bool = True
    score_factor: float = 1.0  # multiplies the scores in YaRN

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self, Layout(mlp=self.mlp, attention=self.attention))

    def attention(self, rows: Blocks, x: str) -> str:
        """Add the rows of multi-head latent attention: the scores are a sum of two products."""
        heads, dim, rope_dim = range(self.n_head), self.head_dim, self.rope_dim
        read, latent = x, "x_n"
        if self.query_rank is not None:
            read = rows.product("attn.q_a", "wq_a", x, self.query_rank, "q_a = x_n", "q_a_proj")
            read, latent = rows.norm("attn.q_a_norm", read, eps=LATENT_EPS, of="q_a"), "q_a"
        q = rows.product("attn.q", "wq", read, len(heads) * dim, f"q = {latent}", "without position")
        q_pe = rows.product("attn.q_pe", "wq_pe", read, len(heads) * rope_dim, f"q_pe = {latent}", "for RoPE")
        kv = rows.product("attn.kv_a", "wkv_a", x, self.latent_rank, "kv_a = x_n", "kv_a_proj")
        kv = rows.norm("attn.kv_a_norm", kv, eps=LATENT_EPS, of="kv_a")
        k_pe = rows.product("attn.k_pe", "wk_pe", x, rope_dim, "k_pe = x_n", "for RoPE, one for all heads")
        k = rows.product("attn.k", "wk", kv, len(heads) * dim, "k = kv_a", "without position")
        v = rows.product("attn.v", "wv", kv, len(heads) * self.value_dim, "v = kv_a")
        assert self.rope is not None
        turned = rows.rotations(q_pe, k_pe, self.rope, adjacent=self.pairs_adjacent, head_dim=rope_dim)
        scale = self.score_factor / math.sqrt(dim + rope_dim)
        plain, with_rope = Scores(dim, tuple(heads), scale), Scores(rope_dim, (0,) * len(heads), scale)
        parts = (
            rows.add("attn.scores_nope", plain, q, k, expr=f"scores = q @ k.T * {scale:.6g}"),
            rows.add("attn.scores_pe", with_rope, *turned, expr=f"scores = q_pe @ k_pe.T * {scale:.6g}"),
        )
        scores = rows.add("attn.scores", Add(), *parts, expr="scores = scores without + with position")
        return rows.weighted_values(scores, v, self.value_dim, tuple(heads))


def options(settings: Settings, sizes: Sizes, usual: Sizes) -> Options:
    """Read the widths of latent attention, RoPE, and the experts. `usual` are the defaults of
    transformers."""
    rope = settings.raw("rope_parameters") or settings.raw("rope_scaling") or {}
    score_factor, all_dims = 1.0, rope.get("mscale_all_dim") if isinstance(rope, dict) else None
    if all_dims:
        factor = Settings(rope).require("factor", POSITIVE)
        all_dims = Settings(rope).require("mscale_all_dim", POSITIVE)
        score_factor = yarn_attention_factor(factor, all_dims) ** 2
    key = "q_lora_rank"
    rank = settings.get(key, WHOLE) if settings.has(key) else settings.get_or_default(key, WHOLE, usual[key])
    adjacent = usual["rope_interleave"] is None or settings.get_or_default("rope_interleave", FLAG, True)
    return {
        "query_rank": rank, "rope": read_rope(settings), "score_factor": score_factor,
        "pairs_adjacent": adjacent,
        **{
            own: settings.get_or_default(key, WHOLE, usual[key])
            for own, key in (
                ("latent_rank", "kv_lora_rank"), ("rope_dim", "qk_rope_head_dim"), ("value_dim", "v_head_dim")
            )
        },
        **shared_experts(settings, sizes, usual),
    }  # fmt: skip


def shared_experts(settings: Settings, sizes: Sizes, usual: Sizes) -> Options:
    """Read the activation, the experts, their groups, and the layers without experts."""
    inner = settings.get_or_default("moe_intermediate_size", WHOLE, usual["moe_intermediate_size"])
    shared = settings.get_or_default("n_shared_experts", COUNT, usual["n_shared_experts"])
    found = read_experts(
        settings,
        usual["n_routed_experts"],
        usual["num_experts_per_tok"] or settings.require("num_experts_per_tok", WHOLE),
    )
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
    kinds, known = settings.raw("mlp_layer_types"), ("dense", "sparse")
    if kinds is None:
        first = settings.get_or_default("first_k_dense_replace", COUNT, usual)
        return tuple(range(min(first, n_layer)))
    if not isinstance(kinds, list) or len(kinds) != n_layer or not all(kind in known for kind in kinds):
        raise InputError(f"mlp_layer_types: expected {n_layer} dense or sparse values, found {brief(kinds)}")
    return tuple(i for i, kind in enumerate(kinds) if kind == "dense")


def from_gguf(keys: Settings, sizes: Sizes, scoring: str = "sigmoid") -> Options:
    """Translate the widths of latent attention, RoPE and the experts. In the newer form of files, the usual
    keys describe one key-value head, and the widths of the heads have keys of their own."""
    rope_dim = keys.require("rope.dimension_count", WHOLE)
    whole, value = (keys.require(f"attention.{name}_length", WHOLE) for name in ("key", "value"))
    whole = keys.get("attention.key_length_mla", WHOLE) or whole
    value = keys.get("attention.value_length_mla", WHOLE) or value
    keys.notes.append(f"eps {LATENT_EPS:g} of the norms of latent vectors, as in transformers")
    if whole <= rope_dim:
        raise InputError(f"expected keys of more than {rope_dim} channels, those with RoPE, found {whole}")
    return {
        "q_lora_rank": keys.get("attention.q_lora_rank", WHOLE), "qk_rope_head_dim": rope_dim,
        "kv_lora_rank": keys.require("attention.kv_lora_rank", WHOLE), "v_head_dim": value,
        "qk_nope_head_dim": whole - rope_dim, **gguf_rope(keys, rope_dim, by_all_dims=True),
        **gguf_shared_experts(keys, scoring),
    }  # fmt: skip


def gguf_shared_experts(keys: Settings, scoring: str = "sigmoid") -> Options:
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
WIDTHS = {
    "attn.q": "qk_nope_head_dim", "attn.q_pe": "qk_rope_head_dim", "attn.kv_a": "kv_lora_rank",
    "attn.k_pe": "qk_rope_head_dim", "attn.k": "qk_nope_head_dim", "attn.v": "v_head_dim",
}  # fmt: skip
_KEPT = ("attn_norm", "attn_wo", "mlp_norm", "mlp_wgate", "mlp_wup", "mlp_wdown")
NAMES = replace(
    LLAMA,
    family="a DeepSeek",
    layer={own: theirs for own, theirs in LLAMA.layer.items() if own in _KEPT}
    | {
        "attn_wq_a": ("attn_q_a", "self_attn.q_a_proj"),
        "attn_q_a_norm": ("attn_q_a_norm", "self_attn.q_a_layernorm"),
        "attn_wq_b": ("attn_q_b", "self_attn.q_b_proj"),
        "attn_wq_whole": ("attn_q", "self_attn.q_proj"),
        "attn_wkv_a_mqa": ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
        "attn_kv_a_norm": ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
        "attn_wkv_b": ("attn_kv_b", "self_attn.kv_b_proj"),
        **EXPERTS,
        **SHARED_EXPERTS,
    },
    more={**MORE_EXPERTS, **CORRECTION, "attn_k_b.weight": "attn_wk", "attn_v_b.weight": "attn_wv"},
    turned_in_gguf=("attn_k_b.weight",),
    widths=WIDTHS,
)
MODULES = {
    "self_attn": "attn.out", "mlp.experts": "mlp.mixture", "mlp.shared_experts": "mlp.shared_down",
    "mlp": "mlp.both",
}  # fmt: skip
EXAMPLE = {
    "rope": Rope(1e4),
    "experts": 2,
    "n_layer": 2,
    "dense_layers": (1,),
    "shared_inner": 2,
    "routing_factor": 2.0,
}
V3 = {
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "moe_intermediate_size": 2048, "n_shared_experts": 1, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
    "scoring_func": "sigmoid", "rope_interleave": True,
}  # fmt: skip
V2 = {
    **V3, "moe_intermediate_size": 1407, "n_shared_experts": 2, "n_routed_experts": 64,
    "num_experts_per_tok": None, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 0, "scoring_func": "softmax", "rope_interleave": None,
}  # fmt: skip
LITE = {
    **V3, "q_lora_rank": 768, "v_head_dim": 256, "moe_intermediate_size": 1536, "n_routed_experts": 64,
    "num_experts_per_tok": 4, "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
ATTENTION_BIASES = {"attention_bias": ("attn_bq_a", "attn_bkv_a", "attn_bk_pe", "attn_bo")}


def _like_deepseek(usual: Options, eps: float, nope: int, **others: Any) -> Architecture:
    return Architecture(
        LatentConfig, NAMES, partial(options, usual=usual), MODULES, tied=False, **others,
        sizes={own: key for own, key in SIZES.items() if own != "n_kv_head"}
        | {"head_dim": "qk_nope_head_dim"},
        optional_modules=(
            *OF_SOME_LAYERS, *(module for _, module in SHARED_EXPERTS.values()), "mlp.shared_experts",
            *(f"self_attn.{name}" for name in ("q_a_proj", "q_a_layernorm", "q_b_proj", "q_proj")),
        ),
        defaults={"norm_eps": eps, "head_dim": nope}, example={**EXAMPLE, "query_rank": 2},
        engine_names=ENGINE_NAMES, heads_first=("self_attn.kv_b_proj",),
    )  # fmt: skip


ENGINE_NAMES = {  # llama.cpp's
    f"{name}-#": f"layer#.mlp.{event}" for name, event in (
        ("ffn_moe_probs", "scores"), ("ffn_moe_probs_biased", "corrected"), ("ffn_shexp", "shared_down"),
        ("ffn_out", "both"),
    )
}  # fmt: skip
ARCHITECTURES = {
    "deepseek_v3": _like_deepseek(
        V3, 1e-6, 128, from_gguf=from_gguf, flagged_biases=ATTENTION_BIASES,
    ),
    "deepseek_v2": _like_deepseek(
        V2, 1e-6, 128, from_gguf=partial(from_gguf, scoring="softmax"),
        flagged_biases={**ATTENTION_BIASES, "mlp_bias": FLAGGED_BIASES["mlp_bias"]},
    ),
    # In GGUF files, a glm4_moe_lite is called deepseek2.
    "glm4_moe_lite": _like_deepseek(LITE, 1e-5, 192, flagged_biases=ATTENTION_BIASES),
}  # fmt: skip
