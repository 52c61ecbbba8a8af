"""The shape that every event of a model has, and the order of its channels in other engines."""

from __future__ import annotations

from ..arrays.stats import Array
from .model import LanguageModel

_OF_ROWS = {  # the matrix whose rows an event's channels are
    **dict.fromkeys(("q", "q_norm", "q_rope"), "attn_wq"),
    **dict.fromkeys(("k", "k_norm", "k_rope"), "attn_wk"),
}


def event_shapes(model: LanguageModel, length: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every forward event for `length` tokens, all positions of the logits included."""
    config = model.config
    width, square = config.n_embd, (config.n_head, length, length)
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


def file_order(model: LanguageModel | None, name: str) -> Array | None:
    """For each channel of q or k where an engine has it that computes with rows as the model's file has them;
    None for other events, and where the file has them in our order."""
    layer, _, kind = name.rpartition("attn.")
    tensor = model.tensors.get(layer + _OF_ROWS[kind]) if model is not None and kind in _OF_ROWS else None
    return tensor.order if tensor is not None and tensor.permuted else None
