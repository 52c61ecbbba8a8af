"""Translate GGUF metadata to keys of config.json: RoPE. Keys of metadata are given without the prefix."""

from __future__ import annotations

from typing import Any

from ..architecture.plans.rope import yarn_attention_factor
from ..errors import InputError
from ..text.brief import brief
from .settings import POSITIVE, TEXT, WHOLE, Settings

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"  # tensors with divisors of longrope
LLAMA_CPP = "the default of llama.cpp"


def gguf_rope(keys: Settings, head_dim: int, partial: bool = False) -> dict[str, Any]:
    """Translate the base and the scaling of RoPE, and the rotated channels of a head. Unless `partial` is
    true, RoPE must turn all `head_dim` channels."""
    size = keys.get("rope.dimension_count", WHOLE) or head_dim
    if size != head_dim and not partial:
        raise InputError(f"rope.dimension_count {size} differs from the {head_dim} channels of a head")
    theta = keys.get_or_default("rope.freq_base", POSITIVE, 10000.0, LLAMA_CPP)
    kind = keys.get("rope.scaling.type", TEXT)
    factor = keys.get("rope.scaling.factor", POSITIVE) or keys.get("rope.scale_linear", POSITIVE)
    if kind is None and factor not in (None, 1):
        why = f"{LLAMA_CPP} if the file has a factor"
        kind = keys.get_or_default("rope.scaling.type", TEXT, "linear", why)
    scaling: dict[str, Any] = {}
    if kind != "yarn" and (keys.get("rope.scaling.attn_factor", POSITIVE) or 1) != 1:
        raise InputError("rope.scaling.attn_factor is only supported with yarn")
    if kind == "linear":
        scaling = {"type": kind, "factor": factor}
    elif kind == "yarn":
        scaling = {"type": kind, "factor": factor} | _yarn(keys, factor)
    elif kind not in (None, "none"):
        raise InputError(f"RoPE scaling {brief(kind)} is not supported; supported: none, linear, yarn")
    share = {"partial_rotary_factor": size / head_dim} if partial else {}
    return {"rope_theta": theta, "rope_scaling": scaling, **share}


def _yarn(keys: Settings, factor: float | None) -> dict[str, float]:
    """Return all settings of yarn except `factor`.

    Raises InputError if yarn_attn_factor is not 1, because engines interpret other values in two ways.
    """
    for key, neutral in (("yarn_log_multiplier", 0), ("yarn_ext_factor", 1), ("yarn_attn_factor", 1)):
        value = keys.values.get(f"{keys.prefix}rope.scaling.{key}", neutral)
        if type(value) not in (int, float) or value != neutral:
            raise InputError(f"RoPE yarn with {key} {brief(value)} is not supported")
    original = keys.require("rope.scaling.original_context_length", WHOLE)
    why = "the value that yarn's authors recommend"
    betas = {
        name: keys.get_or_default(f"rope.scaling.yarn_{name}", POSITIVE, default, why)
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    }
    extra = keys.get("rope.scaling.attn_factor", POSITIVE) or 1.0
    attention = extra * yarn_attention_factor(factor or 1.0)
    return {"original_max_position_embeddings": original, "attention_factor": attention, **betas}
