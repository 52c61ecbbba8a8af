"""The formulas of a plan: of every event, of its gradient by way of each reader, and of parameters'. Knows no
kind's arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..formulas.formula import Formula, Setting
from ..formulas.traced_element import rows_with
from ..plans.kinds import Add, Loss, Probabilities
from ..plans.plan import Operation
from .by_kind import arithmetic_of
from .prediction import other_of


class GradientWay(NamedTuple):
    """What a gradient gets by way of a reader: from the gradient of which event (the reader's, or that of
    what stands for it because a hook replaced something there), and by which formula; None where a hook
    replaced that event, so that nothing comes of it."""

    reader: str
    event: str
    formula: Formula | None


@dataclass(frozen=True, eq=False)
class Formulas(Setting):
    """The formulas of a plan where hooks replaced this and that."""

    def forward(self, name: str) -> Formula:
        """Of an event."""
        row = self.plan[name]
        found: Formula = arithmetic_of(row.kind).formula(row, self)
        return found

    def backward(self, name: str, index: tuple[int, ...] | None = None) -> list[GradientWay] | None:
        """The ways whose sum the gradient of an event or a parameter is, of one element or of all. None of
        all where a hook replaced parts of a sum, by way of which channels get their gradients each."""
        found = []
        for reader in self.readers(name):
            row = self._event(name, reader, index)
            if row is None:
                return None
            found.append(GradientWay(reader.name, row.name, self.by_way_of(row, name)))
        return found

    def readers(self, name: str) -> list[Operation]:
        """The rows by way of which an event or a parameter gets its gradient, what adds it as it is first.
        Sums stand for their parts, the loss for the probabilities; with its own gradient all begins."""
        plan = self.plan
        if name not in plan:
            return list(rows_with(plan, name))
        if isinstance(plan[name].kind, Loss):
            return [plan[name]]
        if isinstance(plan[name].kind, Probabilities):
            return [other_of(plan, plan[name])]
        rows = [plan[reader] for reader in plan.readers[name] if reader not in plan.sums_of]
        if any(isinstance(row.kind, Loss) for row in rows):
            rows = [row for row in rows if not isinstance(row.kind, Probabilities)]
        return sorted(rows, key=lambda row: not isinstance(row.kind, Add))

    def _event(self, name: str, reader: Operation, index: tuple[int, ...] | None) -> Operation | None:
        """The row of the event that a gradient comes by way of: the reader, or where a hook replaced these or
        their gradients the probabilities of a loss, the part of a sum that a channel goes into."""
        if name == reader.name or self.is_cut(reader.name):
            return reader
        if isinstance(reader.kind, Loss) and name in reader.inputs:
            probabilities = other_of(self.plan, reader)
            return probabilities if self.is_touched(probabilities.name) else reader
        parts = [self.plan[part] for part in reader.parts if self.is_touched(part)]
        if not parts or name in (*reader.parts, reader.bias):
            return reader
        if index is None:
            return None
        return next((part for part in parts if part.kind.reads(index[-1])), reader)

    def by_way_of(self, row: Operation, name: str) -> Formula | None:
        """What comes by way of a row of the gradient of what it reads; None where a hook replaced the row."""
        if self.is_cut(row.name) and row.name != name:
            return None
        arithmetic = arithmetic_of(row.kind)
        of = arithmetic.gradient_formula if name in self.plan else arithmetic.parameter_formula
        found: Formula = of(name, row, self)
        return found
