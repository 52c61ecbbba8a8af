"""The self-check of a trace: invariants held against the values as they were computed.

A `Checker` looks at events as they pass and keeps no more than one layer's stream. What goes into
an operation is taken as used (a hook may have replaced it), what comes out as computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..architecture.edits import Edit, editing
from ..architecture.plans.kinds import Probabilities, Softmax
from ..architecture.plans.plan import Plan
from ..arrays.stats import Array, causal_mask
from ..hooks.bus import SILENT, HookBus, Subscription, Tap
from ..hooks.event import PHASES, TraceEvent
from ..rounding.invariants import OF_SUMS
from ..text.wording import unnumbered
from .findings import Check

UNTRACED = "traced logits equal untraced ones"
CLAIMS = {
    "heads": "the heads sum to attn.out",
    "residual": "residual = input + branch",
    "softmax": "softmax rows sum to 1",
    "causal": "no attention weight above the diagonal",
}


class Checker:
    """Subscribes to a bus for one forward pass and judges what it saw of a plan's events.

    `parameter` gives a bias by its name: what a sum's parts leave out.
    """

    def __init__(self, plan: Plan, parameter: Callable[[str], Array]) -> None:
        self.first_nonfinite: str | None = None
        self.where = ""  # which pass it is that the checker looks at
        self.vanishing: Array | None = None  # where P is too small for d loss / d P, which leads nowhere
        self.infinite = ""  # where that was seen
        self._plan, self._parameter = plan, parameter
        self._last_sum = {name: own for own, read in plan.residuals.items() for name in read}
        self._added: dict[str, Array] = {}  # what residual sums add up, as used
        self._parts: Array | None = None  # the sum of a row's parts so far: the heads
        self._parts_seen = 0
        self._parts_magnitude = 0.0  # the sum of their largest elements
        self._worst: dict[str, tuple[float, str]] = {}  # by claim: the deviation, and of which event
        self._dtype = "float32"

    def observers(self, bus: HookBus, *names: str) -> tuple[Subscription, Subscription]:
        """Who looks at the events before any other hook, and who at forward ones after all of them."""
        return (
            bus.subscription(self._computed, *names, phases=PHASES, stats=True, parts=True),
            bus.subscription(self._used, *names, parts=True),
        )

    def _computed(self, event: TraceEvent, value: Array) -> None:
        self._dtype = event.dtype
        bad = event.stats is not None and event.stats.nonfinite_count
        if bad and self.first_nonfinite is None and not self._is_vanishing(event, value):
            self.first_nonfinite = self.where + _first_nonfinite(event, value)
        if event.phase != "forward" or not value.size:  # told of, but worked out in parts
            return
        row = self._plan[event.name]
        if row.parts:
            parts, self._parts = self._parts, None
            if parts is not None and self._parts_seen == len(row.parts):
                parts = parts if row.bias is None else parts + self._parameter(row.bias)
                self._compare("heads", event, parts, value, self._parts_magnitude)
        elif event.name in self._plan.residuals:
            self._compare_residual(event, value)
        elif isinstance(row.kind, Softmax | Probabilities):
            self.rows_sum_to_1(event.name, value)
        if isinstance(row.kind, Softmax):
            above = np.where(causal_mask(*value.shape[-2:]), 0, value)
            self._record("causal", event.name, max(float(above.max()), -float(above.min())))

    def _compare_residual(self, event: TraceEvent, value: Array) -> None:
        read = self._plan.residuals[event.name]
        if all(name in self._added for name in read):
            stream, branch = (self._added[name] for name in read)
            self._compare("residual", event, stream + branch, value)
        for name in read:
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

    def _is_vanishing(self, event: TraceEvent, value: Array) -> bool:
        """Whether d loss / d P is infinite where P vanishes, and nowhere else."""
        if self.vanishing is None or (event.phase, event.name) != ("backward", "probs"):
            return False
        if not np.isfinite(value[~self.vanishing]).all() or np.isnan(value).any():
            return False
        count = int(np.count_nonzero(np.isinf(value)))
        whose = "1 target" if count == 1 else f"{count} targets"
        self.infinite = (
            f"{_first_nonfinite(event, value)}: the P of {whose} is 0 or next to it, and this is -1 / (T P)"
        )
        return True

    def rows_sum_to_1(self, name: str, value: Array) -> None:
        """Record how far the rows of probabilities [..., V] stray from that."""
        self._record("softmax", name, float(np.abs(value.sum(axis=-1) - 1).max(initial=0.0)))

    def _compare(
        self, claim: str, event: TraceEvent, found: Array, expected: Array, magnitude: float = 1.0
    ) -> None:
        """Record the largest difference, relative to the magnitude of what was added up."""
        self._record(claim, event.name, float(np.abs(found - expected).max(initial=0.0)) / (magnitude or 1.0))

    def _record(self, claim: str, where: str, deviation: float) -> None:
        worst, _ = self._worst.setdefault(claim, (0.0, ""))
        if np.isfinite(worst) and not deviation <= worst:  # NaN is the worst and stays
            self._worst[claim] = deviation, where

    def finite(self) -> Check:
        """Whether every value of every phase so far is finite, and where the first is not."""
        claim = "every event is finite"
        if self.first_nonfinite is not None:
            return Check("finite", claim, False, None, 0.0, self.first_nonfinite)
        if self.infinite:
            claim += " but d loss / d P where P vanishes, which no other gradient is worked out from"
        return Check("finite", claim, True, None, 0.0, self.infinite)

    def checks(self) -> list[Check]:
        """The verdicts on what was seen of the forward pass."""
        result = []
        for name, claim in CLAIMS.items():
            tolerance = OF_SUMS[self._dtype] if name in ("heads", "softmax") else 0.0
            deviation, where = self._worst.get(name, (None, "no such event in this run"))
            if deviation is not None and not np.isfinite(deviation):
                deviation, where = None, f"{where} is not finite"
            holds = None if deviation is None else deviation <= tolerance
            result.append(Check(name, claim, holds, deviation, tolerance, where))
        return result


def untraced(replaced: Mapping[str, Array]) -> Tap:
    """The tap of a run that nobody observes, with what hooks had replaced put in place again."""
    again = [Edit(name, lambda value, new=new: new) for name, new in replaced.items()]  # type: ignore[misc]
    return editing(*again) if again else SILENT


def untraced_check(traced: Array, untraced: Array) -> Check:
    """Whether a run that nobody observed gave the same numbers, bit for bit."""
    same = np.array_equal(traced, untraced, equal_nan=True)
    difference = 0.0 if same else float(np.abs(traced - untraced).max())
    return Check("untraced", UNTRACED, same, difference, 0.0)


def _first_nonfinite(event: TraceEvent, value: Array) -> str:
    """Where the first such element of an event is."""
    phase = "" if event.phase == "forward" else f"{event.phase} of "
    if not value.size:
        return f"{phase}{event.name}"
    bad = ~np.isfinite(value)
    if value.ndim == 3:  # [H, T, S]: what lies above the diagonal does not count
        bad = np.tril(bad, value.shape[2] - value.shape[1])
    index = np.argwhere(bad)[0].tolist()
    position = f", position {index[-2 if value.ndim == 3 else 0]}" if index else ""
    return f"{phase}{event.name}{position}, element {index} = {unnumbered(float(value[tuple(index)]))}"
