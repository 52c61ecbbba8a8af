"""The formulas of a plan: one formula for each event, and one formula for each reader of a gradient. The
formulas of single rows are in other modules."""

from __future__ import annotations

from typing import NamedTuple

from ..formulas.formula import Formula, Setting
from ..formulas.traced_element import RunValues, rows_with
from ..plans.kinds import Add, Loss, Probabilities
from ..plans.plan import Operation
from ..text.frozen import frozen
from .by_kind import arithmetic_of
from .prediction import is_end, logit_gradient, other_of


class GradientWay(NamedTuple):
    """The contribution of one reader to a gradient."""

    reader: str
    event: str  # the event whose gradient is read: usually the reader
    formula: Formula | None  # None if a hook replaced the event, so that the contribution is 0


@frozen(slots=False, eq=False)
class Formulas(Setting):
    """The formulas of one run. Hooks may have replaced values of the run."""

    @classmethod
    def of(cls, run: RunValues) -> Formulas:
        return cls(run.plan, run.replaced, len(run.inputs.tokens), run.scalar)

    def forward(self, name: str) -> Formula:
        """Return the formula of an event."""
        row = self.plan[name]
        formula: Formula = arithmetic_of(row.kind).formula(row, self)
        return formula

    def backward(self, name: str, index: tuple[int, ...] | None = None) -> list[GradientWay] | None:
        """Return the contributions that add up to the gradient of an event or a parameter. If `index` is
        None, the formulas apply to all elements. Return None if no formula applies to all elements: a hook
        replaced parts of a sum, or the backward pass begins at a logit of this event."""
        scalar = self.scalar
        if scalar is not None and scalar.target is not None and is_end(self.plan, name):
            begin = None if index is None else logit_gradient(scalar, self.shapes[name], index)
            return None if begin is None else [GradientWay(name, name, begin)]
        ways = []
        for reader in self.readers(name):
            row = self._event(name, reader, index)
            if row is None:
                return None
            ways.append(GradientWay(reader.name, row.name, self.part_from(row, name)))
        return ways

    def readers(self, name: str) -> list[Operation]:
        """Return the rows that pass a gradient to an event or a parameter. Additions are first.

        The list contains a sum instead of the parts of the sum, and the loss instead of the probabilities.
        For the loss, the list contains only the loss itself.
        """
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
        """Return the row whose gradient determines the contribution of a reader. Usually this row is the
        reader. If a hook replaced the value or gradient of the probabilities or of a part, return the
        replaced row. Return None if the row depends on a missing `index`."""
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

    def part_from(self, row: Operation, name: str) -> Formula | None:
        """Return the formula of a row's contribution to a gradient, or None if a hook replaced the row."""
        if self.is_cut(row.name) and row.name != name:
            return None
        arithmetic = arithmetic_of(row.kind)
        make = arithmetic.gradient_formula if name in self.plan else arithmetic.parameter_formula
        formula: Formula = make(name, row, self)
        return formula
