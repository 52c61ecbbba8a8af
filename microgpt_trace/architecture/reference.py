"""Every operation in float64, by code that shares nothing with the kernels that it is held against.

What the reference alone knows: kinds that only a fault has, and several kinds one after another in one row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays.stats import Array
from . import kinds
from .kinds import Kind
from .operations import context, elementwise, linear, lookup, norm, prediction, rotation, scores, softmax
from .operations.given import Given
from .operations.rounding import Sizes, Spread
from .plan import Operation

ARITHMETIC: dict[type[Kind], Any] = {  # the module of each kind
    kinds.Lookup: lookup,
    kinds.Linear: linear,
    kinds.Norm: norm,
    kinds.Rotation: rotation,
    kinds.Scores: scores,
    kinds.Softmax: softmax,
    kinds.Context: context,
    kinds.Activation: elementwise,
    kinds.Multiply: elementwise,
    kinds.Add: elementwise,
    kinds.Probabilities: prediction,
    kinds.Loss: prediction,
}


@dataclass(frozen=True, eq=False, repr=False)
class InTurn(Kind):
    """Several kinds one after another, none: the input as it is."""

    kinds: tuple[Kind, ...] = ()


def arithmetic_of(kind: Kind) -> Any:
    """The module that knows a kind's arithmetic."""
    return next(ARITHMETIC[own] for own in type(kind).__mro__ if own in ARITHMETIC)


def reference(row: Operation, given: Given, *inputs: Array) -> Array:
    """The value of a row's event from its inputs, float64 each."""
    with np.errstate(all="ignore"):
        if not isinstance(row.kind, InTurn):
            value: Array = arithmetic_of(row.kind).reference(row, given, *inputs)
            return value
        for kind in row.kind.kinds:
            inputs = (reference(replace(row, kind=kind), given, *inputs),)
        return inputs[0]


def spread_of(row: Operation, sizes: Sizes) -> Spread:
    """How rounding spreads through a row of a model's own plan."""
    spread: Spread = arithmetic_of(row.kind).spread(row.kind, sizes)
    return spread


def size_of(row: Operation, given: Given, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to, of a value that follows from these inputs."""
    size: Array = arithmetic_of(row.kind).size(row, given, value, *inputs)
    return size
