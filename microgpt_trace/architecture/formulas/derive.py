"""The formulas of a plan: of every event, of its gradient by way of each reader, and of parameters'."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..kinds import (
    Activation,
    Add,
    Context,
    Linear,
    Lookup,
    Loss,
    Multiply,
    Norm,
    Probabilities,
    Rotation,
    Scores,
    Shape,
    Softmax,
)
from ..operations.softmax import window_of
from ..plan import Operation, Plan
from ..traced_element import rows_with
from . import attention, elementwise, linear, norm, prediction, rotation
from .formula import Formula, Length

Ways = Mapping[str, Formula]  # by the row that the gradient comes by way of


@dataclass(frozen=True, eq=False)
class Formulas:
    """The formulas of a plan, and of `replaced` events, in whose place something else stands."""

    plan: Plan
    replaced: Collection[str] = ()

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Of the events, the number of positions told from other sizes."""
        return self.plan.shapes(Length(1))

    def forward(self, name: str) -> Formula | None:
        """Of an event; None where something else stands in its place, and of a kind that has none."""
        row = self.plan[name]
        kind = row.kind
        if name in self.replaced:
            return None
        if isinstance(kind, Scores | Softmax | Context):
            return attention.forward(row, self.shapes, window_of(self.plan, row))
        if isinstance(kind, Loss):
            return prediction.loss(row, self.plan, self.shapes)
        if isinstance(kind, Linear) and any(part in self.replaced for part in row.parts):
            return linear.of_parts(row, self.shapes)
        known = FORWARD.get(type(kind))
        return None if known is None else known(row, self.shapes)

    def backward(self, name: str) -> Ways:
        """Of the gradient of an event or a parameter: the ways whose sum it is. None at all where a way is
        not to be had."""
        parameter = name not in self.plan
        if not parameter and isinstance(self.plan[name].kind, Loss):
            return {name: prediction.of_loss()}
        if not parameter and isinstance(self.plan[name].kind, Probabilities):
            return {name: prediction.of_probabilities(self.plan[name], self.shapes)}
        ways: dict[str, Formula] = {}
        for row in self._readers(name):
            found = self._of_parameter(name, row) if parameter else self._path(name, row)
            if found is None:
                return {}
            ways[row.name] = found
        return ways

    def _readers(self, name: str) -> list[Operation]:
        """The rows that read it, by way of which it gets its gradient. A sum stands for its parts, the loss
        for the probabilities, and what something else stands in the place of gives none."""
        plan = self.plan
        if name in plan:
            rows = [plan[reader] for reader in plan.readers[name] if reader not in plan.sums_of]
        else:
            rows = list(rows_with(plan, name))
        rows.sort(key=lambda row: not isinstance(row.kind, Add))
        loss = any(isinstance(row.kind, Loss) for row in rows)
        return [
            row
            for row in rows
            if row.name not in self.replaced and not (loss and isinstance(row.kind, Probabilities))
        ]

    def _path(self, name: str, reader: Operation) -> Formula | None:
        kind = reader.kind
        if isinstance(kind, Scores | Softmax | Context):
            return attention.backward(name, reader, self.shapes, window_of(self.plan, reader))
        if isinstance(kind, Loss):
            return prediction.of_logits(reader, self.plan, self.shapes)
        if isinstance(kind, Linear):
            if name not in reader.parts and any(part in self.replaced for part in reader.parts):
                return None  # channels have their gradients by way of different parts then
            return linear.backward(name, reader, self.shapes)
        if isinstance(kind, Norm):
            return norm.backward(name, reader, self.shapes)
        if isinstance(kind, Activation | Multiply | Add):
            return elementwise.backward(name, reader, self.shapes)
        return None

    def _of_parameter(self, name: str, row: Operation) -> Formula | None:
        if isinstance(row.kind, Lookup):
            return linear.of_table(row, self.shapes)
        if isinstance(row.kind, Linear) and not any(part in self.replaced for part in row.parts):
            return linear.of_parameter(name, row, self.shapes)
        return None


FORWARD = {
    Lookup: linear.looked_up,
    Linear: linear.forward,
    Norm: norm.forward,
    Rotation: rotation.forward,
    Activation: elementwise.forward,
    Multiply: elementwise.forward,
    Add: elementwise.forward,
    Probabilities: prediction.probabilities,
}
