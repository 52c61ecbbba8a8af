"""The events that the modules of a transformers model return and read.

A module with parameters returns the event whose row uses these parameters, and reads the input of this row.
So the names of modules follow from the plan and from the names of parameters. An architecture lists only the
modules without parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from itertools import chain
from typing import NamedTuple

from ..decoder.architecture import BY_HEAD, FUSED, Architecture
from ..decoder.catalogue import architecture_named, example, family_of
from ..plans.kinds import Activation, Experts, Linear, Lookup, Mixture, Rotation
from ..plans.plan import Operation, Plan, kind_of, layer_of, stage_of
from ..text.frozen import frozen

Events = tuple[str, ...]
LAYER_INPUT = "input of layer #"  # the output of the previous layer, or the embedding
LAST_OUTPUT = "output of the last layer"
HEADS = ("lm_head", "embed_out")


class ModuleValue(NamedTuple):
    """The output or the input of a module in a layer, and its events, where # stands for the layer number."""

    path: str  # of the module
    events: Events
    of_input: bool = False
    needs: Events = ()  # the modules whose outputs an input is computed from


@frozen(slots=False, eq=False)
class ModuleNames:
    """The modules of an architecture. In paths and events, # stands for the layer number. The stack is the
    module whose children are the embedding, the layers and the last norm."""

    types: Events  # the names of the architectures of the family
    architecture: Architecture
    plan: Plan  # of one layer, with every optional row

    @cached_property
    def layers(self) -> str:
        """The path of a layer, such as model.layers.# or h.#"""
        return f"{self.architecture.names.blocks}.#"

    @cached_property
    def returned(self) -> Mapping[str, Events]:
        """The events of each module with parameters, by path. A fused product returns several events."""
        by_parameter: dict[str, str] = {}
        for row in self.plan.values():
            if not (isinstance(row.kind, Linear) and row.kind.columns):
                for name in row.kind.names:
                    by_parameter.setdefault(kind_of(name), of_any_layer(row.name))
        by_parameter["lm_head"] = self.plan.head[0].name  # the example's output matrix is the embedding
        names = self.architecture.names
        result: dict[str, Events] = {path: (by_parameter[own],) for own, (_, path) in names.model.items()}
        for own, (_, path) in names.layer.items():
            if "#" in path:  # the parameters of experts belong to one module, which returns their sum
                continue
            parts = FUSED.get(own, (own,))
            if by_parameter.keys() >= set(parts):  # other architectures with these names have more parameters
                result[f"{self.layers}.{path}"] = tuple(by_parameter[part] for part in parts)
        return result

    @cached_property
    def split_by_head(self) -> frozenset[str]:
        """The paths of fused products whose rows are all parts of the first head, then of the next head."""
        names = self.architecture.names
        fused = [own for own in names.layer if own in BY_HEAD or (names.by_head and own in FUSED)]
        return frozenset(f"{self.layers}.{names.layer[own][1]}" for own in fused)

    @cached_property
    def other(self) -> Mapping[str, Events]:
        """The event of each module without parameters, by path."""
        result = {self.layers: (f"layer#.{kind_of(self.plan.streams[-1])}",)}
        for path, event in self.architecture.modules.items():
            outside = stage_of(event) == "embedding"
            result |= {path: (event,)} if outside else {f"{self.layers}.{path}": (f"layer#.{event}",)}
        return result

    @cached_property
    def read(self) -> Mapping[str, str]:
        """The event that each module reads, by path. Modules that read several events are left out."""
        result: dict[str, str] = {}
        for path, events in self._every.items():
            inner = self.first_in(path)
            row = self._rows[self._every[inner][0]]
            if isinstance(row.kind, Mixture):  # a module of experts
                result[path] = self._input(self._outermost_experts.inputs[0], True)
            elif inner in self.other and (events[0] in self.of_parameters or len(row.inputs) > 1):
                result[path] = events[0]  # a dropout reads the event that it returns
            elif len(row.inputs) == 1:
                result[path] = self._input(row.inputs[0], row.layer is not None)
        return result

    @property
    def _outermost_experts(self) -> Operation:
        """The first row of experts that all read the same row."""
        return next(row for row in self.plan.of_kind(Experts) if not row.kind.beside)

    @cached_property
    def _every(self) -> Mapping[str, Events]:
        return {**self.returned, **self.other}

    @cached_property
    def _optional(self) -> frozenset[str]:
        return frozenset(f"{self.layers}.{path}" for path in self.architecture.optional_modules)

    @cached_property
    def of_parameters(self) -> frozenset[str]:
        """The events that modules with parameters return."""
        return frozenset(chain(*self.returned.values()))

    @cached_property
    def _rows(self) -> Mapping[str, Operation]:
        """The first row of each event, by the event with # for the layer number."""
        return {of_any_layer(row.name): row for row in [*self.plan.values()][::-1]}

    @cached_property
    def outputs(self) -> Mapping[str, Events]:
        """The events of each module, by path, without modules that only contain other modules or return their
        input."""
        others: dict[Events, str] = {}  # modules inside of modules are listed first
        for path, own in sorted(self.other.items(), key=lambda item: -len(item[0])):
            returning = [inner for inner, events in self.returned.items() if own[0] in events]
            if not any(inner not in self._optional or inner.startswith(f"{path}.") for inner in returning):
                others.setdefault(own, path)
        return {**self.returned, **{path: own for own, path in others.items()}}

    @cached_property
    def in_layer(self) -> Mapping[str, Events]:
        """The `outputs` of the modules in a layer, by path in the layer."""
        prefix = f"{self.layers}."
        return {
            path.removeprefix(prefix): own for path, own in self.outputs.items() if path.startswith(prefix)
        }

    @cached_property
    def outside(self) -> Mapping[str, str]:
        """The event of each module of the stack outside of layers, by the name of the module."""
        paths = (path for path in self.outputs if "#" not in path and path not in HEADS)
        return {path.rpartition(".")[2]: self.outputs[path][0] for path in paths}

    @cached_property
    def embedding(self) -> tuple[str, ...]:
        """The modules before layer 0. The first module reads the tokens."""
        return tuple(name for name, event in self.outside.items() if stage_of(event) == "embedding")

    @cached_property
    def positions(self) -> str:
        """The module that reads the positions, or ""."""
        rows = {row.name for row in self.plan.of_kind(Lookup) if row.kind.by == "positions"}
        return next((name for name, event in self.outside.items() if event in rows), "")

    @cached_property
    def norm(self) -> str:
        """The last norm."""
        return next(name for name in self.outside if name not in self.embedding)

    @cached_property
    def blocks(self) -> str:
        """The module that contains the layers."""
        return self.architecture.names.blocks.rpartition(".")[2]

    @property
    def stack(self) -> tuple[str, ...]:
        """The names of the children of the stack that every model has."""
        optional = self.architecture.optional_modules
        return (*(name for name in self.embedding if name not in optional), self.blocks, self.norm)

    @cached_property
    def recorded(self) -> tuple[ModuleValue, ...]:
        """The inputs and outputs to record in a layer. An input is listed only if no module returns
        the event, and the event is not RoPE of q or k, which a function returns."""
        layer = self.other[self.layers]
        known = {LAYER_INPUT, LAST_OUTPUT, *layer, *chain(*self.in_layer.values())}
        read: dict[str, str] = {}
        for path in self.in_layer:
            event = self.read.get(f"{self.layers}.{path}")
            if event and event not in known and not isinstance(self._rows[event].kind, Rotation):
                read.setdefault(event, path)
        return (
            *(ModuleValue(path, events) for path, events in self.in_layer.items()),
            *(ModuleValue(path, (event,), True, self._behind(event)) for event, path in read.items()),
            ModuleValue("", layer),
        )

    def _behind(self, event: str) -> Events:
        """Return the paths of the modules in a layer that return the inputs of an event."""
        row = self._rows.get(event)
        inputs = set(map(of_any_layer, row.inputs)) if row else set()
        return tuple(path for path, events in self.in_layer.items() if inputs & {*events})

    @cached_property
    def attention(self) -> str:
        """The path of the attention in a layer."""
        return next(
            path
            for path, event in self.architecture.modules.items()
            if event in ("attn.out", "attn.residual")
        )

    @cached_property
    def activation(self) -> str:
        """The event of the MLP's function, which is a module in some versions of transformers only."""
        return of_any_layer(self.plan.of_kind(Activation)[0].name)

    def first_in(self, path: str) -> str:
        """Return the path of the module inside of a module that computes first, or the path itself. Modules
        that some models lack count only if there is no other module inside."""
        inside, optional = [own for own in self._every if own.startswith(f"{path}.")], self._optional
        inside = [own for own in inside if own not in optional] or inside or [path]
        return min(inside, key=lambda own: self.plan.order[self._rows[self._every[own][0]].name])

    def _input(self, name: str, in_layer: bool) -> str:
        if in_layer and name == self.plan.streams[0]:
            return LAYER_INPUT
        if not in_layer and name == self.plan.streams[-1]:
            return LAST_OUTPUT
        return of_any_layer(name)


def of_any_layer(event: str) -> str:
    """Return the name of an event with # as the layer number, if the event is in a layer."""
    return event if layer_of(event) is None else f"layer#.{event.partition('.')[2]}"


def numbered(event: str, layer: int) -> str:
    """Return the name of an event with a layer number: layer#.attn.q -> layer3.attn.q"""
    return event.replace("#", str(layer), 1)


@cache
def modules_of(name: str) -> ModuleNames:
    """Return the modules of an architecture of the catalogue."""
    return ModuleNames(family_of(name), architecture_named(name), example(name))
