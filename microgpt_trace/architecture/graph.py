"""What each event is computed from, in either family. Knows names alone, no values.

An event's kind is its name without its layer and its head: layer3.attn.q is an attn.q, layer0.attn.head2
an attn.head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import LanguageModel

Inputs = Mapping[
    str, tuple[str, ...]
]  # by kind; "stream" is what enters a layer, "last" what leaves the last

_BOTH = {
    "embed.tok": (),
    "attn.norm": ("stream",),
    "attn.q": ("attn.norm",),
    "attn.k": ("attn.norm",),
    "attn.v": ("attn.norm",),
    "attn.weights": ("attn.scores",),
    "attn.context": ("attn.weights", "attn.v"),
    "attn.head": ("attn.context",),
    "attn.out": ("attn.context",),
    "attn.residual": ("stream", "attn.out"),
    "mlp.norm": ("attn.residual",),
    "mlp.up": ("mlp.norm",),
    "mlp.residual": ("attn.residual", "mlp.down"),
    "probs": ("logits",),
    "loss": ("logits",),
}
_MICROGPT = _BOTH | {
    "embed.pos": (),
    "embed.sum": ("embed.tok", "embed.pos"),
    "embed.norm": ("embed.sum",),
    "attn.scores": ("attn.q", "attn.k"),
    "mlp.act": ("mlp.up",),
    "mlp.down": ("mlp.act",),
    "logits": ("last",),
}
_DECODER = _BOTH | {
    "attn.q_rope": ("attn.q",),
    "attn.k_rope": ("attn.k",),
    "attn.scores": ("attn.q_rope", "attn.k_rope"),
    "mlp.gate": ("mlp.norm",),
    "mlp.act": ("mlp.gate",),
    "mlp.hidden": ("mlp.act", "mlp.up"),
    "mlp.down": ("mlp.hidden",),
    "final.norm": ("last",),
    "logits": ("final.norm",),
}
_HEAD_NORMS = {
    "attn.q_norm": ("attn.q",),
    "attn.k_norm": ("attn.k",),
    "attn.q_rope": ("attn.q_norm",),
    "attn.k_rope": ("attn.k_norm",),
}


def microgpt_inputs() -> Inputs:
    """Of a microGPT: learned positions, a norm after the embedding, no gate."""
    return _MICROGPT


def decoder_inputs(head_norms: bool) -> Inputs:
    """Of a decoder with RoPE and a gated MLP; `head_norms`: q and k are normed before they turn."""
    return {**_DECODER, **(_HEAD_NORMS if head_norms else {})}


def inputs_of(inputs: Inputs, name: str, n_layer: int) -> tuple[str, ...]:
    """The events that an event is computed from, by their whole names."""
    return tuple(_whole_name(inputs, kind, layer_of(name), n_layer) for kind in inputs[kind_of(name)])


def _whole_name(inputs: Inputs, kind: str, layer: int | None, n_layer: int) -> str:
    embedded = "embed.norm" if "embed.norm" in inputs else "embed.tok"
    if kind == "stream" and layer is not None:
        return f"layer{layer - 1}.mlp.residual" if layer else embedded
    if kind == "last":
        return f"layer{n_layer - 1}.mlp.residual"
    return f"layer{layer}.{kind}" if kind.startswith(("attn.", "mlp.")) else kind


def kind_of(name: str) -> str:
    """An event's or parameter's name without its layer (and its head): layer3.attn.q -> attn.q"""
    kind = name.partition(".")[2] if name.startswith("layer") else name
    return "attn.head" if kind.startswith("attn.head") else kind


def layer_of(name: str) -> int | None:
    """3 of layer3.attn.q, None of logits"""
    return int(name.partition(".")[0].removeprefix("layer")) if name.startswith("layer") else None


def prefix_of(name: str) -> str:
    """ "layer3." of layer3.attn.q, nothing of logits"""
    layer = layer_of(name)
    return "" if layer is None else f"layer{layer}."


def stream_before(model: LanguageModel, layer: int) -> str:
    """The event that enters a layer."""
    return _whole_name(model.inputs, "stream", layer, model.config.n_layer)


def forward_names(model: LanguageModel) -> list[str]:
    """The events of a forward pass in order of computation, without parameters."""
    parameters = model.config.shapes()
    return [name for name in model.hooks.specs if name not in parameters]


def readers_of(model: LanguageModel) -> dict[str, tuple[str, ...]]:
    """Which events read each event, in order of computation. A head is read by attn.out."""
    inputs, names = model.inputs, forward_names(model)
    readers: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for source in inputs_of(inputs, name, model.config.n_layer):
            readers[source].append(name)
        if kind_of(name) == "attn.head":
            readers[name].append(f"layer{layer_of(name)}.attn.out")
    return {name: tuple(found) for name, found in readers.items()}
