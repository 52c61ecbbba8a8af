"""Descriptions of events, such as "q after RoPE" for attn.q_rope. This module needs only event names."""

from __future__ import annotations

from collections.abc import Iterable

from .kinds import Activation
from .plan import Operation, kind_of, layer_of

_WORDS = {  # a description of the event, and its name in `apr trace` or ""
    "embed.tok": ("token embedding", ""),
    "embed.pos": ("position embedding", ""),
    "embed.sum": ("sum of the embeddings", ""),
    "embed.scaled": ("scaled embedding", ""),
    "embed.norm": ("norm of the embedding", ""),
    "embed.ple_scaled": ("scaled table of the layer inputs", ""),
    "embed.ple_proj_scaled": ("scaled projection to the layer inputs", ""),
    "embed.ple": ("inputs of all layers", ""),
    "attn.norm": ("norm before attention", "attn_norm"),
    "attn.q_a": ("latent vector of queries", "q_a_proj"),
    "attn.q_a_norm": ("latent vector of queries after its norm", ""),
    "attn.q": ("q", "q_proj"),
    "attn.q_pe": ("part of q for RoPE", ""),
    "attn.kv_a": ("latent vector of keys and values", "kv_a_proj"),
    "attn.kv_a_norm": ("latent vector of keys and values after its norm", ""),
    "attn.k_pe": ("shared part of k for RoPE", ""),
    "attn.k": ("k", "k_proj"),
    "attn.v": ("v", "v_proj"),
    "attn.q_norm": ("q after its norm", ""),
    "attn.k_norm": ("k after its norm", ""),
    "attn.v_norm": ("v after its norm", ""),
    "attn.q_rope": ("q after RoPE", ""),
    "attn.k_rope": ("k after RoPE", ""),
    "attn.q_rope_norm": ("q after RoPE and its norm", ""),
    "attn.k_rope_norm": ("k after RoPE and its norm", ""),
    "attn.q_clipped": ("clipped q", ""),
    "attn.k_clipped": ("clipped k", ""),
    "attn.v_clipped": ("clipped v", ""),
    "attn.q_scaled": ("q times the factor of its position", ""),
    "attn.scores_nope": ("attention scores without position", ""),
    "attn.scores_pe": ("attention scores with position", ""),
    "attn.scores": ("attention scores", ""),
    "attn.capped": ("capped attention scores", ""),
    "attn.biased": ("attention scores with ALiBi", ""),
    "attn.weights": ("attention weights", ""),
    "attn.context": ("attention context", "attn"),
    "attn.out": ("attention output", "o_proj"),
    "attn.post_norm": ("norm of the attention output", ""),
    "attn.scaled": ("scaled attention output", ""),
    "attn.residual": ("residual stream after attention", "residual"),
    "mlp.norm": ("norm before the MLP", "ffn_norm"),
    "mlp.router": ("router logits", "router"),
    "mlp.scores": ("scores of the experts", ""),
    "mlp.corrected": ("corrected scores of the experts", ""),
    "mlp.router_scaled": ("scaled norm before the router", ""),
    "mlp.chosen": ("chosen experts", ""),
    "mlp.shares": ("shares of the experts before their factor", ""),
    "mlp.routing": ("shares of the experts", ""),
    "mlp.gate": ("gate", "gate_proj"),
    "mlp.up": ("up", "up_proj"),
    "mlp.gate_clipped": ("clipped gate", ""),
    "mlp.gate_scaled": ("scaled gate", ""),
    "mlp.up_clipped": ("clipped up, plus 1", ""),
    "mlp.act": ("activation", ""),
    "mlp.act_scaled": ("scaled activation", ""),
    "mlp.hidden": ("activation times up", ""),
    "mlp.down": ("MLP output", "ffn_down"),
    "mlp.mixture": ("sum of the experts", "experts"),
    "mlp.shared_gate": ("gate of the shared expert", ""),
    "mlp.shared_up": ("up of the shared expert", ""),
    "mlp.shared_act": ("activation of the shared expert", ""),
    "mlp.shared_hidden": ("activation times up of the shared expert", ""),
    "mlp.shared_down": ("output of the shared expert", ""),
    "mlp.shared_router": ("logit of the shared expert", ""),
    "mlp.shared_routing": ("share of the shared expert", ""),
    "mlp.shared": ("output of the shared expert times its share", "shared_expert"),
    "mlp.post_norm": ("norm of the MLP output", ""),
    "mlp.scaled": ("scaled MLP output", ""),
    "mlp.both": ("sum of two outputs", ""),
    "mlp.residual": ("residual stream after the MLP", "residual"),
    "mlp.ple_gate": ("gate of the layer input", "ple_gate"),
    "mlp.ple_input": ("input of the layer", ""),
    "mlp.ple_out": ("projection of the layer input", "ple_proj"),
    "mlp.ple_residual": ("residual stream after the layer input", "residual"),
    "mlp.layer_scaled": ("residual stream after the layer scale", "layer_scale"),
    "final.norm": ("final norm", ""),
    "logits.raw": ("product with the output matrix", ""),
    "logits.scaled": ("scaled logits", ""),
    "logits": ("logits", ""),
    "probs": ("probabilities", ""),
    "loss": ("loss", ""),
}


def words_of(name: str) -> str:
    """Return a description of an event, such as "layer 0, q after RoPE"."""
    layer, kind = layer_of(name), kind_of(name)
    words = words_of_kind(kind)
    if kind == "attn.head":
        words = f"output of head {name.rpartition('head')[2]}"
    return words if layer is None else f"layer {layer}, {words}"


def words_of_kind(kind: str) -> str:
    """Return a description of an event without its layer, such as "q after RoPE" for attn.q_rope."""
    return _WORDS[kind][0] if kind in _WORDS else kind


def steps_of(rows: Iterable[Operation]) -> tuple[str, ...]:
    """Return the names of a layer's steps in `apr trace`: attn_norm, q_proj, ..."""
    own = [(row.kind, kind_of(row.name)) for row in rows]
    steps = (
        kind.function if isinstance(kind, Activation) and name == "mlp.act" else _WORDS.get(name, ("", ""))[1]
        for kind, name in own
    )
    return tuple(filter(None, steps))
