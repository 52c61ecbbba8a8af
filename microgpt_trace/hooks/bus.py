"""The hook bus delivers the values of a run to hooks. Each model defines the specs of its events.

A model runs under a `Tap` and calls `value = tap.emit(name, value)`. Without hooks, `emit` returns the value
unchanged, in 50 ns. Hooks are plain callables that are subscribed to a `HookBus`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ..arrays.stats import Array, TensorStats, causal_mask
from ..errors import InputError
from ..text.brief import one_line
from ..text.frozen import frozen
from .event import PHASES, EventSpec, Phase, ReadOnly, Replacement, TraceEvent, checked_replacement
from .names import select_names

Hook = Callable[[TraceEvent, Array], Any]
name_of = cache(str)  # returns the name of a dtype; NumPy needs 2 us


class Tap(Protocol):
    """The object to which a model emits its values."""

    def emit(self, name: str, value: Array) -> Array:
        """Deliver a value to the hooks, and return the value to continue the computation with."""

    def wants(self, name: str) -> bool:
        """Return True if the model should compute and emit a value that needs an extra computation."""


class SilentTap:
    """The tap of a run without hooks."""

    @staticmethod
    def emit(name: str, value: Array) -> Array:
        return value

    def wants(self, name: str) -> bool:
        return False

    def spend(self) -> None:
        """See `PartsTap`."""


SILENT = SilentTap()


@frozen(eq=False)
class Subscription:
    """A hook, and the events that call the hook; see `HookBus.subscription`."""

    hook: Hook
    names: frozenset[str]
    phases: tuple[Phase, ...]
    stats: bool
    parts: bool | Hook


class HookBus:
    """Hooks subscribed to the events of one model. A hook is any callable `hook(event, value)`, where `value`
    is a read-only view that is valid during the call. A hook returns None to keep the value. To replace the
    value, a hook returns an array of the same shape and dtype, or a `Replacement`."""

    def __init__(self, specs: Sequence[EventSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self._subscriptions: list[Subscription] = []

    def alone(self) -> HookBus:
        """Return a bus for the same events without any subscriptions."""
        return HookBus(list(self.specs.values()))

    def subscription(
        self, hook: Hook, *names: str, phases: Phase | Sequence[Phase] = ("forward",), stats: bool = False,
        parts: bool | Hook = False,
    ) -> Subscription:  # fmt: skip
        """Return a subscription that calls `hook` for the events that match `names` (without names: all).

        If `stats` is true, the events have statistics. With `parts`, the hook receives an empty value if the
        model computes a large value in parts. If `parts` is a hook, it receives every part before: some rows
        [n, W], or some queries and the keys up to the last of them [H, n, S]. Its event describes all parts
        so far. Raises InputError if a name matches no event, or if a phase is unknown or does not fit the
        events.
        """
        phases = (phases,) if isinstance(phases, str) else tuple(phases)
        for phase in phases:
            if phase not in PHASES:
                raise InputError(f"phase: expected one of {', '.join(PHASES)}, found {phase!r}")
        chosen = frozenset(select_names(names or ("*",), list(self.specs)))
        if phases == ("forward",) and all(self.specs[name].parameter == name for name in chosen):
            raise InputError(f"{', '.join(names)}: a parameter has only the phases backward and update")
        return Subscription(hook, chosen, phases, stats, parts)

    @contextmanager
    def subscribe(
        self, hook: Hook, *names: str, phases: Phase | Sequence[Phase] = ("forward",), stats: bool = False,
        first: bool = False, parts: bool | Hook = False,
    ) -> Iterator[HookBus]:  # fmt: skip
        """Call `hook` in every run that begins inside this context; see `subscription` for the arguments.
        With `first`, the hook is called before all hooks that are already subscribed."""
        subscription = self.subscription(hook, *names, phases=phases, stats=stats, parts=parts)
        self._subscriptions.insert(0 if first else len(self._subscriptions), subscription)
        try:
            yield self
        finally:
            self._subscriptions.remove(subscription)

    def __len__(self) -> int:
        return len(self._subscriptions)

    def __repr__(self) -> str:
        return one_line(self, events=len(self.specs), subscriptions=len(self))

    def begin(
        self, timed: bool = False, before: Sequence[Subscription] = (), after: Sequence[Subscription] = (),
        keep: bool = True,
    ) -> Run:  # fmt: skip
        """Start a run. All taps of the run share one count of events and one record of replacements. The
        subscriptions in `before` and `after` belong to this run only, and are called before and after the
        subscriptions of the bus. If `keep` is false, the run records the names of replaced events, but not
        the new values."""
        return Run(self.specs, (*before, *self._subscriptions, *after), timed, keep)


@dataclass(eq=False, repr=False)
class Run:
    """One pass of a model under the hooks that were subscribed when it began."""

    specs: dict[str, EventSpec]
    subscriptions: tuple[Subscription, ...]
    timed: bool = False
    keep: bool = True
    seq: int = 0
    # The new value of each forward event that hooks replaced, or an empty array without `keep`.
    replaced: dict[str, Array] = field(default_factory=dict)
    slopes: dict[str, Array] = field(default_factory=dict)  # d replacement / d computed value
    altered: bool = False  # True if a hook replaced a gradient or an update
    resumed: float = field(default_factory=perf_counter)  # the time when the model last continued
    spent: float = 0.0  # seconds that the next value needed before
    parts: dict[str, TraceEvent] = field(default_factory=dict)  # events of values that come in parts
    scalar: str = "loss"  # the number whose gradients a backward pass computes

    __repr__ = one_line

    def tap(self, phase: Phase) -> Tap:
        """Return the tap to which the model emits the values of this phase."""
        return _BusTap(self, phase)

    def listeners(self, phase: Phase, name: str) -> list[Subscription]:
        return [s for s in self.subscriptions if phase in s.phases and name in s.names]

    def wants_whole(self, name: str, phases: Sequence[Phase] = ("forward",)) -> bool:
        """Return True if a hook needs this value of a phase in one piece."""
        return any(not s.parts for phase in phases for s in self.listeners(phase, name))

    def resume(self) -> None:
        """Start the clock of the next value."""
        self.resumed = perf_counter()

    def announce_parts(self) -> None:
        """Call the hooks for the values that came in parts, with an empty value."""
        for name, event in self.parts.items():
            event = event if self.timed else replace(event, seconds=None)
            for subscription in self.listeners(event.phase, name):
                subscription.hook(event, np.empty(0, event.dtype))
        self.parts.clear()
        self.resumed = perf_counter()

    def event(
        self, phase: Phase, name: str, shape: tuple[int, ...], dtype: str, seconds: float | None
    ) -> TraceEvent:
        """Return the next event of the run, without statistics."""
        spec = self.specs[name]
        if phase == "forward":
            expr = spec.expr
        else:
            expr = f"d {self.scalar} / d {name}" if phase == "backward" else f"update of {name}"
        event = TraceEvent(self.seq, phase, spec.stage, spec.layer, name, expr, shape, dtype, None, seconds)
        self.seq += 1
        return event

    def deliver(self, phase: Phase, name: str, value: Array) -> Array:
        seconds = perf_counter() - self.resumed + self.spent if self.timed else None
        self.spent = 0.0
        value = self._through_hooks(phase, name, np.asarray(value), seconds)
        if phase == "backward" and name in self.replaced:
            # Where the slope is 0, the loss no longer depends on the inputs of this value.
            slope = np.broadcast_to(self.slopes[name], value.shape)
            value = np.where(slope == 0, 0, value * slope).astype(value.dtype, copy=False)
        self.resumed = perf_counter()
        return value

    def _through_hooks(self, phase: Phase, name: str, value: Array, seconds: float | None) -> Array:
        event = with_stats = self.event(phase, name, value.shape, name_of(value.dtype), seconds)
        remaining = iter(self.listeners(phase, name))
        causal = self.specs[name].causal and value.shape[-2] > 1  # a single query sees all keys
        while True:
            with ReadOnly(value) as view:
                for subscription in remaining:
                    if subscription.stats and with_stats is event:
                        mask = causal_mask(*view.shape[-2:]) if causal else None
                        with_stats = event.with_stats(TensorStats.of(view, mask))
                    result = subscription.hook(with_stats if subscription.stats else event, view)
                    if result is not None and result is not view:
                        break
                else:
                    return value
            slope = np.zeros((), value.dtype)
            if isinstance(result, Replacement):
                result, slope = result
            value, with_stats = checked_replacement(subscription.hook, event, value, result), event
            if phase == "forward":
                if self.keep:
                    self.slopes[name] = self.slopes[name] * slope if name in self.replaced else slope
                self.replaced[name] = value if self.keep else np.empty(0)
            else:
                self.altered = True


@frozen
class _BusTap:
    run: Run
    phase: Phase

    def emit(self, name: str, value: Array) -> Array:
        return self.run.deliver(self.phase, name, value)

    def wants(self, name: str) -> bool:
        return name in self.run.replaced or bool(self.run.listeners(self.phase, name))


class PartsTap(_BusTap):
    """The tap of values that a model computes in parts: some rows [n, W] or some queries [H, n, S] at a
    time."""

    def emit(self, name: str, value: Array) -> Array:
        if not value.ndim:  # the gradient of the loss
            return super().emit(name, value)
        run = self.run
        seconds, (*others, rows, width) = perf_counter() - run.resumed, value.shape
        listeners = run.listeners(self.phase, name)
        stats = _stats_of_part(value, run.specs[name].causal) if listeners else None
        event = run.parts.get(name)
        if event is None:
            event = run.event(self.phase, name, (*others, 0, width), name_of(value.dtype), None)
        elif stats is not None and event.stats is not None:
            stats = event.stats.merge(stats)
        shape, seconds = (*others, event.shape[-2] + rows, width), seconds + (event.seconds or 0.0)
        event = run.parts[name] = replace(event, shape=shape, stats=stats, seconds=seconds)
        for subscription in listeners:
            if not isinstance(subscription.parts, bool):
                with ReadOnly(value) as view:
                    subscription.parts(event, view)
        run.resume()
        return value

    def spend(self) -> None:
        """Add the time since the last part to the time of the event that follows the parts."""
        self.run.spent += perf_counter() - self.run.resumed
        self.run.resume()


def _stats_of_part(value: Array, causal: bool) -> TensorStats:
    """Return the statistics of some rows, or of the keys that some queries [H, n, S] see. The first S - n
    keys come before all the queries, and need no mask."""
    if not causal:
        return TensorStats.of(value)
    queries, keys = value.shape[-2:]
    last = TensorStats.of(value[..., keys - queries :], causal_mask(queries, queries))
    return TensorStats.of(value[..., : keys - queries]).merge(last)


@contextmanager
def accepting_parts(tap: Tap, names: Sequence[str]) -> Iterator[PartsTap | SilentTap | None]:
    """Yield a tap that accepts the events `names` in parts, or None if a listener requests one of them as a
    whole. Afterwards, call the hooks with the events."""
    if not isinstance(tap, _BusTap):
        yield None if any(map(tap.wants, names)) else SILENT
    elif any(tap.run.wants_whole(name, (tap.phase,)) for name in names):
        yield None
    else:
        yield PartsTap(tap.run, tap.phase)
        tap.run.announce_parts()
