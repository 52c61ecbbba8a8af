"""Measure how far the outputs of norms deviate from the definition, and how much eps lowers the RMS."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..plans.kinds import Norm
from ..plans.plan import Plan


@dataclass
class NormRows:
    """Measurements of the rows that the norms of a run compute.

    A norm with gain g computes y from a row x, so that mean((y / g)^2) = mean(x^2) / (mean(x^2) + eps).
    Without eps, the RMS of y / g would be 1. For each norm, `off` is the largest deviation of a row's RMS
    from the definition, and `least` is the smallest RMS by the definition. A norm is left out if all gains
    are 0. `centred` is True if the norms subtract the mean of x, and `biased` if they add a bias to y. The
    meter removes the mean and the bias before it measures.
    """

    eps: dict[str, float] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0  # the number of norms where a channel's gain is 0
    centred: bool | None = False  # None if only some norms are centred
    biased: bool = False

    @property
    def of(self) -> str:
        return {True: "LayerNorm", False: "RMSNorm", None: "LayerNorm or RMSNorm"}[self.centred]

    @property
    def worst(self) -> str:
        return max(self.off, key=lambda name: self.off[name] if math.isfinite(self.off[name]) else math.inf)

    @property
    def tightest(self) -> str:
        """The norm where eps lowers the RMS of a row most."""
        return min(self.least, key=self.least.__getitem__)

    @property
    def undone(self) -> str:
        """Words for the steps of the norm that the meter reverses before the measurement."""
        return "bias subtracted and the gain divided out" if self.biased else "gain divided out"


class NormMeter:
    """A hook that measures the norms of whole rows. Subscribe the hook to `names`. `read` stores the inputs
    of norms until their last use. `also` lists pairs: an event to store, and a later event that needs the
    stored value."""

    def __init__(
        self, plan: Plan, parameter: Callable[[str], Array], also: Collection[tuple[str, str]] = ()
    ) -> None:
        self._plan, self._parameter = plan, parameter
        self._norms = {
            row.name: row.kind
            for row in plan.values()
            if isinstance(row.kind, Norm) and not row.kind.head_dim
        }
        needs = [*((plan[name].inputs[0], name) for name in self._norms), *also]
        self._last = dict(sorted(needs, key=lambda need: plan.order[need[1]]))  # event -> last reader
        needed = {*self._norms, *self._last, *self._last.values()}
        self.names = [name for name in plan if name in needed]
        self._over: list[str] = []
        self.read: dict[str, Array] = {}
        centred = {kind.centred for kind in self._norms.values()} or {False}
        biased = any(kind.bias for kind in self._norms.values())
        self.rows = NormRows(centred=None if len(centred) > 1 else centred.pop(), biased=biased)

    def __call__(self, event: TraceEvent, value: Array) -> None:
        for name in self._over:
            self.read.pop(name, None)
        self._over = [name for name, last in self._last.items() if last == event.name]
        kind = self._norms.get(event.name)
        if kind is not None:
            self._measure(event.name, kind, self.read[self._plan[event.name].inputs[0]], value)
        if event.name in self._last:
            self.read[event.name] = value.copy()

    def _measure(self, name: str, kind: Norm, stream: Array, value: Array) -> None:
        """Measure the input `stream` and the output `value` of a norm, [T, C] each."""
        rows = self.rows
        if kind.centred:
            stream = stream - stream.mean(axis=-1, keepdims=True)
        if kind.bias is not None:
            value = value - self._parameter(kind.bias)
        mean = np.square(stream).mean(axis=1)
        gain = np.ones(1, value.dtype) if kind.gain is None else self._parameter(kind.gain)
        if not gain.all():  # a gain of 0 cannot be divided out
            rows.without_gain += 1
            used = gain != 0
            if not used.any():
                return
            stream, value, gain = stream[:, used], value[:, used], gain[used]
        rms = np.sqrt(np.square(value / gain).mean(axis=1))
        expected = np.sqrt(np.square(stream).mean(axis=1) / (mean + kind.eps))
        rows.eps[name] = kind.eps
        rows.off[name] = float(np.abs(rms - expected).max(initial=0.0))
        rows.least[name] = float(np.sqrt(mean / (mean + kind.eps)).min(initial=math.inf))
