"""Measure which experts the positions of a text choose in each layer, and which experts a corpus uses.

Over a corpus, the probabilities of a router are the softmax of its logits over all experts. Rows with a logit
that is not finite are left out. Entropies are in bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..architecture.operations.choice import numbers
from ..architecture.plans.kinds import Choice
from ..architecture.plans.plan import Plan
from ..arrays.logits import softmax
from ..arrays.rounding import to_bf16
from ..arrays.stats import NOT_FINITE, Array, median
from ..hooks.event import TraceEvent
from .expert_choices import ClosestChoice, ExpertChoices, entropy
from .meter import Meter
from .tallies import Counts, Sums, named


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
    tied = int(np.count_nonzero(margins(to_bf16(logits), ids)[0] == 0))
    is_choice = ids.shape[1] < logits.shape[1]
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


class RouterTallies:
    """The tallies of a router: the number of rows, the number of rows that chose each expert, the sums of the
    probabilities, and the sum of their entropies."""

    def __init__(self, experts: int) -> None:
        self.routed, self.load = Counts(1), Counts(experts)
        self.routing, self.routing_entropy = Sums(experts), Sums(1)


class RouterMeter(Meter):
    """A meter of the choices of experts. `routers` maps each event of logits to the event of the chosen
    experts, and `experts` has the number of experts of each event of logits."""

    def __init__(self, routers: Mapping[str, str], experts: Mapping[str, int]) -> None:
        self._logits_of = {chosen: logits for logits, chosen in routers.items()}
        self._own = {name: RouterTallies(experts[name]) for name in routers}
        self._logits: dict[str, Array] = {}
        self.names = [*routers, *routers.values()]
        self.tallies = named({name: vars(own) for name, own in self._own.items()})

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        if name in self._own:
            self._logits[name] = value
            return
        own, logits = self._own[self._logits_of[name]], self._logits.pop(self._logits_of[name])
        fine = np.isfinite(logits.sum(axis=1, dtype=np.float64))
        shares = np.where(fine[:, None], softmax(logits.astype(np.float64)), 0)
        own.routing.add(shares)
        own.routing_entropy.add(entropy(shares))
        ids = numbers(value[fine], logits.shape[1])
        own.routed.numbers += len(ids)
        own.load.numbers += np.bincount(ids.ravel(), minlength=logits.shape[1])
