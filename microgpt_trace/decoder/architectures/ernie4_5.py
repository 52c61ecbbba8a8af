"""ERNIE 4.5, a Llama whose RoPE turns neighbouring channels, and Hunyuan, which norms q and k after RoPE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import OBJECT, POSITIVE, Options, Settings, Sizes
from . import llama
from .llama import ATTENTION_BIASES, FLAGGED_BIASES, MODULES, NAMES, from_gguf


@frozen(slots=False)
class ErnieConfig(LayeredConfig):
    """The config of an ERNIE 4.5."""

    layout = Layout(adjacent=True)


def normed_after_rope(rows: Blocks, layer: int, q: str, k: str) -> tuple[str, str]:
    """Add norms of the heads of q and k after RoPE."""
    return rows.norms_of_queries_and_keys(q, k, rows.config.head_dim, "rope_norm")


@frozen(slots=False)
class HunyuanConfig(LayeredConfig):
    """The config of a Hunyuan."""

    layout = Layout(turned=normed_after_rope)


def options_of_hunyuan(settings: Settings, sizes: Sizes) -> Options:
    """Read as for a Llama. With a setting `alpha` of dynamic RoPE, only the base changes, as in
    transformers."""
    given = settings.get("rope_parameters", OBJECT) or settings.get("rope_scaling", OBJECT) or {}
    both, dim = Settings({**settings.values, **given}, settings.problems), sizes["head_dim"]
    alpha = both.get("alpha", POSITIVE)
    if alpha is None or given.get("rope_type", given.get("type")) != "dynamic":
        return llama.options(settings, sizes)
    theta = both.get_or_default("rope_theta", POSITIVE, 1e4) * alpha ** (dim / (dim - 2))
    settings.values = {**settings.values, "rope_scaling": None, "rope_theta": theta, "rope_parameters": None}
    return llama.options(settings, sizes)


AFTER_ROPE = ("self_attn.query_layernorm", "self_attn.key_layernorm")
NORMS = {
    "attn_q_rope_norm": ("attn_q_norm", AFTER_ROPE[0]), "attn_k_rope_norm": ("attn_k_norm", AFTER_ROPE[1]),
}  # fmt: skip
ERNIE = replace(NAMES, family="an ERNIE 4.5")
_OTHERS = {own: names for own, names in NAMES.layer.items() if own not in ("attn_q_norm", "attn_k_norm")}
HUNYUAN = replace(NAMES, family="a Hunyuan", layer=_OTHERS | NORMS)
ARCHITECTURES = {
    "ernie4_5": Architecture(
        ErnieConfig, ERNIE, partial(llama.options, theta=5e5), MODULES, from_gguf=from_gguf, tied=True,
        flagged_biases={"use_bias": sum(FLAGGED_BIASES.values(), ())},
        defaults={"head_dim": 128, "n_kv_head": 2, "norm_eps": 1e-5},
    ),
    "hunyuan_v1_dense": Architecture(
        HunyuanConfig, HUNYUAN, options_of_hunyuan, MODULES, from_gguf=from_gguf, tied=False,
        flagged_biases=ATTENTION_BIASES, heads_first=AFTER_ROPE, defaults={"norm_eps": 1e-5},
    ),
}  # fmt: skip
