"""Measure which experts the positions of a text choose, and by which margins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..architecture.operations.choice import numbers
from ..architecture.plans.kinds import Choice
from ..arrays.rounding import to_bf16
from ..arrays.stats import Array, median
from ..hooks.event import TraceEvent
from .expert_choices import ClosestChoice, ExpertChoices

if TYPE_CHECKING:
    from ..architecture.plans.plan import Plan


class ExpertMeter:
    """A hook that measures the choice of experts in each layer. Subscribe the hook to `names`, which is empty
    for a model without experts."""

    def __init__(self, plan: Plan) -> None:
        self._logits_of = {row.name: row.inputs[0] for row in plan.of_kind(Choice)}
        self._logits: dict[str, Array] = {}
        self.names = [*self._logits_of, *self._logits_of.values()]
        self.choices: list[ExpertChoices] = []

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if event.name not in self._logits_of:
            self._logits[event.name] = value.copy()
            return
        logits = self._logits.pop(self._logits_of[event.name])
        self.choices.append(choices_of(event, logits, value))


def choices_of(event: TraceEvent, logits: Array, chosen: Array) -> ExpertChoices:
    """Measure the choices of an event: [T, E], [T, k]"""
    ids = numbers(chosen, logits.shape[1])
    load = np.bincount(ids.ravel(), minlength=logits.shape[1])
    assert event.layer is not None  # a choice of experts belongs to a layer
    margin, other = margins(logits, ids)
    at = int(margin.argmin())
    closest = ClosestChoice(at, int(ids[at, -1]), int(other[at]), float(margin[at]))
    is_choice = ids.shape[1] < logits.shape[1]
    return ExpertChoices(
        event.layer, event.name, len(ids), ids.shape[1], tuple(load.tolist()),
        median(margin) if is_choice else None, closest if is_choice else None,
        tied_in_bf16(logits, ids) if is_choice else None,
    )  # fmt: skip


def margins(logits: Array, ids: Array) -> tuple[Array, Array]:
    """Return the logit of the last chosen expert minus the logit of the best other expert, and the number of
    that other expert: [T, E], [T, k] -> [T] twice"""
    wide, rows = logits.astype(np.float64), np.arange(len(logits))
    others = wide.copy()
    np.put_along_axis(others, ids, -np.inf, axis=1)
    best = others.argmax(axis=1)
    return wide[rows, ids[:, -1]] - others[rows, best], best


def tied_in_bf16(logits: Array, ids: Array) -> int:
    """Return the number of positions whose margin is 0 after the logits are rounded to bfloat16."""
    return int(np.count_nonzero(margins(to_bf16(logits), ids)[0] == 0))
