"""Changes: plans in which some rows compute otherwise. Knows no mistake by itself.

What is changed of a row is its kind (attributes included), its inputs, what is read in the place of a
parameter, or what computes it; rows are chosen by what they are, in all layers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...architecture.operations.by_kind import reference
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.kinds import Kind, Linear, Norm
from ...architecture.plans.plan import Operation, Plan, kind_of, prefix_of
from ...arrays.stats import Array

Which = Callable[[Operation], bool]
Compute = Callable[..., Array]  # from a row, what a reference reads besides events, and the row's inputs
Instead = Mapping[str, Callable[[str], Array]]  # by a parameter's name without its layer, from its whole name


def of_kind(*kinds: type[Kind]) -> Which:
    """Rows of these kinds."""
    return lambda row: isinstance(row.kind, kinds)


def called(name: str) -> Which:
    """The rows that have an event's name, whatever their layer."""
    own = kind_of(name)
    return lambda row: kind_of(row.name) == own


def with_attributes(plan: Plan, kind: type[Kind], **attributes: Any) -> Plan:
    """The plan where all rows of a kind have other attributes."""
    which = of_kind(kind)

    def change(row: Any) -> Operation:
        return replace(row, kind=replace(row.kind, **attributes)) if which(row) else row

    return plan.changed(change)


def computed(plan: Plan, which: Which, compute: Compute) -> Plan:
    """The plan where something else computes some rows."""
    return plan.changed(lambda row: replace(row, otherwise=compute) if which(row) else row)


def after(plan: Plan, which: Which, change: Callable[[Array], Array]) -> Plan:
    """The plan where what some rows give is changed."""

    def compute(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
        return change(reference(replace(row, otherwise=None), given, *inputs))

    return computed(plan, which, compute)


def reading(plan: Plan, which: Which, inputs: Callable[[Operation], tuple[str, ...]]) -> Plan:
    """The plan where some rows read other events."""
    return plan.changed(lambda row: replace(row, inputs=inputs(row)) if which(row) else row)


def fed(plan: Plan, name: str, *inputs: str) -> Plan:
    """The plan where the rows that have an event's name read these events, each of its own layer."""
    own = [kind_of(source) for source in inputs]
    return reading(plan, called(name), lambda row: tuple(prefix_of(row.name) + source for source in own))


def with_instead(plan: Plan, instead: Instead) -> Plan:
    """The plan where something else is read in the place of matrices, biases and gains."""

    def change(row: Operation) -> Operation:
        if not isinstance(row.kind, Linear | Norm):
            return row
        own = {name: instead[kind_of(name)] for name in row.kind.names if kind_of(name) in instead}
        return replace(row, instead={**(row.instead or {}), **own}) if own else row

    return plan.changed(change)
