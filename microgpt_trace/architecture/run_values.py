"""RunValues: what an explanation reads of one run, and the parameters row by row. Explains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.event import Phase
from .kinds import Shape
from .model import LanguageModel, TraceInput
from .plan import HEAD_EVENTS, Plan
from .steps import Pass


class KnownTarget(NamedTuple):
    """A token that is known to follow a position, its probability there and the loss."""

    position: int
    token: int
    p: float
    loss: float


@dataclass(frozen=True, eq=False)
class RunValues:
    """The arrays of a run that were kept, and the model that ran. Rows and elements are float64; asking for
    what the run did not keep raises InputError.

    `rows` are the positions that logits and probs have, row by row, `known_targets` every token that is known
    to follow.
    """

    model: LanguageModel
    inputs: TraceInput
    arrays: Mapping[tuple[Phase, str], Array]
    rows: Sequence[int]
    known_targets: Sequence[KnownTarget]
    shapes: Mapping[str, Shape]  # of events and parameters
    replaced: frozenset[tuple[Phase, str]]  # what hooks put other values in the place of

    @property
    def plan(self) -> Plan:
        return self.model.plan

    @property
    def length(self) -> int:
        """How many tokens were read."""
        return len(self.inputs.tokens)

    @property
    def whole(self) -> bool:
        """Whether the logits of all positions are there."""
        return len(self.rows) == self.length

    def label(self, token: int) -> str:
        """The text of a token that may follow."""
        return self.model.label(token, target=True)

    def is_parameter(self, name: str) -> bool:
        return name in self.model.config.shapes()

    def has(self, name: str, kind: Pass = "forward") -> bool:
        return (kind, name) in self.arrays

    def array(self, name: str, kind: Pass = "forward") -> Array:
        """An event or its gradient as the run had it."""
        if (kind, name) not in self.arrays:
            raise InputError(f"{name}: this run did not compute it")
        return self.arrays[kind, name]

    def row(self, name: str, *place: int, kind: Pass = "forward") -> Array:
        """Of an event, its gradient or a parameter: a position of [T, C], a head and a query of [H, T, T]."""
        if kind == "forward" and self.is_parameter(name):
            return self.parameter_row(name, place[0])
        if kind == "forward" and name in HEAD_EVENTS:
            place = (self.rows.index(place[0]),)
        return self.array(name, kind)[place].astype(np.float64)

    def column(self, name: str, column: int, kind: Pass = "forward") -> Array:
        """The same channel of every row: [T, C] -> [T], or of a matrix [out, in] -> [out]"""
        if kind == "forward" and self.is_parameter(name):
            return self.model.column(name, column).astype(np.float64)
        return self.array(name, kind)[..., column].astype(np.float64)

    def value(self, name: str, index: tuple[int, ...], kind: Pass = "forward") -> float:
        """One element of an event, a gradient or a parameter."""
        if not index:
            return float(self.array(name, kind))
        if len(index) == 1 and kind == "forward":
            return float(self.parameter_row(name, index[0])[0])
        return float(self.row(name, *index[:-1], kind=kind)[index[-1]])

    def known(self, name: str, index: tuple[int, ...], kind: Pass = "forward") -> float | None:
        """The same, or None where the run did not keep it."""
        if not (self.has(name, kind) or self.is_parameter(name)):
            return None
        if name in HEAD_EVENTS and kind == "forward" and index[0] not in self.rows:
            return None
        return self.value(name, index, kind)

    def vector(self, name: str) -> Array:
        """A parameter that is one: [out]"""
        return self.model.parameter(name).astype(np.float64)

    def parameter_row(self, name: str, row: int) -> Array:
        """A row of a parameter: [out, in] -> [in], [out] -> [1]"""
        return self.model.parameter(name, slice(row, row + 1)).reshape(-1).astype(np.float64)
