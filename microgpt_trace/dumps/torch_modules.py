"""What PyTorch decoders call their modules: a row for each family, and where a model has them.

Knows no torch; a model is known by the names of its modules. Which event a module's output is stands in
engine_names.py, and the plan tells what it reads.
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
    """The modules of a family: those of the stack (embedding, layers, norm), and in a layer by their paths.

    `embedding` are the modules that make what enters the first layer: the first is asked for tokens, and
    `positions` is the one that is asked for positions. `engine` is the family's column in the table of names,
    which has the modules of a layer whose outputs are events; `optional` of them need not be there.
    `rotary` is the function that turns q and k, a global of the attention's Python module. An attention that
    has the attribute `unlike` splits its product otherwise.
    """

    having: str  # in sentences: as they have it
    none_of: str  # in sentences: is none of theirs
    engine: str
    embedding: tuple[str, ...]
    layers: str
    norm: str
    optional: tuple[str, ...]
    attention: str
    activation: str = ""  # where it need be no module
    rotary: str = ""
    positions: str = ""
    unlike: str = ""

    @property
    def stack(self) -> tuple[str, ...]:
        """The modules that stand beside each other."""
        return (*self.embedding, self.layers, self.norm)

    @property
    def parents(self) -> tuple[str, ...]:
        """The paths of what holds the modules of a layer, the layer itself first: ""."""
        return tuple(dict.fromkeys(path.rpartition(".")[0] for path in self.outputs))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The paths of the modules of a layer whose outputs are events, in order of computation."""
        return tuple(path for path, events in names_of(self.engine).items() if "#" in events[0])

    @cached_property
    def taps(self) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
        """Where a layer has its events: the path of a module, whether what it reads is meant, and the events
        with # for the layer. What it reads counts where no module gives it."""
        read = ((path, module_meaning(self.engine, f"{path}.input")) for path in self.outputs)
        return (
            *((path, False, self.in_layer(path)) for path in self.outputs),
            *((path, True, meaning.events) for path, meaning in read if not meaning.second),
            ("", False, self.in_layer()),
        )

    def event(self, name: str) -> str:
        """The event of what a module of the stack gives."""
        return names_of(self.engine)[name][0]

    def in_layer(self, path: str = "") -> tuple[str, ...]:
        """The events, with # for the layer, of what a layer or a module of it gives: several of a product
        whose rows have them side by side, equally wide."""
        return module_meaning(self.engine, path).events


FAMILIES = (
    Modules(
        having="Llama, Mistral, Qwen2 and Qwen3 have",
        none_of="Llama's, Mistral's or Qwen's",
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
        none_of="GPT-2's",
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
    """Where a model has its decoder."""

    family: Modules
    stack: Any  # the module with the embedding, layers and norm
    layers: Sequence[Any]
    head: Any  # None: it has none


def find_decoder(model: Any) -> TorchDecoder:
    """The decoder in a model, by the names of its modules. Raises InputError where there is not one."""
    kind = type(model).__name__
    if not hasattr(model, "named_modules"):
        raise InputError(f"record(): expected a PyTorch model, found {kind}")
    modules = dict(model.named_modules())
    found = {
        name: family
        for name, module in modules.items()
        for family in FAMILIES
        if module._modules.keys() >= set(family.stack)
    }
    if not found:
        known = ", or ".join(
            f"{', '.join(family.stack)} beside each other, as {family.having} them" for family in FAMILIES
        )
        raise InputError(
            f"{kind}: expected a decoder with the modules {known}; found"
            f" {', '.join(list(modules)[1:6]) or 'no modules'} ..."
        )
    if len(found) > 1:
        raise InputError(f"{kind} holds {len(found)} decoders ({', '.join(found)}): record one of them")
    ((name, family),) = found.items()
    layers = list(getattr(modules[name], family.layers))
    for i, layer in enumerate(layers):
        _check_layer(family, f"{name}.{family.layers}.{i}".lstrip("."), layer)
    head = modules[name.rpartition(".")[0]]._modules.get("lm_head") if name else None
    return TorchDecoder(family, modules[name], layers, head)


def expected_events(decoder: TorchDecoder) -> list[str]:
    """The events that a whole pass gives, in the order of the modules."""
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
    """Raises InputError unless the layer has every module that we know, and no other with weights: one
    between those (Gemma's norms after the branches) would change what they mean."""
    for path in family.outputs:
        if path not in family.optional and module_at(layer, path) is None:
            raise InputError(f"{name}: expected a module {path}, as {family.having} it, found none")
    if family.unlike and hasattr(module_at(layer, family.attention), family.unlike):
        raise InputError(f"{name}: the attention splits its product otherwise than {family.none_of}")
    for parent in family.parents:
        for child, module in module_at(layer, parent)._modules.items():
            path = f"{parent}.{child}".lstrip(".")
            known = path in {*family.outputs, *family.parents}
            if not known and module is not None and any(True for _ in module.parameters()):
                raise InputError(f"{name}: the module {path} is none of {family.none_of}")


def module_at(layer: Any, path: str) -> Any:
    """The module at a path below a layer, None where there is none."""
    for name in path.split(".") if path else ():
        layer = None if layer is None else layer._modules.get(name)
    return layer
