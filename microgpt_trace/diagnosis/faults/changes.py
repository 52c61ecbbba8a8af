"""Change plans so that some rows compute wrong values. The other modules of this folder list the mistakes.

A change replaces a row's attributes, its inputs, the values of its parameters, or its computation. Rows are
chosen by their kind or name, in all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.reference_inputs import ReferenceInputs
from ...plans.kinds import Experts, Kind, Linear, Norm
from ...plans.plan import Operation, Plan, kind_of, prefix_of

LATE = "one position late (at positions 0, 0, 1, 2, ...)"
Which = Callable[[Operation], bool]
Compute = Callable[..., Array]  # (row, ReferenceInputs, *inputs) -> output
Instead = Mapping[str, Callable[..., Array]]  # name without layer -> function of the full name (and experts)


def late(length: int) -> Array:
    """Return the positions that LATE describes, [T]: each position but the first is one too small."""
    return np.maximum(np.arange(length) - 1, 0)


def of_kind(*kinds: type[Kind]) -> Which:
    """Return a function that selects the rows of these kinds."""
    return lambda row: isinstance(row.kind, kinds)


def called(*names: str) -> Which:
    """Return a function that selects the rows with one of these names in any layer."""
    own = set(map(kind_of, names))
    return lambda row: kind_of(row.name) in own


def with_attributes(plan: Plan, rows: type[Kind] | Which, **attributes: Any) -> Plan:
    """Return the plan with `attributes` replaced in all rows of a kind, or in the rows selected by `rows`."""
    which = of_kind(rows) if isinstance(rows, type) else rows

    def change(row: Any) -> Operation:
        return replace(row, kind=replace(row.kind, **attributes)) if which(row) else row

    return plan.changed(change)


def computed(plan: Plan, which: Which, compute: Compute) -> Plan:
    """Return the plan in which `compute` computes the rows selected by `which`."""
    return plan.changed(lambda row: replace(row, otherwise=compute) if which(row) else row)


def after(plan: Plan, which: Which, change: Callable[[Array], Array]) -> Plan:
    """Return the plan with `change` applied to the output of the rows selected by `which`."""

    def compute(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
        return change(reference(replace(row, otherwise=None), given, *inputs))

    return computed(plan, which, compute)


def reading(plan: Plan, which: Which, inputs: Callable[[Operation], tuple[str, ...]]) -> Plan:
    """Return the plan with other inputs for the rows selected by `which`."""
    return plan.changed(lambda row: replace(row, inputs=inputs(row)) if which(row) else row)


def fed(plan: Plan, name: str, *inputs: str) -> Plan:
    """Return the plan in which the rows with this name read `inputs`, in each layer."""
    own = [kind_of(source) for source in inputs]
    return reading(plan, called(name), lambda row: tuple(prefix_of(row.name) + source for source in own))


def with_instead(plan: Plan, instead: Instead) -> Plan:
    """Return the plan with replaced values of matrices, biases and gains."""

    def change(row: Operation) -> Operation:
        if not isinstance(row.kind, Linear | Norm | Experts):
            return row
        own = {name: instead[kind_of(name)] for name in row.kind.names if kind_of(name) in instead}
        return replace(row, instead={**(row.instead or {}), **own}) if own else row

    return plan.changed(change)
