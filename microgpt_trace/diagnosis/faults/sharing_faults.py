"""Mistakes with values that a layer reads from before: keys and values of an earlier layer, its part of the
inputs of all layers, and a factor of the whole residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial as bind

from ...plans.kinds import Channels, Context, Rotation, Scale, Scores
from ...plans.plan import Operation, Plan, kind_of, layer_of
from ..case import Case
from ..hypothesis import Hypothesis
from .changes import called, computed, reading

FARTHEST = 6  # layers


def _is_borrowing(row: Operation) -> bool:
    return isinstance(row.kind, Scores | Context) and layer_of(row.inputs[1]) != row.layer


def keys_and_values(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a layer reads the keys of an earlier layer before RoPE, or those of another layer."""
    row, plan = next(filter(_is_borrowing, case.rows.values()), None), case.plan
    if row is None or (earlier := layer_of(row.inputs[1])) is None:
        return

    def unturned(own: Operation) -> tuple[str, ...]:
        key = plan[own.inputs[1]]
        return (own.inputs[0], key.inputs[0] if isinstance(key.kind, Rotation) else key.name)

    claim = f"the keys of layer {earlier} are read before RoPE, not after RoPE"
    yield Hypothesis("shared-keys-unturned", claim, reading(plan, _is_borrowing, unturned))
    for by in sorted(range(-FARTHEST, FARTHEST + 1), key=abs)[1:]:
        moved = reading(plan, _is_borrowing, bind(_of_layer, plan, by))
        if moved[row.name].inputs != row.inputs:
            claim = f"the keys and values of layer {earlier + by} are read, not those of layer {earlier}"
            yield Hypothesis("shared-keys-of-layer", claim, moved)


def _of_layer(plan: Plan, by: int, row: Operation) -> tuple[str, ...]:
    """Return the inputs of a row that reads another layer `by` layers away, if this layer has equal heads."""
    layer, source = layer_of(row.inputs[1]), row.inputs[1]
    other = f"layer{(layer or 0) + by}.{kind_of(source)}"
    shapes, known = plan.open_shapes, other in plan and (layer or 0) + by < (row.layer or 0)
    return (row.inputs[0], other if known and shapes[other] == shapes[source] else source)


def parts(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a layer reads the part of the next or of the previous layer."""
    for row in case.rows.of_kind(Channels)[:1]:
        total = case.given.shapes[row.inputs[0]][1]
        for by, which in ((1, "next"), (-1, "previous")):
            plan = case.plan.changed(bind(_moved, by, total))
            yield Hypothesis("part-of-layer", f"the part of the {which} layer is read", plan)


def _moved(by: int, total: int, row: Operation) -> Operation:
    if not isinstance(row.kind, Channels):
        return row
    return replace(row, kind=replace(row.kind, first=(row.kind.first + by * row.kind.width) % total))


def scaled_streams(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that a factor of the stream multiplies only what was added last."""
    plan = case.plan
    for row in (row for row in case.rows.of_kind(Scale) if row.inputs[0] in plan.residuals):
        which = called(row.name)
        apart = reading(plan, which, lambda own: plan.residuals[own.inputs[0]])
        wrong = computed(apart, which, lambda own, given, x, y: x + own.kind.factor * y)
        claim = "the factor multiplies only what was added last, not the whole stream"
        yield Hypothesis("factor-of-branch", claim, wrong)
