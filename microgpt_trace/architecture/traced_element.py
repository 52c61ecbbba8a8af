"""TracedElement: an element and its run, as the operations see them. Knows no kind's arithmetic.

What works out an element lives in operations/, and reads numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arrays.stats import Array
from ..text.printable import shown_token
from .arithmetic import Operand, elements, nothing, product
from .kinds import Add
from .plan import Operation, Plan
from .run_values import RunValues
from .steps import Factor, Pass, Use, Worked, element_name


@dataclass(frozen=True, slots=True)
class Element:
    """One element of an event or a parameter."""

    name: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        return element_name(self.name, self.index)


@dataclass(frozen=True, eq=False)
class TracedElement:
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
    def row(self) -> Operation:
        """The row of the plan that the element's event is."""
        return self.numbers.plan[self.name]

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

    @cached_property
    def ways(self) -> tuple[Operation, ...]:
        """The rows that read the element, by way of which it gets its gradient. A sum stands for its parts,
        and what adds the element as it is comes first."""
        plan = self.numbers.plan
        if self.name not in plan:
            return rows_with(plan, self.name)
        found = [plan[reader] for reader in plan.readers[self.name] if reader not in plan.sums_of]
        return tuple(sorted(found, key=lambda row: not isinstance(row.kind, Add)))

    def label(self, reader: str) -> str:
        """What the gradient by way of a reader is called: the gradient itself where there is no other way."""
        return self.gradient_name if len(self.ways) == 1 else f"by way of {reader}"

    def is_cut(self, name: str) -> bool:
        """Whether a hook replaced an event, so that the loss no longer depends on what it had read."""
        return ("forward", name) in self.numbers.replaced

    def factor(self, name: str, *index: int, kind: Pass = "forward") -> Factor:
        """An element of the run as a factor."""
        return Factor(element_name(name, index), self.numbers.value(name, index, kind), kind)

    def along(self, name: str, *place: int, kind: Pass = "forward", within: slice | None = None) -> Operand:
        """A row of an event, its gradient or a parameter as an operand, or some of its columns."""
        own = within or slice(0, None)
        values = self.numbers.row(name, *place, kind=kind)[own]
        return elements(values, name, lambda i: (*place, own.start + i), kind)

    def down(self, name: str, column: int, rows: slice | None = None, kind: Pass = "forward") -> Operand:
        """The same channel at several positions, or of all rows of a matrix, as an operand."""
        own = rows or slice(0, None)
        values = self.numbers.column(name, column, kind)[own]
        return elements(values, name, lambda i: (own.start + i, column), kind)

    def vector(self, name: str) -> Operand:
        """A parameter that is a vector as an operand."""
        return elements(self.numbers.vector(name), name, lambda i: (i,))

    def use(self, name: str, index: tuple[int, ...], adds: float | None, count: int, words: str) -> Use:
        """Of an element of an event that reads this one, with its value where the run kept that."""
        return Use(element_name(name, index), "forward", self.numbers.known(name, index), adds, count, words)

    def gradient_use(
        self, name: str, index: tuple[int, ...], adds: float | None, count: int, words: str
    ) -> Use:
        """Of the gradient of an element that the element's row had read."""
        value = self.numbers.known(name, index, "backward")
        return Use(element_name(name, index), "backward", value, adds, count, words)

    def counting(self, products: Array, seen: slice) -> slice:
        """The positions that count in a sum: those that are seen, or all where a hook put something into
        what the mask leaves empty (or zero times NaN is NaN)."""
        outside = np.delete(products, np.arange(seen.start, seen.stop))
        return slice(0, len(products)) if np.any(outside != 0) else seen

    def tokens_from(self, first: int) -> Callable[[int], str]:
        """The labels of the tokens from a position on."""
        return lambda i: shown_token(self.numbers.inputs.labels[first + i])

    def in_vocabulary(self, token: int) -> str:
        """The label of a token that may follow."""
        return shown_token(self.numbers.label(token))


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


def no_path(at: TracedElement, reader: str) -> Worked:
    """What comes by way of an event that a hook replaced."""
    return Worked(nothing_from(reader), (nothing(at.label(reader)),), 0.0)


def nothing_from(reader: str) -> str:
    """The same in words."""
    return f"0 by way of {reader}, which a hook replaced"


def passed_on(at: TracedElement, reader: str) -> Worked:
    """A sum hands its gradient to each of its parts."""
    gradient = at.factor(reader, *at.index, kind="backward")
    return Worked(f"d {gradient.name}", (product(at.label(reader), gradient),), abs(gradient.value))


def sharing(group: Sequence[int], own: int) -> list[int]:
    """The heads that have the keys and values of one key-value head."""
    return [head for head, of in enumerate(group) if of == own]
