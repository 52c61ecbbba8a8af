"""Find the decoder in a PyTorch model by the names of modules. Each family of models uses other names.

This file does not import torch. engine_names.py lists the event that each module returns, and the plan lists
the events that the module reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InputError
from .event_names import module_meaning, names_of, numbered


@dataclass(frozen=True)
class Modules:
    """The names of a family's modules: the stack (embedding, layers, norm), and the modules in a layer.

    - `embedding`: the modules before layer 0. The first module reads the tokens.
    - `positions`: the module that reads the positions.
    - `engine`: the family's column in `engine_names.NAMES`, which lists modules whose outputs are events.
    - `optional`: the modules that may be missing in a layer.
    - `rotary`: the global function that rotates q and k, in the Python module of the attention class.
    - `unlike`: an attribute of attentions that split the fused product in an unsupported way.
    """

    having: str  # words for messages: "GPT-2 has"
    family: str  # name for messages: "GPT-2"
    engine: str
    embedding: tuple[str, ...]
    layers: str
    norm: str
    optional: tuple[str, ...]
    attention: str
    activation: str = ""  # the path of an activation that may be a function instead of a module
    rotary: str = ""
    positions: str = ""
    unlike: str = ""

    @property
    def stack(self) -> tuple[str, ...]:
        """The names of the modules of the stack, which are children of one module."""
        return (*self.embedding, self.layers, self.norm)

    @property
    def parents(self) -> tuple[str, ...]:
        """The path of the parent of each module in `outputs`. The path "" is the layer itself."""
        return tuple(dict.fromkeys(path.rpartition(".")[0] for path in self.outputs))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The paths of the modules in a layer whose outputs are events, in order of computation."""
        return tuple(path for path, events in names_of(self.engine).items() if "#" in events[0])

    @cached_property
    def taps(self) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
        """The inputs and outputs to record in a layer. A tuple contains the path of a module, True for the
        input or False for the output, and the events (# stands for the layer number). An input is listed only
        if no module returns the event."""
        read = ((path, module_meaning(self.engine, f"{path}.input")) for path in self.outputs)
        return (
            *((path, False, self.in_layer(path)) for path in self.outputs),
            *((path, True, meaning.events) for path, meaning in read if not meaning.second),
            ("", False, self.in_layer()),
        )

    def event(self, name: str) -> str:
        """Return the event that a module of the stack returns."""
        return names_of(self.engine)[name][0]

    def in_layer(self, path: str = "") -> tuple[str, ...]:
        """Return the events that a layer or a module in a layer returns. # stands for the layer number.

        A fused product contains several events side by side, all of the same width.
        """
        return module_meaning(self.engine, path).events


FAMILIES = (
    Modules(
        having="Llama, Mistral, Qwen2 and Qwen3 have",
        family="Llama, Mistral or Qwen",
        engine="transformers",
        embedding=("embed_tokens",),
        layers="layers",
        norm="norm",
        optional=("self_attn.q_norm", "self_attn.k_norm", "mlp.act_fn"),
        attention="self_attn",
        activation="mlp.act_fn",
        rotary="apply_rotary_pos_emb",
    ),
    Modules(
        having="GPT-2 has",
        family="GPT-2",
        engine="GPT-2",
        embedding=("wte", "wpe", "drop"),
        layers="h",
        norm="ln_f",
        optional=(),
        attention="attn",
        positions="wpe",
        unlike="multi_query",
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TorchDecoder:
    """The decoder in a model."""

    family: Modules
    stack: Any  # the module with the embedding, layers and norm
    layers: Sequence[Any]
    head: Any  # None for a model without a head


def find_decoder(model: Any) -> TorchDecoder:
    """Find the decoder in a model by the names of modules. Raises InputError unless the model contains
    exactly one decoder."""
    kind = type(model).__name__
    if not hasattr(model, "named_modules"):
        raise InputError(f"record(): expected a PyTorch model, found {kind}")
    modules = dict(model.named_modules())
    decoders = {
        name: family
        for name, module in modules.items()
        for family in FAMILIES
        if module._modules.keys() >= set(family.stack)
    }
    if not decoders:
        expected = ", or ".join(f"{', '.join(family.stack)}, as {family.having}" for family in FAMILIES)
        raise InputError(
            f"{kind}: expected a module with the children {expected}; found"
            f" {', '.join(list(modules)[1:6]) or 'no modules'} ..."
        )
    if len(decoders) > 1:
        raise InputError(f"{kind} has {len(decoders)} decoders ({', '.join(decoders)}): record one of them")
    ((name, family),) = decoders.items()
    layers = list(getattr(modules[name], family.layers))
    for i, layer in enumerate(layers):
        _check_layer(family, f"{name}.{family.layers}.{i}".lstrip("."), layer)
    head = modules[name.rpartition(".")[0]]._modules.get("lm_head") if name else None
    return TorchDecoder(family, modules[name], layers, head)


def expected_events(decoder: TorchDecoder) -> list[str]:
    """Return the events that a complete forward pass computes, in the order of the modules."""
    family = decoder.family
    layers = [
        numbered(event, i)
        for i, layer in enumerate(decoder.layers)
        for path, _, events in family.taps
        if module_at(layer, path) is not None
        for event in events
    ]
    return [*map(family.event, family.embedding), *layers, family.event(family.norm)]


def _check_layer(family: Modules, name: str, layer: Any) -> None:
    """Raise InputError unless the layer has every required module, and no other module with weights.

    Other modules, such as Gemma's norms after attention and MLP, change the meaning of the outputs.
    """
    for path in family.outputs:
        if path not in family.optional and module_at(layer, path) is None:
            raise InputError(f"{name}: expected a module {path}, as {family.having}, found none")
    if family.unlike and hasattr(module_at(layer, family.attention), family.unlike):
        raise InputError(f"{name}: the attention does not split q, k and v as {family.family} does")
    for parent in family.parents:
        for child, module in module_at(layer, parent)._modules.items():
            path = f"{parent}.{child}".lstrip(".")
            expected = path in {*family.outputs, *family.parents}
            if not expected and module is not None and any(True for _ in module.parameters()):
                raise InputError(f"{name}: the module {path} is not part of {family.family}")


def module_at(layer: Any, path: str) -> Any:
    """Return the module at a path in a layer, or None if the path does not exist."""
    for name in path.split(".") if path else ():
        layer = None if layer is None else layer._modules.get(name)
    return layer
