"""What a page knows of a plan: events, parameters, and the formulas of both. Knows no values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...architecture.formulas.formula import Formula, as_data, size_as_data
from ...architecture.formulas.traced_element import rows_with
from ...architecture.model import LanguageModel
from ...architecture.operations.linear import formula_of_parts
from ...architecture.operations.plan_formulas import Formulas
from ...architecture.plans.kinds import Lookup, Loss, Probabilities, Shape, Softmax
from ...architecture.plans.plan import HEAD_EVENTS, Operation
from ...explaining.elements import tables_of_tokens


@dataclass
class PlanData:
    """A plan as data."""

    model: LanguageModel
    replaced: Collection[str] = ()

    def __post_init__(self) -> None:
        self._of = Formulas(self.model.plan, {("forward", name) for name in self.replaced})
        self._backward = "gradients" in self.model.abilities

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._of.shapes

    def _forward(self, name: str) -> Formula | None:
        """None of what something else stands in the place of."""
        return None if name in self.replaced else self._of.forward(name)

    def events(self) -> list[dict[str, Any]]:
        """The rows, in order of computation."""
        return [self._event(row) for row in self.model.plan.values()]

    def parameters(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Those of the names that are parameters."""
        plan = self.model.plan
        by_tokens = tables_of_tokens(plan)
        positions = {kind.table for kind in plan.kinds(Lookup) if kind.by == "positions"}
        found = []
        for name, shape in self.model.config.shapes().items():
            if name not in names:
                continue
            first = "token" if name in by_tokens else "position" if name in positions else "output"
            axes = [first, "input" if first == "output" else "channel"] if len(shape) == 2 else ["channel"]
            rows = rows_with(plan, name)
            readers = [row.name for row in rows]
            own: dict[str, Any] = {"name": name, "shape": shape, "axes": axes, "readers": readers}
            if any(isinstance(row.kind, Lookup) for row in rows):
                own["read"] = 1
            found.append({**own, **self._ways(name)})
        return found

    def _event(self, row: Operation) -> dict[str, Any]:
        plan = self.model.plan
        found: dict[str, Any] = {
            "name": row.name, "stage": row.stage, "layer": row.layer, "expr": row.expr,
            "shape": list(map(size_as_data, self.shapes[row.name])), "axes": axes_of(row, self.shapes),
            "inputs": row.inputs, "reads": row.kind.names, "readers": plan.readers[row.name],
            "parts": row.parts, "formula": _data(self._forward(row.name)),
            **self._ways(row.name),
        }  # fmt: skip
        if row.parts:
            found["ofParts"] = _data(formula_of_parts(row, self._of))
        if not self._backward and not of_a_page(row):
            found["never"] = 1
        if row.name in plan.branches:
            found["stream"] = plan.branches[row.name]
        if row.name in plan.heads:
            found["dim"] = plan.heads[row.name].dim
        if isinstance(row.kind, Softmax):
            found["window"] = row.kind.window
        if isinstance(row.kind, Softmax | Probabilities):
            found["share"] = 1
        return found

    def _ways(self, name: str) -> dict[str, Any]:
        """The formulas that a gradient is the sum of, each with the row that it comes by way of."""
        ways = (self._of.backward(name) or ()) if self._backward else ()
        return {"ways": [[as_data(way.formula), way.reader] for way in ways if way.formula is not None]}


def _data(formula: Formula | None) -> Any:
    return None if formula is None else as_data(formula)


def of_a_page(row: Operation) -> bool:
    """Whether a page of a production model may hold a row's array: the shares of heads take what an output
    takes each, and logits as many numbers as there are tokens."""
    return not row.extra and row.name not in (*HEAD_EVENTS, "loss")


def axes_of(row: Operation, shapes: Mapping[str, Shape]) -> list[str]:
    """What the axes of an event are."""
    if isinstance(row.kind, Loss):
        return []
    if len(shapes[row.name]) == 3:
        return ["head", "query", "key"]
    return ["position", "token" if row.name in HEAD_EVENTS else "channel"]
