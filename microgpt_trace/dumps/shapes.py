"""The shape that every event of a model has."""

from __future__ import annotations

from ..decoder import Decoder, DecoderConfig
from ..model import Model


def event_shapes(model: Model | Decoder, length: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every forward event for `length` tokens, all positions of the logits included."""
    config = model.config
    width, square = config.n_embd, (config.n_head, length, length)
    queries, keys = width, width
    if isinstance(config, DecoderConfig):
        queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    last = {
        "q": queries, "q_norm": queries, "q_rope": queries, "context": queries,
        "k": keys, "k_norm": keys, "k_rope": keys, "v": keys,
        "gate": config.n_inner, "up": config.n_inner, "act": config.n_inner, "hidden": config.n_inner,
        "logits": config.vocab_size, "probs": config.vocab_size,
    }  # fmt: skip
    parameters = config.shapes()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in model.hooks.specs:
        kind = name.rpartition(".")[2]
        if kind in ("scores", "weights"):
            shapes[name] = square
        elif kind == "loss":
            shapes[name] = ()
        elif name not in parameters:
            shapes[name] = (length, last.get(kind, width))
    return shapes
