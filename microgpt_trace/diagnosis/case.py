"""Case: a wrong operation, with all that its hypotheses are made of and held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..architecture.operations.reference_inputs import ReferenceInputs
from ..architecture.plans.kinds import Activation, Kind, Linear, Multiply, Norm, Probabilities, Softmax
from ..architecture.plans.plan import K, Operation, Plan, kind_of, layer_of, prefix_of
from ..arrays.stats import Array
from ..rounding.judging import Judge, compared_blocks, errors_of
from .evidence import Seen
from .hypothesis import Family, Hypothesis

ELEMENTWISE = (Activation, Multiply, Softmax, Probabilities)  # operations in which nothing cancels


class OwnParameters(NamedTuple):
    """A product with its matrix and bias, or a norm with its gain and bias, named without their layers."""

    row: Operation
    weight: str
    bias: str | None


@dataclass(frozen=True, eq=False)
class Case:
    """A wrong operation: the dump's values beside what follows from the dump's own inputs.

    `positions` are those of the rows of `found`, None where it has all; `expected` is float32 or float64.
    """

    name: str
    found: Array
    expected: Array
    positions: Sequence[int] | None
    judge: Judge
    error: float
    measured: str = ""  # "in length": all rows are wrong by one factor, and by no more than that

    @property
    def plan(self) -> Plan:
        """The model's own."""
        return self.judge.plain.plan

    @property
    def given(self) -> ReferenceInputs:
        return self.judge.plain.given

    @property
    def row(self) -> Operation:
        return self.plan[self.name]

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

    @cached_property
    def rows(self) -> tuple[Operation, ...]:
        """The operations since the dump's own inputs, this one last."""
        return tuple(self.plan[name] for name in (*self.judge.plain.between(self.name), self.name))

    def of(self, *kinds: type[Kind]) -> list[Operation]:
        """Those of these kinds."""
        return [row for row in self.rows if isinstance(row.kind, kinds)]

    def kinds(self, kind: type[K]) -> list[K]:
        """The same as kinds."""
        return [row.kind for row in self.rows if isinstance(row.kind, kind)]

    def kind(self, kind: type[K]) -> K | None:
        """The first of them, if there is one."""
        return next(iter(self.kinds(kind)), None)

    @property
    def alone(self) -> bool:
        """The dump has all the operation's inputs, and all rows of its output: numbers can be measured."""
        return len(self.rows) == 1 and self.positions is None

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """The dump's own inputs, float64; only where the operation stands alone."""
        values = self.judge.plain.values
        return tuple(np.asarray(values[name], np.float64) for name in self.row.inputs)

    @property
    def heads_axis(self) -> int | None:
        """Where the heads are among the axes of `in_heads`; None of an event without heads."""
        return 0 if self.found.ndim == 3 else 1 if self.name in self.plan.heads else None

    @property
    def in_heads(self) -> tuple[int, ...]:
        """The shape of the values, [H, T, T] or [T, H, D]."""
        side_by_side = self.found.ndim < 3
        return (len(self.found), -1, self.plan.heads[self.name].dim) if side_by_side else self.found.shape

    def by_head(self, values: Array) -> Array:
        """Values, head by head: [H, n]"""
        assert self.heads_axis is not None
        heads = np.moveaxis(values.reshape(self.in_heads), self.heads_axis, 0)
        return heads.reshape(len(heads), -1)

    @cached_property
    def largest(self) -> float:
        """The largest error of a row, infinite where one is not finite."""
        rows, _ = compared_blocks(self.found, self.expected, self.judge.compared(self.name))
        return float(np.nanmax(errors_of(rows), initial=0))

    def parameters(self, *kinds: type[Linear] | type[Norm]) -> list[OwnParameters]:
        """What the products and norms that take part read, each matrix and gain once."""
        found: dict[str, OwnParameters] = {}
        for row in self.of(*kinds):
            names = map(kind_of, row.kind.names)
            for weight in names:
                found.setdefault(weight, OwnParameters(row, weight, next(names, None)))
        return list(found.values())

    def biases(self, *kinds: type[Linear] | type[Norm]) -> list[str]:
        """The biases of these, without their layers."""
        return list(dict.fromkeys(own.bias for own in self.parameters(*kinds) if own.bias is not None))

    def bias_beside(self, parameter: str) -> str | None:
        """The bias that goes with a matrix or a gain, with its layer where that is named so."""
        rows = [(row.kind.names[0], row.bias) for row in self.plan.of_kind(Linear, Norm) if row.bias]
        return next((of(bias) for own, bias in rows for of in (str, kind_of) if of(own) == parameter), None)

    def changed(self, names: Iterable[str], change: Change) -> dict[str, Callable[[str], Array]]:
        """What stands in the place of those parameters: a function of their own values."""
        return dict.fromkeys(names, lambda name: change(self.parameter(name)))

    def another(self, parameter: str) -> Callable[[str], Array]:
        """What stands in the place of one: the parameter of that name of the same layer, or of the model's
        end."""

        def instead(name: str) -> Array:
            own = prefix_of(name) + parameter
            return self.parameter(own if own in self.shapes else parameter)

        return instead

    def parameter(self, name: str) -> Array:
        """A parameter of the model."""
        return self.given.model.parameter(name)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every parameter, in the model's order."""
        return self.given.model.config.shapes()

    def whole_name(self, parameter: str) -> str:
        """A parameter of this layer; at the model's ends its own, or else the first layer's."""
        own = prefix_of(self.name) + parameter
        return own if own in self.shapes else f"layer0.{parameter}"

    @cached_property
    def seen(self) -> Seen:
        """What predictions are held against."""
        compared, precision = self.judge.compared(self.name), self.judge.plain.precision.name
        elements = len(self.rows) == 1 and isinstance(self.row.kind, ELEMENTWISE)
        return Seen(self.found, self.expected, compared, precision, elements)


def first_of(values: Sequence[object] | Array, most: int) -> str:
    """Numbers in words, of many the first."""
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


Change = Callable[[Array], Array]
Transform = Callable[[Case, Array], Array]
Generator = Callable[[Case], Iterable["Hypothesis | Family"]]
