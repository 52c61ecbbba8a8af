"""The parts of an event's name, such as the layer and the stage of layer3.attn.q."""

from __future__ import annotations

import re

_LAYER = re.compile(r"layer([0-9]+)\.")


def kind_of(name: str) -> str:
    """Return a name without its layer and without the number of its head: layer3.attn.q -> attn.q"""
    kind = name.partition(".")[2] if name.startswith("layer") else name
    return "attn.head" if kind.startswith("attn.head") else kind


def layer_of(name: str) -> int | None:
    """Return the layer in a name: 3 for layer3.attn.q, None for logits."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def prefix_of(name: str) -> str:
    """Return the prefix that names the layer, such as "layer3." for layer3.attn.q, or "" for logits."""
    layer = layer_of(name)
    return "" if layer is None else f"layer{layer}."


def over_tokens(name: str) -> bool:
    """Return True if an event has a number for each token: the logits, also before a factor or a cap
    (logits.raw), and the probabilities. A run may compute these events at only some positions."""
    return name.partition(".")[0] in ("logits", "probs")


def stage_of(name: str) -> str:
    """Return the stage of an event or a parameter. The name may begin with a layer."""
    kind = kind_of(name)
    if kind.startswith(("attn", "mlp")):
        return "attention" if kind.startswith("attn") else "mlp"
    return "embedding" if kind.startswith("embed") or kind in ("wte", "wpe") else "head"
