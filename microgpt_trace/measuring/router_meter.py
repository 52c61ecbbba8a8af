"""Measure which experts a corpus uses.

The probabilities of a router are the softmax of its logits over all experts, or its scores divided by their
sum. Rows with a logit that is not finite are left out. Entropies are in bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..arrays.logits import softmax
from ..arrays.stats import NOT_FINITE, Array
from ..decoder.catalogue import kind_named
from ..operations.choice import numbers
from ..plans.kinds import Activation
from .expert_choices import entropy
from .meter import Meter
from .tallies import Counts, Sums, named


class RouterTallies:
    """The tallies of a router: the number of rows, the number of rows that chose each expert, the sums of the
    probabilities, and the sum of their entropies."""

    def __init__(self, experts: int) -> None:
        self.routed, self.load = Counts(1), Counts(experts)
        self.routing, self.routing_entropy = Sums(experts), Sums(1)


class RouterMeter(Meter):
    """A meter of the choices of experts. `routers` maps each event of logits or scores to the event of the
    chosen experts, and `experts` has the number of experts of each event of logits."""

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
        source = self._logits_of[name]
        own, logits = self._own[source], self._logits.pop(source)
        fine = np.isfinite(logits.sum(axis=1, dtype=np.float64))
        wide = logits.astype(np.float64)
        by_sum = isinstance(kind_named(source), Activation)
        probabilities = wide / wide.sum(axis=1, keepdims=True) if by_sum else softmax(wide)
        shares = np.where(fine[:, None], probabilities, 0)
        own.routing.add(shares)
        own.routing_entropy.add(entropy(shares))
        ids = numbers(value[fine], logits.shape[1])
        own.routed.numbers += len(ids)
        own.load.numbers += np.bincount(ids.ravel(), minlength=logits.shape[1])
