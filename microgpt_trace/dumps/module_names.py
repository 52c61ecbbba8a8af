"""The events that the modules of a transformers model return and read.

A module with parameters returns the event whose row uses these parameters, and reads the input of this row.
So the names of modules follow from the plan and from the names of parameters. An architecture lists only the
modules without parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from ..architecture.plans.kinds import Experts, Linear, Mixture
from ..architecture.plans.plan import Operation, Plan, kind_of, layer_of, stage_of
from ..decoder.architecture import FUSED, Architecture
from ..decoder.catalogue import ARCHITECTURES, architecture_named, example

Events = tuple[str, ...]
LAYER_INPUT = "input of layer #"  # the output of the previous layer, or the embedding
LAST_OUTPUT = "output of the last layer"


@dataclass(frozen=True, eq=False)
class ModuleNames:
    """The modules of an architecture. In paths and events, # stands for the layer number."""

    types: Events  # the names of architectures in the module of the catalogue
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
        returned = {event for events in self.returned.values() for event in events}
        result: dict[str, str] = {}
        for path, events in self._every.items():
            inner = self.first_in(path)
            row = self._rows[self._every[inner][0]]
            if isinstance(row.kind, Mixture):  # a module of experts
                result[path] = self._input(self.plan.of_kind(Experts)[0].inputs[0], True)
            elif inner in self.other and (events[0] in returned or len(row.inputs) > 1):
                result[path] = events[0]  # a dropout reads the event that it returns
            elif len(row.inputs) == 1:
                result[path] = self._input(row.inputs[0], row.layer is not None)
        return result

    @cached_property
    def _every(self) -> Mapping[str, Events]:
        return {**self.returned, **self.other}

    @cached_property
    def _rows(self) -> Mapping[str, Operation]:
        """The first row of each event, by the event with # for the layer number."""
        return {of_any_layer(row.name): row for row in [*self.plan.values()][::-1]}

    def first_in(self, path: str) -> str:
        """Return the path of the module inside of a module that computes first, or the path itself."""
        inside = [own for own in self._every if own.startswith(f"{path}.")] or [path]
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


@cache
def modules_of(name: str) -> ModuleNames:
    """Return the modules of an architecture of the catalogue."""
    types = tuple(own for own, module in ARCHITECTURES.items() if module == ARCHITECTURES[name])
    return ModuleNames(types, architecture_named(name), example(name))
