"""What events are called, by their names without layer and head. Knows names alone."""

from __future__ import annotations

from .plan import kind_of, layer_of

WORDS = {
    "embed.tok": "token embedding", "embed.pos": "position embedding", "embed.sum": "sum of the embeddings",
    "embed.norm": "norm of the embedding", "attn.norm": "norm before attention", "attn.q": "q", "attn.k": "k",
    "attn.v": "v", "attn.q_norm": "q after its norm", "attn.k_norm": "k after its norm",
    "attn.q_rope": "q after RoPE", "attn.k_rope": "k after RoPE", "attn.scores": "attention scores",
    "attn.weights": "attention weights", "attn.context": "attention context", "attn.out": "attention output",
    "attn.residual": "stream after attention", "mlp.norm": "norm before the MLP", "mlp.gate": "gate",
    "mlp.up": "up", "mlp.act": "activation", "mlp.hidden": "activation times up", "mlp.down": "MLP output",
    "mlp.residual": "stream after the MLP", "final.norm": "final norm", "logits": "logits",
    "probs": "probabilities", "loss": "loss",
}  # fmt: skip


def words_of(name: str) -> str:
    """An event as an engineer calls it: "layer 0, q after RoPE"."""
    layer, kind = layer_of(name), kind_of(name)
    words = words_of_kind(kind)
    if kind == "attn.head":
        words = f"share of head {name.rpartition('head')[2]}"
    return words if layer is None else f"layer {layer}, {words}"


def words_of_kind(kind: str) -> str:
    """An event without its layer, in words: "q after RoPE" of attn.q_rope"""
    return WORDS.get(kind, kind)
