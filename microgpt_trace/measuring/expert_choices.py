"""Measure which experts the positions of a text choose in each layer."""

from __future__ import annotations

import math

import numpy as np

from ..arrays.rounding import to_bf16
from ..arrays.stats import Array, median
from ..hooks.event import TraceEvent
from ..operations.choice import numbers, within_groups
from ..plans.kinds import Choice
from ..plans.plan import Plan
from ..text.frozen import frozen
from ..text.json_writing import in_document


@frozen
class ClosestChoice:
    """The position that chose its experts by the smallest margin. The margin is the logit of the last chosen
    expert minus the logit of the best `other` expert, which was not chosen."""

    position: int
    chosen: int
    other: int
    margin: float


@frozen
class ExpertChoices:
    """The experts that the positions of a text choose in a layer. The event `event` has their numbers.

    Each position chooses `count` experts. For each expert, `load` has the number of positions that chose this
    expert. `median_margin` is the median of the margins of all positions. `tied_in_bf16` counts the positions
    whose margin is 0 after the logits are rounded to bfloat16. If a position chooses all experts, there is no
    margin, and the last three fields are None.
    """

    layer: int
    event: str
    positions: int
    count: int
    load: tuple[int, ...]
    median_margin: float | None
    closest: ClosestChoice | None
    tied_in_bf16: int | None

    @property
    @in_document
    def used(self) -> int:
        """The number of experts that at least one position chose."""
        return sum(load > 0 for load in self.load)

    @property
    @in_document
    def load_entropy(self) -> float:
        """The entropy in bits of the experts' shares of all choices."""
        return float(entropy(np.array(self.load) / sum(self.load)))

    @property
    @in_document
    def most_entropy(self) -> float:
        """The entropy in bits of equal shares of all experts, or of as many experts as there are choices."""
        return math.log2(min(len(self.load), self.positions * self.count))


class ExpertMeter:
    """A hook that measures the choice of experts in each layer. Subscribe the hook to `names`, which is empty
    for a model without experts."""

    def __init__(self, plan: Plan) -> None:
        self._kinds = {row.name: row.kind for row in plan.of_kind(Choice)}
        self._logits_of = {row.name: row.inputs[0] for row in plan.of_kind(Choice)}
        self._logits: dict[str, Array] = {}
        self.names = [*self._logits_of, *self._logits_of.values()]
        self.choices: list[ExpertChoices] = []

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if event.name not in self._logits_of:
            self._logits[event.name] = value.copy()
            return
        logits = self._logits.pop(self._logits_of[event.name])
        self.choices.append(choices_of(event, logits, value, self._kinds[event.name]))


def choices_of(event: TraceEvent, logits: Array, chosen: Array, kind: Choice) -> ExpertChoices:
    """Measure the choices of an event, among the experts of the groups that are used: [T, E], [T, k]"""
    allowed = logits.shape[1] // kind.groups * kind.groups_used
    ids = numbers(chosen, logits.shape[1])
    load = np.bincount(ids.ravel(), minlength=logits.shape[1])
    assert event.layer is not None  # a choice of experts belongs to a layer
    margin, other = margins(within_groups(logits, kind), ids)
    at = int(margin.argmin())
    closest = ClosestChoice(at, int(ids[at, -1]), int(other[at]), float(margin[at]))
    tied = int(np.count_nonzero(margins(to_bf16(within_groups(logits, kind)), ids)[0] == 0))
    is_choice = ids.shape[1] < allowed
    return ExpertChoices(
        event.layer, event.name, len(ids), ids.shape[1], tuple(load.tolist()),
        median(margin) if is_choice else None, closest if is_choice else None,
        tied if is_choice else None,
    )  # fmt: skip


def margins(logits: Array, ids: Array) -> tuple[Array, Array]:
    """Return the logit of the last chosen expert minus the logit of the best other expert, and the number of
    that other expert: [T, E], [T, k] -> [T] twice"""
    wide, rows = logits.astype(np.float64), np.arange(len(logits))
    others = wide.copy()
    np.put_along_axis(others, ids, -np.inf, axis=1)
    best = others.argmax(axis=1)
    return wide[rows, ids[:, -1]] - others[rows, best], best


def entropy(shares: Array) -> Array:
    """Return the entropy of each row in bits: [..., E] -> [...]"""
    return 0.0 - (shares * np.log2(np.maximum(shares, np.finfo(np.float64).tiny))).sum(axis=-1)
