"""Norms: what each made of every row, how far that is from what it should give, and how much eps takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.plans.kinds import Norm
from ..arrays.stats import Array
from ..hooks.event import TraceEvent

if TYPE_CHECKING:
    from ..architecture.plans.plan import Plan


@dataclass
class NormRows:
    """The norms of a run, measured as their values pass.

    `off` is by norm the largest deviation of a row's RMS, its gain divided out, from what RMSNorm gives:
    with x the row that went in, mean((y / g)^2) = mean(x^2) / (mean(x^2) + eps). That is 1 less what eps
    takes; `least` is by norm the smallest of it. A norm whose gain is all zero is not among them. `centred`
    says that they subtract the mean and add a bias: what is measured has neither.
    """

    eps: float
    off: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0  # norms of which some channels have none
    centred: bool = False

    @property
    def of(self) -> str:
        """The norm's name."""
        return "LayerNorm" if self.centred else "RMSNorm"

    @property
    def worst(self) -> str:
        """The norm that is farthest off."""
        return max(self.off, key=lambda name: self.off[name] if math.isfinite(self.off[name]) else math.inf)

    @property
    def tightest(self) -> str:
        """The norm of which eps takes the most."""
        return min(self.least, key=self.least.__getitem__)

    @property
    def undone(self) -> str:
        """What is undone before rows are measured, in words."""
        return "bias subtracted and the gain divided out" if self.centred else "gain divided out"


class NormMeter:
    """A hook that measures the norms of whole rows; subscribe it to `names`.

    What they read is in `read` up to the last of them. `also` are more events to keep, each with an event
    that is in need of it.
    """

    def __init__(
        self, plan: Plan, parameter: Callable[[str], Array], also: Collection[tuple[str, str]] = ()
    ) -> None:
        self._plan, self._parameter = plan, parameter
        self._norms = {
            own.name: own.kind
            for own in plan.values()
            if isinstance(own.kind, Norm) and not own.kind.head_dim
        }
        needs = [*((plan[name].inputs[0], name) for name in self._norms), *also]
        self._last = dict(sorted(needs, key=lambda need: plan.order[need[1]]))  # by event who needs it last
        wanted = {*self._norms, *self._last, *self._last.values()}
        self.names = [name for name in plan if name in wanted]
        self._over: list[str] = []
        self.read: dict[str, Array] = {}
        first = next(iter(self._norms.values()), Norm(0.0))
        self.rows = NormRows(first.eps, centred=first.centred)

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
        """Take what goes into a norm and what comes out, [T, C] each."""
        rows = self.rows
        if kind.centred:
            stream = stream - stream.mean(axis=-1, keepdims=True)
        if kind.bias is not None:
            value = value - self._parameter(kind.bias)
        mean = np.square(stream).mean(axis=1)
        gain = np.ones(1, value.dtype) if kind.gain is None else self._parameter(kind.gain)
        if not gain.all():  # nothing can be divided out of channels without gain
            rows.without_gain += 1
            used = gain != 0
            if not used.any():
                return
            stream, value, gain = stream[:, used], value[:, used], gain[used]
        found = np.sqrt(np.square(value / gain).mean(axis=1))
        expected = np.sqrt(np.square(stream).mean(axis=1) / (mean + rows.eps))
        rows.off[name] = float(np.abs(found - expected).max(initial=0.0))
        rows.least[name] = float(np.sqrt(mean / (mean + rows.eps)).min(initial=math.inf))
