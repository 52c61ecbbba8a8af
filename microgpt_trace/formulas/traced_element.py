"""TracedElement: an element of a run. RunValues: the arrays of a run that an explanation reads. This module
uses no kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.event import Phase
from ..models.language_model import LanguageModel, Scalar, TraceInput
from ..plans.kinds import Shape
from ..plans.plan import OfKind, Operation, Plan, over_tokens
from ..text.frozen import frozen
from .steps import Pass, element_name


@frozen
class Element:
    """One element of an event or a parameter."""

    name: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        return element_name(self.name, self.index)


@frozen(slots=False, eq=False)
class TracedElement(Generic[OfKind]):
    """An element of a run. An explanation writes out the `most` largest terms of each sum."""

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
        """The plan's row for the element's event."""
        row: Any = self.numbers.plan[self.name]
        return row

    @property
    def short_name(self) -> str:
        """The element's name in its formula: q[3,4]"""
        return element_name(short(self.name), self.index)


def rows_with(plan: Plan, parameter: str) -> tuple[Operation, ...]:
    """Return the rows that read a parameter. Skip rows that are parts of a sum."""
    rows = (row for row in plan.values() if row.name not in plan.sums_of)
    return tuple(row for row in rows if parameter in row.kind.names)


def short(name: str) -> str:
    """Return an event's name without its layer and stage: layer0.attn.q -> q"""
    return name.rpartition(".")[2]


class KnownTarget(NamedTuple):
    """The token that follows a position, and its probability and loss at this position."""

    position: int
    token: int
    p: float
    loss: float


@frozen(slots=False, eq=False)
class RunValues:
    """The stored arrays and the model of a run. Elements are returned as float64. Reading an array that is
    not stored raises InputError.

    `rows` lists the position of each row of logits and probs. `known_targets` lists an entry for each
    position whose next token is known.
    """

    model: LanguageModel
    inputs: TraceInput
    arrays: Mapping[tuple[Phase, str], Array]
    rows: Sequence[int]
    known_targets: Sequence[KnownTarget]
    shapes: Mapping[str, Shape]  # the shapes of events and parameters
    replaced: frozenset[tuple[Phase, str]]  # the events and gradients that hooks replaced
    scalar: Scalar | None = None  # the number whose gradients the run has

    @property
    def plan(self) -> Plan:
        return self.model.plan

    def label(self, token: int) -> str:
        """Return the text of a token that is a target or a prediction."""
        return self.model.label(token, target=True)

    def is_parameter(self, name: str) -> bool:
        return name in self.model.config.shapes()

    def has(self, name: str, kind: Pass = "forward") -> bool:
        return (kind, name) in self.arrays

    def array(self, name: str, kind: Pass = "forward") -> Array:
        """Return the array of an event or gradient. Raises InputError if the run did not store the array."""
        if (kind, name) not in self.arrays:
            raise InputError(f"{name}: this run did not compute the event")
        return self.arrays[kind, name]

    def at(self, name: str, spots: Sequence[Any], kind: Pass = "forward") -> Any:
        """Return an element of an event, a gradient or a parameter. If one of `spots` is an array, return an
        array of elements. Only one row or column of a stored matrix is read."""
        if kind == "backward" or not self.is_parameter(name):
            if over_tokens(name) and kind == "forward":
                spots = (self.rows.index(spots[0]), *spots[1:])
            array = self.array(name, kind)
        elif isinstance(spots[0], int):
            array, spots = self.model.parameter(name, slice(spots[0], spots[0] + 1))[0], spots[1:]
        elif len(spots) == 1:
            array = self.model.parameter(name)
        elif len(spots) > 2 or not isinstance(spots[1], int):  # the parameters of several experts
            experts, places = np.unique(spots[0], return_inverse=True)
            array, spots = self.model.parameter(name, experts), (places, *spots[1:])
        else:
            array, spots = self.model.column(name, spots[1]), spots[:1]
        return array[tuple(spots)].astype(np.float64)

    def value(self, name: str, index: tuple[int, ...], kind: Pass = "forward") -> float:
        """Return one element of an event, a gradient or a parameter."""
        return float(self.at(name, index, kind))

    def value_if_kept(self, name: str, index: tuple[int, ...], kind: Pass = "forward") -> float | None:
        """Return one element, or None if the run did not store this element."""
        if not (self.has(name, kind) or (kind == "forward" and self.is_parameter(name))):
            return None
        if over_tokens(name) and kind == "forward" and index[0] not in self.rows:
            return None
        return self.value(name, index, kind)
