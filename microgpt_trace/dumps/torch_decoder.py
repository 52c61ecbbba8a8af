"""Find the decoder in a PyTorch model by the names of its modules.

This file does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ..decoder.catalogue import families
from ..errors import InputError
from ..naming.torch_modules import HEADS, ModuleNames, modules_of, numbered
from ..plans.plan import kind_of
from ..text.frozen import frozen

OTHER_SPLIT = "multi_query"  # an attribute of attentions that split the fused product in an unsupported way


@frozen(slots=False, eq=False)
class TorchDecoder:
    """The decoder in a model."""

    family: ModuleNames
    stack: Any  # the module with the embedding, layers and norm
    layers: Sequence[Any]
    head: Any  # None for a model without a head
    whole: Any  # the module with the head, or else the stack's parent; None if the stack is the whole model

    @property
    def last_event(self) -> str:
        """The event of the last norm, which the stack computes last."""
        return self.family.outside[self.family.norm]

    @property
    def embedding(self) -> list[str]:
        """The modules before layer 0 that the model has. The first module reads the tokens."""
        return [name for name in self.family.embedding if name in self.stack._modules]

    def parts(self, events: Sequence[str], tensor: Any) -> Iterator[tuple[str, Any]]:
        """Yield each event in the output of a module, and its part. A fused product contains q, k and v, or
        gate and up, or other parts of heads."""
        if len(events) == 1:
            yield events[0], tensor
            return
        config, names = getattr(self.stack, "config", None), self.family.architecture.names
        widths = [tensor.shape[-1] // len(events)] * len(events)
        if names.widths:
            widths = [getattr(config, names.widths[kind_of(event)]) for event in events]
        elif len(events) == 3:
            queries = getattr(config, "num_attention_heads", 1)
            dim = getattr(config, "head_dim", None) or getattr(config, "hidden_size", widths[0]) // queries
            keys = (tensor.shape[-1] // dim - queries) // 2
            count = keys if names.by_head else 1
            widths = [queries // count * dim, *[keys // count * dim] * 2]
        groups = tensor.unflatten(-1, (-1, sum(widths))).split(widths, -1)
        yield from zip(events, (part.flatten(-2) for part in groups), strict=True)

    def has(self, layer: Any, path: str, needs: Sequence[str] = ()) -> bool:
        """Return True if a layer has the module at a path, the module inside that computes first, and the
        modules that it `needs`."""
        outer = f"{self.family.layers}."
        first = self.family.first_in(outer + path).removeprefix(outer) if path else ""
        return all(module_at(layer, own) is not None for own in (path, first, *needs))


def find_decoder(model: Any) -> TorchDecoder:
    """Find the decoder in a model by the names of modules. Raises InputError unless the model contains
    exactly one decoder."""
    kind = type(model).__name__
    if not hasattr(model, "named_modules"):
        raise InputError(f"record(): expected a PyTorch model, found {kind}")
    modules = dict(model.named_modules())
    known = [modules_of(name) for name in families()]
    stacks = {
        name: fitting
        for name, module in modules.items()
        if (fitting := [family for family in known if module._modules.keys() >= set(family.stack)])
    }
    if not stacks:
        ways: dict[tuple[str, ...], str] = {}
        for family in known:
            ways.setdefault(family.stack, family.architecture.names.family)
        expected = [f"{', '.join(stack)}, as in {family}" for stack, family in ways.items()]
        raise InputError(
            f"{kind}: expected a module with the children {', or '.join(expected)}; found"
            f" {', '.join(list(modules)[1:6]) or 'no modules'} ..."
        )
    if len(stacks) > 1:
        raise InputError(f"{kind} has {len(stacks)} decoders ({', '.join(stacks)}): record one of them")
    ((name, fitting),) = stacks.items()
    family, layers = _fitting(modules[name], name, fitting)
    around = [modules[name[:at]] for at in range(len(name)) if not at or name[at] == "."][::-1]
    heads = [(head, whole) for whole in around for own in HEADS if (head := whole._modules.get(own))]
    head, whole = next(iter(heads), (None, next(iter(around), None)))
    return TorchDecoder(family, modules[name], layers, head, whole)


def _fitting(stack: Any, name: str, families: Sequence[ModuleNames]) -> tuple[ModuleNames, list[Any]]:
    """Return the first family whose modules the layers have, and the layers. The family that the config of
    the stack names comes first. Raises InputError if the layers have other modules than each family."""
    problems, kind = [], getattr(getattr(stack, "config", None), "model_type", None)
    for family in sorted(families, key=lambda family: kind not in family.types):
        layers = list(getattr(stack, family.blocks))
        found = [(i, what) for i, own in enumerate(layers) if (what := _problem(family, own))]
        if not found:
            return family, layers
        problems += [f"{name}.{family.blocks}.{i}: {what}".lstrip(".") for i, what in found]
    raise InputError(problems[0])


def _problem(names: ModuleNames, layer: Any) -> str:
    """Return why a layer does not belong to an architecture, or "". Other modules with parameters change the
    meaning of the outputs, such as Gemma's norms after attention and MLP."""
    family, optional = names.architecture.names.family, names.architecture.optional_modules
    for path in names.in_layer:
        needed = f"{names.layers}.{path}" in names.returned and path not in optional
        if needed and module_at(layer, path) is None:
            return f"expected a module {path}, as in {family}, found none"
    if not names.architecture.names.by_head and hasattr(module_at(layer, names.attention), OTHER_SPLIT):
        return f"the attention does not split q, k and v like {family}"
    parents = dict.fromkeys(path.rpartition(".")[0] for path in names.in_layer)  # "" is the layer itself
    for parent in parents:
        inner = module_at(layer, parent)
        for child, module in ({} if inner is None else inner._modules).items():
            path = f"{parent}.{child}".lstrip(".")
            known = {*names.in_layer, *parents, *names.architecture.modules, *optional}
            expected = module is None or path in known
            if not expected and any(True for _ in module.parameters()):
                return f"the module {path} is not part of {family}"
    return ""


def expected_events(decoder: TorchDecoder) -> list[str]:
    """Return the events that a complete forward pass computes, in the order of the modules."""
    family = decoder.family
    expected = [family.outside[name] for name in decoder.embedding]
    for i, layer in enumerate(decoder.layers):
        taken = [value.events for value in family.recorded if decoder.has(layer, value.path, value.needs)]
        expected += [numbered(event, i) for event in chain(*taken)]
    return [*expected, decoder.last_event]


def module_at(layer: Any, path: str) -> Any:
    """Return the module at a path in a layer, or None if the path does not exist."""
    for name in path.split(".") if path else ():
        layer = None if layer is None else layer._modules.get(name)
    return layer


def home_of(attention: Any) -> Any:
    """Return the Python module that defines the `forward` method of an attention."""
    owner = next(kind for kind in type(attention).__mro__ if "forward" in vars(kind))
    return sys.modules[owner.__module__]


def check_dropout(model: Any) -> None:
    """Raise InputError if the model has active dropout."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Dropout" and module.training and module.p:
            raise InputError(f"{name} is active dropout of {module.p:.0%}: call model.eval() first")
