"""What interventions change: the distance of events and predictions from a run without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from ..arrays.logits import kl_divergence, log_softmax
from ..arrays.stats import PIECE, Array, causal_mask
from ..hooks.event import TraceEvent
from .result import EventChange, Prediction


class Comparer:
    """A hook that measures how far forward events lie from those of the run without interventions.

    `before` gives that run's value of an event, and is asked in order of computation.
    """

    def __init__(self, before: Callable[[str], Array]) -> None:
        self._before, self._distances = before, dict[str, Distance]()

    def __call__(self, event: TraceEvent, value: Array) -> None:
        before = self._before(event.name)
        if value.ndim == 3:
            below = causal_mask(*value.shape[-2:])
            value, before = np.where(below, value, 0), np.where(below, before, 0)
        self.add(event.name, value, before)

    def add(self, name: str, after: Array, before: Array) -> None:
        """Take values of an event, or some rows of them."""
        self._distances.setdefault(name, Distance()).add(after, before)

    def changes(self, shown: Collection[str], replaced: Iterable[str]) -> tuple[EventChange, ...]:
        """The measured changes of the events shown, in order of computation."""
        put = set(replaced)
        return tuple(
            EventChange(name, name in put, distance.relative())
            for name, distance in self._distances.items()
            if name in shown
        )


class Distance:
    """|after - before| / |before| of values that come piece by piece."""

    def __init__(self) -> None:
        self.squares = self.size = 0.0

    def add(self, after: Array, before: Array) -> None:
        a, b = np.ravel(after), np.ravel(before)
        for start in range(0, a.size, PIECE):
            wide = b[start : start + PIECE].astype(np.float64)
            off = a[start : start + PIECE].astype(np.float64) - wide
            self.squares += float(off.dot(off))
            self.size += float(wide.dot(wide))

    def relative(self) -> float | None:
        """|after - before| / |before|"""
        if self.squares == 0:
            return 0.0
        ratio = math.sqrt(self.squares / self.size) if self.size else math.inf
        return ratio if math.isfinite(ratio) else None


def distance(after: Array, before: Array) -> float:
    """|after - before| / |before|; |after| where that is zero"""
    found = Distance()
    found.add(after, before)
    return math.sqrt(found.squares / (found.size or 1.0))


def divergences(before: Array, after: Array, probs: Array | None = None) -> list[float | None]:
    """KL(before || after) of every row, in nats, from logits; `probs` stand in place of those after.

    [N, V], [N, V] -> N numbers, None where one is not finite
    """
    rows = range(len(before))  # one at a time: float64 takes twice the room
    return [_divergence(before[i], after[i], None if probs is None else probs[i]) for i in rows]


@np.errstate(all="ignore")
def _divergence(before: Array, after: Array, probs: Array | None) -> float | None:
    log_p = log_softmax(before)
    log_q = log_softmax(after) if probs is None else np.log(probs.astype(np.float64))
    kl = float(kl_divergence(log_p, log_q))
    return max(0.0, kl) if math.isfinite(kl) else None


def p_after(before: Sequence[Prediction], probs: Array) -> list[float | None]:
    """The P that each prediction of a run has in probs [N, V] of another; None where there was none."""
    pairs = zip(before, probs, strict=True)
    return [None if p.predicted is None else float(row[p.predicted.token]) for p, row in pairs]


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is missing, or there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
