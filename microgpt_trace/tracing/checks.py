"""The self-checks of a trace: invariants that the traced values must satisfy.

A `Checker` receives each event when the event is computed, and keeps the streams of at most one layer. A
check uses an operation's inputs after all hooks, and the operation's output before any hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..arrays.stats import Array, causal_mask
from ..hooks.bus import HookBus, Subscription
from ..hooks.event import PHASES, TraceEvent
from ..plans.kinds import Probabilities, Routing, Softmax
from ..plans.plan import Plan
from ..rounding.invariants import OF_SUMS
from ..text.wording import counted, nonfinite_name
from .findings import Check

UNTRACED = "traced logits equal untraced logits"
CLAIMS = {
    "heads": "the heads sum to attn.out",
    "residual": "residual = input + branch",
    "softmax": "softmax rows sum to 1",
    "causal": "no attention weight above the diagonal",
}


class Checker:
    """Observe one forward pass on a bus and check the events of a plan. `parameter` returns a bias by name,
    because attn.out includes a bias that no head includes."""

    def __init__(self, plan: Plan, parameter: Callable[[str], Array]) -> None:
        self.first_nonfinite: str | None = None
        self.where = ""  # the name of the pass, a prefix for names of events
        self.vanishing: Array | None = None  # marks the probabilities P whose d loss / d P may be infinite
        self.infinite = ""  # the place of an infinite d loss / d P
        self._plan, self._parameter = plan, parameter
        self._with_sinks = {row.name for row in plan.of_kind(Softmax) if row.kind.sinks}
        self._weights = {row.name for row in plan.of_kind(Softmax)}
        self._shares = {*self._weights, *(row.name for row in plan.of_kind(Probabilities))}
        self._shares |= {row.name for row in plan.of_kind(Routing) if row.kind.normalised}
        self._last_sum = {name: total for total, inputs in plan.residuals.items() for name in inputs}
        self._added: dict[str, Array] = {}  # the inputs of residual sums, after all hooks
        self._parts: Array | None = None  # the sum of the heads so far
        self._parts_seen = 0
        self._parts_magnitude = 0.0  # the sum of the heads' largest elements
        self._bad: dict[str, tuple[list[int], str]] = {}  # index and place of an event's non-finite element
        self._worst: dict[str, tuple[float, str]] = {}  # claim -> (largest deviation, place)
        self._dtype = "float32"

    def observers(self, bus: HookBus, *names: str) -> tuple[Subscription, Subscription]:
        """Return subscriptions to events before any other hook, and to forward events after all hooks."""
        computed = bus.subscription(self._computed, *names, phases=PHASES, stats=True, parts=self._part)
        added = computed.names.intersection({*self._last_sum, *self._plan.sums_of})
        return computed, Subscription(self._used, added, ("forward",), stats=False, parts=True)

    def _computed(self, event: TraceEvent, value: Array) -> None:
        self._dtype = event.dtype
        if value.size:
            self._part(event, value)
        _, place = self._bad.pop(event.name, ([], ""))
        if place and self.first_nonfinite is None and not self._is_vanishing(event, value, place):
            self.first_nonfinite = self.where + place
        if event.phase != "forward" or not value.size:  # an event that is emitted in parts has an empty value
            return
        row = self._plan[event.name]
        if row.parts:
            parts, self._parts = self._parts, None
            if parts is not None and self._parts_seen == len(row.parts):
                parts = parts if row.bias is None else parts + self._parameter(row.bias)
                self._compare("heads", event, parts, value, self._parts_magnitude)
        elif event.name in self._plan.residuals:
            self._compare_residual(event, value)

    def _part(self, event: TraceEvent, value: Array) -> None:
        """Receive an event, or some of its rows or queries."""
        if event.stats is not None and event.stats.nonfinite_count:
            for found in _nonfinite(event, value):
                self._bad[event.name] = min(found, self._bad.get(event.name, found))
        if event.phase == "forward":
            self._check_shares(event.name, value)

    def _check_shares(self, name: str, value: Array) -> None:
        """Check probabilities [n, V], shares of experts, or the attention weights of some queries [H, n, S]:
        the sum of each row, and that no query sees a later key. With attention sinks, a sum may be smaller
        than 1."""
        if name in self._shares:
            off = value.sum(axis=-1) - 1
            off = np.maximum(off, 0) if name in self._with_sinks else np.abs(off)
            self._record("softmax", name, float(off.max(initial=0.0)))
        if name in self._weights:
            queries, keys = value.shape[-2:]
            last = value[..., keys - queries :]  # all queries see the keys before
            above = np.where(causal_mask(queries, queries), 0, last)
            self._record("causal", name, max(float(above.max()), -float(above.min())))

    def _compare_residual(self, event: TraceEvent, value: Array) -> None:
        inputs = self._plan.residuals[event.name]
        if all(name in self._added for name in inputs):
            stream, branch = (self._added[name] for name in inputs)
            self._compare("residual", event, stream + branch, value)
        for name in inputs:
            if self._last_sum[name] == event.name:
                self._added.pop(name, None)

    def _used(self, event: TraceEvent, value: Array) -> None:
        if event.name in self._last_sum:
            self._added[event.name] = value.copy()
        if event.name in self._plan.sums_of:
            if self._plan.sums_of[event.name].parts[0] == event.name:
                self._parts, self._parts_seen, self._parts_magnitude = None, 0, 0.0
            self._parts = value.copy() if self._parts is None else self._parts + value
            self._parts_seen += 1
            self._parts_magnitude += float(np.abs(value).max(initial=0.0))

    def _is_vanishing(self, event: TraceEvent, value: Array, place: str) -> bool:
        """Return True if d loss / d P is infinite only at probabilities that `vanishing` marks."""
        if self.vanishing is None or (event.phase, event.name) != ("backward", "probs"):
            return False
        if not np.isfinite(value[~self.vanishing]).all() or np.isnan(value).any():
            return False
        targets = counted(int(np.count_nonzero(np.isinf(value))), "target")
        self.infinite = f"{place}: the P of {targets} is 0 or almost 0, and d loss / d P is -1 / (T P)"
        return True

    def _compare(
        self, claim: str, event: TraceEvent, value: Array, expected: Array, magnitude: float = 1.0
    ) -> None:
        """Record the largest difference, relative to `magnitude`."""
        off = float(np.abs(value - expected).max(initial=0.0))
        self._record(claim, event.name, off / (magnitude or 1.0))

    def _record(self, claim: str, where: str, deviation: float) -> None:
        worst, _ = self._worst.setdefault(claim, (0.0, ""))
        if np.isfinite(worst) and not deviation <= worst:  # a deviation of NaN is the worst
            self._worst[claim] = deviation, where

    def finite(self) -> Check:
        """Check that every value of every phase so far is finite."""
        claim = "every event is finite"
        if self.first_nonfinite is not None:
            return Check("finite", claim, False, None, 0.0, self.first_nonfinite)
        if self.infinite:
            claim += " except d loss / d P where P is almost 0, which no other gradient uses"
        return Check("finite", claim, True, None, 0.0, self.infinite)

    def checks(self) -> list[Check]:
        """Return a check for each claim about the forward pass."""
        result = []
        for name, claim in CLAIMS.items():
            if name == "softmax" and self._with_sinks:
                claim += ", or to less where a sink takes a share"
            tolerance = OF_SUMS[self._dtype] if name in ("heads", "softmax") else 0.0
            deviation, where = self._worst.get(name, (None, "no such event in this run"))
            if deviation is not None and not np.isfinite(deviation):
                deviation, where = None, f"{where} is not finite"
            holds = None if deviation is None else deviation <= tolerance
            result.append(Check(name, claim, holds, deviation, tolerance, where))
        return result


def untraced_check(traced: Array, untraced: Array) -> Check:
    """Check that a run with observers and a run without observers computed equal numbers, bit for bit."""
    same = np.array_equal(traced, untraced, equal_nan=True)
    difference = 0.0 if same else float(np.abs(traced - untraced).max())
    return Check("untraced", UNTRACED, same, difference, 0.0)


def _nonfinite(event: TraceEvent, value: Array) -> Iterator[tuple[list[int], str]]:
    """Yield the index and the place of the first non-finite element, if any. `value` may be the last part of
    an event."""
    bad = ~np.isfinite(value)
    if value.ndim == 3:  # [H, T, S]: ignore elements above the diagonal
        bad = np.tril(bad, value.shape[2] - value.shape[1])
    for index in np.argwhere(bad)[:1].tolist():
        found = nonfinite_name(float(value[tuple(index)]))
        if value.ndim > 1:
            index[-2] += event.shape[-2] - value.shape[-2]
        phase = "" if event.phase == "forward" else f"{event.phase} of "
        position = f", position {index[-2 if value.ndim == 3 else 0]}" if index else ""
        yield index, f"{phase}{event.name}{position}, element {index} = {found}"
