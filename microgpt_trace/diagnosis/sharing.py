"""Sharing: which operations two sets of rules work out alike, so that one value serves for both."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import fields

from ..architecture.plan import kind_of
from .operations import inputs_of
from .rules import Rules

_NORM = (
    "eps", "eps_outside", "centred", "norm_power", "norm_exponent", "norm_summed", "per_head", "rotation",
    "rotation_before_norm",
)  # fmt: skip
_ROPE = (*_NORM, "norm_after_rotation")
# What of the rules an operation goes by, besides its inputs and what stands in the place of its parameters.
_GOES_BY: Mapping[str, tuple[str, ...]] = {
    "embed.tok": ("tokens", "rows_of_tokens", "embedding_scale"),
    "embed.pos": ("tokens", "position_offset"),
    "attn.q_rope": _ROPE,
    "attn.k_rope": _ROPE,
    "attn.scores": ("scale", "group", "caps"),
    "attn.weights": ("windows", "ahead", "softmax_base", "softmax_axis"),
    "attn.context": ("group", "group_of_values"),
    "mlp.act": ("activation", "act"),
    "logits": ("caps",),
    "loss": ("tokens",),
    **dict.fromkeys(("embed.sum", "attn.residual", "mlp.residual"), ("parts",)),
    **dict.fromkeys(("attn.q", "attn.k", "attn.v", "attn.head", "attn.out"), ()),
    **dict.fromkeys(("mlp.gate", "mlp.up", "mlp.hidden", "mlp.down", "probs"), ()),
}


def alike(
    one: Rules, other: Rules, names: Iterable[str], given: Container[str], behind: Mapping[str, str]
) -> set[str]:
    """The names, in order of computation, whose values are the same under both rules.

    Of `given` events the values are given; `behind` are the matrices of products.
    """
    changed = {f.name for f in fields(Rules) if getattr(one, f.name) is not getattr(other, f.name)}
    instead = one.instead.items() ^ other.instead.items()
    parameters = {name for name, _ in instead}
    same = set[str]()
    for name in names:
        kind = kind_of(name)
        sources = inputs_of(other, name)
        if (
            sources == inputs_of(one, name)
            and all(source in given or source in same for source in sources)
            and not changed.intersection(_GOES_BY.get(kind, _NORM))
            and not parameters.intersection(_parameters(kind, behind))
        ):
            same.add(name)
    return same


def _parameters(kind: str, behind: Mapping[str, str]) -> tuple[str, ...]:
    """The parameters that an operation may have: its matrix and bias, or its gain; q and k turned late."""
    matrix = "attn_wo" if kind == "attn.head" else behind.get(kind)
    if matrix is not None:
        return matrix, matrix.replace("_w", "_b")
    if kind.endswith("_rope"):
        return (kind.replace(".", "_").replace("_rope", "_norm"),)
    return "wte" if kind == "embed.tok" else "wpe", kind.replace(".", "_")
