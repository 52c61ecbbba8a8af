"""Every operation in float64, by code that shares nothing with the kernels that it is held against."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from .operations.by_kind import arithmetic_of
from .operations.reference_inputs import ReferenceInputs
from .operations.spread import Spread
from .plan import Operation


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
