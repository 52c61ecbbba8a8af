"""Which module knows the arithmetic of a kind; the reference of a row in float64, by code that shares nothing
with the kernels that it is held against."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays.stats import Array
from ..plans import kinds
from ..plans.kinds import Kind
from ..plans.plan import Operation
from . import context, elementwise, linear, lookup, norm, prediction, rotation, scores, softmax
from .reference_inputs import ReferenceInputs, Spread

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


def arithmetic_of(kind: Kind) -> Any:
    """The module that knows a kind's arithmetic."""
    return ARITHMETIC[type(kind)]


def reference(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
    """The value of a row's event from its inputs, float64 each."""
    with np.errstate(all="ignore"):
        compute = row.otherwise or arithmetic_of(row.kind).reference
        value: Array = compute(row, given, *inputs)
        return value


def spread_of(row: Operation, given: ReferenceInputs) -> Spread:
    """How rounding spreads through a row of a model's own plan; without a word of its kind, not at all."""
    told = getattr(arithmetic_of(row.kind), "spread", None)
    spread: Spread = told(row, given) if told else Spread()
    return spread


def size_of(row: Operation, given: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to, of a value that follows from these inputs: by
    default its own size."""
    told = getattr(arithmetic_of(row.kind), "size", None)
    size: Array = told(row, given, value, *inputs) if told else np.abs(value)
    return size
