"""Each norm's output held against what goes in, as the values pass. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..architecture.kinds import Norm
from ..arrays.norm_rows import NormRows
from ..arrays.stats import Array
from ..hooks.event import TraceEvent

if TYPE_CHECKING:
    from ..architecture.plan import Plan


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
        self._over: list[str] = []
        self.read: dict[str, Array] = {}
        first = next(iter(self._norms.values()), Norm(0.0))
        self.rows = NormRows(first.eps, centred=first.centred)

    @property
    def names(self) -> list[str]:
        """The events that it looks at, in order of computation."""
        wanted = {*self._norms, *self._last, *self._last.values()}
        return [name for name in self._plan if name in wanted]

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
        if kind.centred:
            stream = stream - stream.mean(axis=-1, keepdims=True)
        if kind.bias is not None:
            value = value - self._parameter(kind.bias)
        gain = None if kind.gain is None else self._parameter(kind.gain)
        self.rows.measure(name, stream, value, gain)
