"""Find the module with the arithmetic of a kind, and compute the float64 reference of a row. The reference
shares no code with the kernels of the forward pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..plans import kinds
from ..plans.kinds import Kind
from ..plans.plan import Operation
from .reference_inputs import ReferenceInputs, Spread

# The module of each kind. It is imported when a plan first needs it, which saves 6 ms of `trace emma`.
ARITHMETIC: dict[type[Kind], str] = {
    kinds.Lookup: "lookup",
    kinds.Linear: "linear",
    kinds.Norm: "norm",
    kinds.Rotation: "rotation",
    kinds.Scores: "scores",
    kinds.Softmax: "softmax",
    kinds.Context: "context",
    kinds.Alibi: "positions",
    kinds.PositionScale: "positions",
    kinds.Activation: "elementwise",
    kinds.Multiply: "elementwise",
    kinds.Add: "elementwise",
    kinds.Scale: "elementwise",
    kinds.Channels: "channels",
    kinds.Cap: "elementwise",
    kinds.Clip: "elementwise",
    kinds.Shift: "elementwise",
    kinds.Choice: "choice",
    kinds.Routing: "routing",
    kinds.Experts: "experts",
    kinds.Mixture: "mixture",
    kinds.Probabilities: "prediction",
    kinds.Loss: "prediction",
}


def arithmetic_of(kind: Kind) -> Any:
    """Return the module with a kind's arithmetic."""
    return _module(ARITHMETIC[type(kind)])


def load_arithmetic(rows: Iterable[Operation]) -> None:
    """Import the modules of the rows' kinds now, so that the first row of a kind does not take longer."""
    for name in {ARITHMETIC[type(row.kind)] for row in rows}:
        _module(name)


@cache
def _module(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


def values_for_backward(row: Operation, wanted: Collection[str]) -> list[str]:
    """Return the events whose values are needed for the gradients of a row's inputs, and of those of its
    parameters that are `wanted`."""
    kind = row.kind
    positional = kinds.Rotation | kinds.Alibi | kinds.PositionScale
    if isinstance(kind, kinds.Add | kinds.Scale | kinds.Shift | kinds.Channels | positional):
        return []
    if isinstance(kind, kinds.Linear) and not (row.parts or kind.columns or {*kind.names} & {*wanted}):
        return []
    reads_output = isinstance(kind, kinds.Softmax | kinds.Routing)
    return [*row.inputs, *([row.name] if reads_output else [])]


def reference(row: Operation, ref: ReferenceInputs, *inputs: Array) -> Array:
    """Compute a row in float64 from its inputs."""
    with np.errstate(all="ignore"):
        compute = row.otherwise or arithmetic_of(row.kind).reference
        value: Array = compute(row, ref, *inputs)
        return value


def spread_of(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the sources of rounding errors in a row. By default, each element is rounded once. The row must
    not contain a simulated fault."""
    spread = getattr(arithmetic_of(row.kind), "spread", lambda row, ref: Spread())
    result: Spread = spread(row, ref)
    return result


def size_of(row: Operation, ref: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """Return a size for each element, proportional to the element's rounding error. By default, return
    |value|.

    `value` is the row's output for the inputs `inputs`.
    """
    size = getattr(arithmetic_of(row.kind), "size", lambda row, ref, value, *inputs: np.abs(value))
    result: Array = size(row, ref, value, *inputs)
    return result
