"""Find the decoder in a PyTorch model by the names of modules. This file does not import torch.

module_names.py has the events that each module returns and reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from ..architecture.plans.kinds import Activation, Lookup, Rotation
from ..architecture.plans.plan import stage_of
from ..decoder.catalogue import families
from ..errors import InputError
from .event_names import numbered
from .module_names import LAST_OUTPUT, LAYER_INPUT, Events, ModuleNames, modules_of, of_any_layer

HEADS = ("lm_head", "embed_out")
ROTARY = "apply_rotary_pos_emb"  # the function that rotates q and k, in the Python module of the attention
OTHER_SPLIT = "multi_query"  # an attribute of attentions that split the fused product in an unsupported way


@dataclass(frozen=True, eq=False)
class TorchFamily:
    """The modules of an architecture, relative to the stack and to a layer. The stack is the module whose
    children are the embedding, the layers and the last norm."""

    names: ModuleNames

    @cached_property
    def outside(self) -> dict[str, str]:
        """The event of each module of the stack outside of layers, by the name of the module."""
        outside: dict[str, str] = {}  # a dropout returns the event of another module again
        for path, events in (*self.names.returned.items(), *self.names.other.items()):
            if "#" not in path and path not in HEADS and events[0] not in outside.values():
                outside[path.rpartition(".")[2]] = events[0]
        return outside

    @cached_property
    def embedding(self) -> tuple[str, ...]:
        """The modules before layer 0. The first module reads the tokens."""
        return tuple(name for name, event in self.outside.items() if stage_of(event) == "embedding")

    @cached_property
    def positions(self) -> str:
        """The module that reads the positions, or ""."""
        rows = {row.name for row in self.names.plan.of_kind(Lookup) if row.kind.by == "positions"}
        return next((name for name, event in self.outside.items() if event in rows), "")

    @cached_property
    def norm(self) -> str:
        """The last norm."""
        return next(name for name in self.outside if name not in self.embedding)

    @cached_property
    def layers(self) -> str:
        """The module that contains the layers."""
        return self.names.layers.removesuffix(".#").rpartition(".")[2]

    @property
    def stack(self) -> tuple[str, ...]:
        """The names of the children of the stack."""
        return (*self.embedding, self.layers, self.norm)

    @cached_property
    def outputs(self) -> dict[str, Events]:
        """The events of each module in a layer, by path, without modules that only contain other modules or
        return their input."""
        returned = {event for events in self.names.returned.values() for event in events}
        others: dict[Events, str] = {}  # modules inside of modules are listed first
        for path, own in sorted(self.names.other.items(), key=lambda item: -len(item[0])):
            if own[0] not in returned:
                others.setdefault(own, path)
        every = {**self.names.returned, **{path: own for own, path in others.items()}}
        prefix = f"{self.names.layers}."
        return {path.removeprefix(prefix): own for path, own in every.items() if path.startswith(prefix)}

    @cached_property
    def taps(self) -> tuple[tuple[str, bool, Events], ...]:
        """The inputs and outputs to record in a layer. A tuple contains the path of a module, True for the
        input or False for the output, and the events (# stands for the layer number). An input is listed only
        if no module returns the event."""
        layer = self.names.other[self.names.layers]
        known = {LAYER_INPUT, LAST_OUTPUT, *layer, *(event for own in self.outputs.values() for event in own)}
        read: dict[str, str] = {}
        for path in self.outputs:
            event = self.names.read.get(f"{self.names.layers}.{path}")
            if event and event not in known:
                read.setdefault(event, path)
        return (
            *((path, False, events) for path, events in self.outputs.items()),
            *((path, True, (event,)) for event, path in read.items()),
            ("", False, layer),
        )

    def has(self, layer: Any, path: str) -> bool:
        """Return True if a layer has the module at a path, and the module inside that computes first."""
        first = self.names.first_in(f"{self.names.layers}.{path}".rstrip("."))
        paths = (path, first.removeprefix(f"{self.names.layers}.")) if path else ("",)
        return all(module_at(layer, own) is not None for own in paths)

    @cached_property
    def attention(self) -> str:
        """The path of the attention in a layer."""
        return next(path for path, event in self.names.architecture.modules.items() if event == "attn.out")

    @cached_property
    def activation(self) -> str:
        """The event of the MLP's function, which is a module in some versions of transformers only."""
        return of_any_layer(self.names.plan.of_kind(Activation)[0].name)

    @cached_property
    def rotary(self) -> str:
        """The name of the function that rotates q and k, or ""."""
        return ROTARY if self.names.plan.of_kind(Rotation) else ""

    def problem(self, layer: Any) -> str:
        """Return why a layer does not belong to the architecture, or "". Other modules with parameters change
        the meaning of the outputs, such as Gemma's norms after attention and MLP."""
        family, optional = self.names.architecture.names.family, self.names.architecture.optional_modules
        for path in self.outputs:
            needed = f"{self.names.layers}.{path}" in self.names.returned and path not in optional
            if needed and module_at(layer, path) is None:
                return f"expected a module {path}, as in {family}, found none"
        if hasattr(module_at(layer, self.attention), OTHER_SPLIT):
            return f"the attention does not split q, k and v like {family}"
        return next((f"the module {path} is not part of {family}" for path in self._unknown(layer)), "")

    def _unknown(self, layer: Any) -> Iterator[str]:
        parents = dict.fromkeys(path.rpartition(".")[0] for path in self.outputs)  # "" is the layer itself
        for parent in parents:
            inner = module_at(layer, parent)
            for child, module in ({} if inner is None else inner._modules).items():
                path = f"{parent}.{child}".lstrip(".")
                expected = path in {*self.outputs, *parents}
                if not expected and module is not None and any(True for _ in module.parameters()):
                    yield path


@dataclass(frozen=True, eq=False)
class TorchDecoder:
    """The decoder in a model."""

    family: TorchFamily
    stack: Any  # the module with the embedding, layers and norm
    layers: Sequence[Any]
    head: Any  # None for a model without a head
    whole: Any  # the module with the stack and the head, or None if the stack is the whole model


def find_decoder(model: Any) -> TorchDecoder:
    """Find the decoder in a model by the names of modules. Raises InputError unless the model contains
    exactly one decoder."""
    kind = type(model).__name__
    if not hasattr(model, "named_modules"):
        raise InputError(f"record(): expected a PyTorch model, found {kind}")
    modules = dict(model.named_modules())
    known = [TorchFamily(modules_of(name)) for name in families()]
    stacks = {
        name: fitting
        for name, module in modules.items()
        if (fitting := [family for family in known if module._modules.keys() >= set(family.stack)])
    }
    if not stacks:
        ways: dict[tuple[str, ...], str] = {}
        for family in known:
            ways.setdefault(family.stack, family.names.architecture.names.family)
        expected = [f"{', '.join(stack)}, as in {family}" for stack, family in ways.items()]
        raise InputError(
            f"{kind}: expected a module with the children {', or '.join(expected)}; found"
            f" {', '.join(list(modules)[1:6]) or 'no modules'} ..."
        )
    if len(stacks) > 1:
        raise InputError(f"{kind} has {len(stacks)} decoders ({', '.join(stacks)}): record one of them")
    ((name, fitting),) = stacks.items()
    family, layers = _fitting(modules[name], name, fitting)
    whole = modules[name.rpartition(".")[0]] if name else None
    head = None if whole is None else next(filter(None, map(whole._modules.get, HEADS)), None)
    return TorchDecoder(family, modules[name], layers, head, whole)


def _fitting(stack: Any, name: str, families: Sequence[TorchFamily]) -> tuple[TorchFamily, list[Any]]:
    """Return the first family whose modules the layers have, and the layers. The family that the config of
    the stack names comes first. Raises InputError if the layers have other modules than each family."""
    problems, kind = [], getattr(getattr(stack, "config", None), "model_type", None)
    for family in sorted(families, key=lambda family: kind not in family.names.types):
        layers = list(getattr(stack, family.layers))
        found = [(i, what) for i, own in enumerate(layers) if (what := family.problem(own))]
        if not found:
            return family, layers
        problems += [f"{name}.{family.layers}.{i}: {what}".lstrip(".") for i, what in found]
    raise InputError(problems[0])


def expected_events(decoder: TorchDecoder) -> list[str]:
    """Return the events that a complete forward pass computes, in the order of the modules."""
    family = decoder.family
    expected = [family.outside[name] for name in family.embedding]
    for i, layer in enumerate(decoder.layers):
        taken = [events for path, _, events in family.taps if family.has(layer, path)]
        expected += [numbered(event, i) for event in chain(*taken)]
    return [*expected, family.outside[family.norm]]


def module_at(layer: Any, path: str) -> Any:
    """Return the module at a path in a layer, or None if the path does not exist."""
    for name in path.split(".") if path else ():
        layer = None if layer is None else layer._modules.get(name)
    return layer
