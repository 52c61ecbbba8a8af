"""TracedElement: an element and its run, as the operations see them. Knows no kind's arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from ..arrays.stats import Array
from .plan import OfKind, Operation, Plan
from .run_values import RunValues
from .steps import Use, element_name


@dataclass(frozen=True, slots=True)
class Element:
    """One element of an event or a parameter."""

    name: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        return element_name(self.name, self.index)


@dataclass(frozen=True, eq=False)
class TracedElement(Generic[OfKind]):
    """An element of a run; `most` terms of each sum are written out."""

    numbers: RunValues
    element: Element
    most: int

    @property
    def name(self) -> str:
        return self.element.name

    @property
    def index(self) -> tuple[int, ...]:
        return self.element.index

    @property
    def row(self) -> Operation[OfKind]:
        """The row of the plan that the element's event is."""
        row: Any = self.numbers.plan[self.name]
        return row

    @property
    def own(self) -> str:
        """The element as its formula names it: q[3,4]"""
        return element_name(short(self.name), self.index)

    @property
    def gradient_name(self) -> str:
        return f"d {self.element}"

    @property
    def value(self) -> float:
        return self.numbers.value(self.name, self.index)

    @property
    def gradient(self) -> float:
        return self.numbers.value(self.name, self.index, "backward")

    def use(self, name: str, index: tuple[int, ...], adds: float | None, count: int, words: str) -> Use:
        """Of an element of an event that reads this one, with its value where the run kept that."""
        return Use(element_name(name, index), "forward", self.numbers.known(name, index), adds, count, words)

    def gradient_use(
        self, name: str, index: tuple[int, ...], adds: float | None, count: int, words: str
    ) -> Use:
        """Of the gradient of an element that the element's row had read."""
        value = self.numbers.known(name, index, "backward")
        return Use(element_name(name, index), "backward", value, adds, count, words)


def rows_with(plan: Plan, parameter: str) -> tuple[Operation, ...]:
    """The rows whose operation reads a parameter. A sum stands for its parts."""
    rows = (row for row in plan.values() if row.name not in plan.sums_of)
    return tuple(row for row in rows if parameter in row.kind.names)


def short(name: str) -> str:
    """An event's name as a formula has it, without its layer and stage: layer0.attn.q -> q"""
    return name.rpartition(".")[2]


def strongest(products: Array) -> int:
    """Where the largest magnitude is, NaN aside."""
    return int(np.argmax(np.where(np.isnan(products), -1.0, np.abs(products))))


def channels_of(head: int, dim: int) -> slice:
    """The columns of a head in [T, heads*D]"""
    return slice(head * dim, (head + 1) * dim)


def sharing(group: Sequence[int], own: int) -> list[int]:
    """The heads that have the keys and values of one key-value head."""
    return [head for head, of in enumerate(group) if of == own]
