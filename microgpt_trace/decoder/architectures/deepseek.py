"""DeepSeek V2 and V3, and GLM-4.7-Flash: latent attention, and the mixtures of experts of GLM-4.5.

DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model" (2024), sec.
2.1, describes the attention.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.kinds import Add, Rotation, Scores
from ...plans.rope import yarn_attention_factor
from ...text.frozen import frozen
from ..architecture import SIZES, Architecture
from ..layered_plan import Layout
from ..settings import FLAG, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import gguf_rope, read_rope
from . import glm4_moe
from .glm4_moe import SigmoidRoutedConfig
from .llama import FLAGGED_BIASES
from .llama import NAMES as LLAMA
from .mixtral import EXPERTS, MORE_EXPERTS
from .qwen3_moe import OF_SOME_LAYERS

LATENT_EPS = 1e-6  # of the norms of latent vectors in transformers, whatever the eps of the other norms


@frozen(slots=False)
class LatentConfig(SigmoidRoutedConfig):
    """The config of a DeepSeek. `head_dim` is the number of channels of q and k without RoPE."""

    query_rank: int | None = None  # the width of the latent vector of queries; None means no latent vector
    latent_rank: int = 1  # the width of the latent vector of keys and values
    rope_dim: int = 2  # the channels of q with RoPE, and of the key with RoPE that all heads share
    value_dim: int = 1
    pairs_adjacent: bool = True
    score_factor: float = 1.0  # multiplies the scores in YaRN

    @property
    def layout(self) -> Layout:
        return Layout(mlp=self.mlp, attention=self.attention)

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
        kind = Rotation(self.rope, rope_dim, rope_dim, self.pairs_adjacent)
        words = " [pairs of neighbours]" * self.pairs_adjacent
        turned = [
            rows.add(f"attn.{n}_rope", kind, own, expr=f"{n}_pe = RoPE({n}_pe, position){words}")
            for n, own in (("q", q_pe), ("k", k_pe))
        ]
        scale = self.score_factor / math.sqrt(dim + rope_dim)
        plain, with_rope = Scores(dim, tuple(heads), scale), Scores(rope_dim, (0,) * len(heads), scale)
        parts = (
            rows.add("attn.scores_nope", plain, q, k, expr=f"scores = q @ k.T * {scale:.6g}"),
            rows.add("attn.scores_pe", with_rope, *turned, expr=f"scores = q_pe @ k_pe.T * {scale:.6g}"),
        )
        scores = rows.add("attn.scores", Add(), *parts, expr="scores = q @ k.T + q_pe @ k_pe.T, scaled")
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
        "latent_rank": settings.get_or_default("kv_lora_rank", WHOLE, usual["kv_lora_rank"]),
        "rope_dim": settings.get_or_default("qk_rope_head_dim", WHOLE, usual["qk_rope_head_dim"]),
        "value_dim": settings.get_or_default("v_head_dim", WHOLE, usual["v_head_dim"]),
        **glm4_moe.read_routing(settings, sizes, usual),
    }  # fmt: skip


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
        **glm4_moe.gguf_routing(keys, scoring),
    }  # fmt: skip


WIDTHS = {
    "attn.q": "qk_nope_head_dim", "attn.q_pe": "qk_rope_head_dim", "attn.kv_a": "kv_lora_rank",
    "attn.k_pe": "qk_rope_head_dim", "attn.k": "qk_nope_head_dim", "attn.v": "v_head_dim",
}  # fmt: skip
NAMES = LLAMA.changed(
    "a DeepSeek",
    ("attn_wq", "attn_wk", "attn_wv", "attn_q_norm", "attn_k_norm"),
    layer={
        "attn_wq_a": ("attn_q_a", "self_attn.q_a_proj"),
        "attn_q_a_norm": ("attn_q_a_norm", "self_attn.q_a_layernorm"),
        "attn_wq_b": ("attn_q_b", "self_attn.q_b_proj"),
        "attn_wq_whole": ("attn_q", "self_attn.q_proj"),
        "attn_wkv_a_mqa": ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
        "attn_kv_a_norm": ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
        "attn_wkv_b": ("attn_kv_b", "self_attn.kv_b_proj"),
        **EXPERTS,
        **glm4_moe.SHARED_EXPERTS,
    },
    more={**MORE_EXPERTS, **glm4_moe.CORRECTION, "attn_k_b.weight": "attn_wk", "attn_v_b.weight": "attn_wv"},
    turned_in_gguf=("attn_k_b.weight",),
    widths=WIDTHS,
)
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
        LatentConfig, NAMES, partial(options, usual=usual), glm4_moe.MODULES, tied=False, **others,
        sizes={own: key for own, key in SIZES.items() if own != "n_kv_head"}
        | {"head_dim": "qk_nope_head_dim"},
        optional_modules=(
            *OF_SOME_LAYERS, *glm4_moe.OF_SHARED,
            *(f"self_attn.{name}" for name in ("q_a_proj", "q_a_layernorm", "q_b_proj", "q_proj")),
        ),
        defaults={"norm_eps": eps, "head_dim": nope}, example={**glm4_moe.EXAMPLE, "query_rank": 2},
        engine_names=glm4_moe.ENGINE_NAMES, heads_first=("self_attn.kv_b_proj",),
    )  # fmt: skip


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
