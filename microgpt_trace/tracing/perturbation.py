"""A hook that perturbs every event of a trace, and holds each against what it is computed from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..architecture.kinds import Linear
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.operations.reference_inputs import ReferenceInputs
from ..architecture.operations.spread import Spread
from ..architecture.plan import layer_of
from ..architecture.reference import reference, size_of, spread_of
from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..rounding.invariants import OF_SUMS
from ..rounding.precision import element_bound
from .intervention_effects import distance
from .result import Trace

LOSS = OF_SUMS["float32"]  # of a position's
AMOUNT = 0.1  # of an element, and of a typical one, by which a perturbation moves it (std)


class Edge(NamedTuple):
    """What reads an event, and how far it moves when the event is perturbed: |after - before| / |before|.
    It is felt if no rounding could do as much."""

    source: str
    reader: str
    moved: float
    felt: bool


class Watch:
    """Perturbs the events that it is called for but those that are `kept`; `wrong` says what is wrong with
    which."""

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, kept: Container[str], done: Callable[[int], None]
    ) -> None:
        self.wrong: dict[str, str] = {}
        self.edges: list[Edge] = []
        self._targets = [target for target in inputs.targets if target is not None]
        self._given, self._plan = ReferenceInputs(model, inputs.tokens, bounded=True), model.plan
        self._computed: dict[str, Array] = {}  # float64, of this layer and what enters it
        self._used: dict[str, Array] = {}
        self._of_parts: dict[str, Array] = {}  # of this layer, what rounding may move them by
        self._layer, self._kept, self._done = -1, kept, done

    def __call__(self, event: TraceEvent, value: Array) -> Array | None:
        self._enter(event.layer)
        used = None if event.name in self._kept else perturbation(event.name)(value)
        self._hold(event.name, value)
        self._computed[event.name] = value.astype(np.float64)
        self._used[event.name] = self._computed[event.name] if used is None else used.astype(np.float64)
        return used

    def _enter(self, layer: int | None) -> None:
        """Forget the layer before the last one."""
        if layer is None or layer == self._layer:
            return
        self._layer = layer
        self._done(layer)
        self._of_parts.clear()
        for known in (self._computed, self._used):
            for name in [n for n in known if (layer_of(n) or 0) < layer - 1]:
                del known[name]

    def _sources(self, name: str) -> list[str]:
        """The events that an event is computed from, in this run: a sum from parts that were replaced, the
        loss from P that were."""
        if name == "loss":
            return ["logits" if "probs" in self._kept else "probs"]
        row = self._plan[name]
        return [own for own in row.parts if own in self._used] or list(row.inputs)

    def _hold(self, name: str, value: Array) -> None:
        """Is it what the events that it is computed from give, as they were replaced?"""
        sources = self._sources(name)
        used = [self._used[source] for source in sources]
        without = [[self._computed[s] if s == left else self._used[s] for s in sources] for left in sources]
        right, *others = self._apply(name, sources, [used, *without])
        limit = self._bound(name, sources, right, value.dtype)
        if beyond(value, right, limit) > 1:
            self._blame(name, value, right, dict(zip(sources, others, strict=True)))
        for source, other in zip(sources, others, strict=True):
            self.edges.append(Edge(source, name, distance(right, other), beyond(right, other, limit) > 2))

    def _blame(self, name: str, value: Array, right: Array, without: Mapping[str, Array]) -> None:
        """Say which event is not read, or that this is not what any of them gives."""
        deaf = [
            source
            for source, other in without.items()
            if beyond(value, other, self._bound(name, list(without), other, value.dtype)) <= 1
        ]
        for source in deaf:
            self.wrong.setdefault(source, f"{name} is computed from another value, not from this")
        if not deaf:
            read = " and ".join(without) if len(without) < 3 else f"the {len(without)} heads"
            off = distance(value.astype(np.float64), right)
            self.wrong.setdefault(name, f"it is not what {read or 'its parameter'} gives: off by {off:.0e}")

    def _apply(self, name: str, sources: Sequence[str], cases: Sequence[Sequence[Array]]) -> list[Array]:
        """The event worked out in float64 from each of several inputs."""
        if name == "loss":
            return [np.asarray(self._losses(x).mean()) for (x,) in cases]
        row = self._plan[name]
        if self._of_its_parts(name, sources):
            return [np.sum(parts, axis=0) + self._bias(name) for parts in cases]
        if isinstance(row.kind, Linear):
            rows = np.concatenate([x for (x,) in cases])  # each by itself: the matrix is decoded once
            return np.split(reference(row, self._given, rows), len(cases))
        return [reference(row, self._given, *inputs) for inputs in cases]

    def _bias(self, name: str) -> Array:
        """What a row adds to the sum of its parts."""
        row = self._plan[name]
        return np.zeros(1) if row.bias is None else self._given.parameter(row, row.bias).astype(np.float64)

    def _of_its_parts(self, name: str, sources: Sequence[str]) -> bool:
        """Whether it is the sum of its parts in this run."""
        return bool(sources) and sources[0] in self._plan[name].parts

    def _bound(self, name: str, sources: Sequence[str], value: Array, dtype: np.dtype[Any]) -> Array:
        """How far rounding may move each element. One part more or less is a difference of sums."""
        used, row = [self._used[source] for source in sources], self._plan[name]
        if self._of_its_parts(name, sources):
            size = np.sum(np.abs([*used, *(self._computed[source] for source in sources)]), axis=0)
            slack = np.sum([self._of_parts[source] for source in sources], axis=0)
            spread, size = Spread(len(used), alike=True), size + np.abs(self._bias(name))
            return 2 * slack + element_bound(size, spread, len(self._given.tokens), dtype)
        if name == "loss":
            size = np.abs(value) + np.abs(used[0]).max() * (sources == ["logits"])
            return element_bound(size, Spread(), len(self._given.tokens), dtype)
        size, spread = size_of(row, self._given, value, *used), spread_of(row, self._given)
        found = element_bound(size, spread, len(self._given.tokens), dtype)
        if name in self._plan.sums_of:
            self._of_parts[name] = found
        return found

    def _losses(self, x: Array) -> Array:
        """-log P(target) of every position that has one, from logits or, where these were replaced, P."""
        rows = np.arange(len(self._targets))
        if "probs" not in self._kept:
            return -np.log(x[rows, self._targets])
        return np.logaddexp.reduce(x[rows], axis=1) - x[rows, self._targets]

    def hold_told(self, told: Trace) -> None:
        """Does the trace tell of P and of the loss as they were replaced?"""
        probs, computed = self._used["probs"], self._computed["probs"]
        found = [(p.position, c) for p in told.predictions for c in (p.predicted, p.target, *p.top) if c]
        places = tuple(zip(*((position, candidate.token) for position, candidate in found), strict=True))
        best = [(probs[p.position].max(), p.predicted.p) for p in told.predictions if p.predicted]
        same = np.array_equal(probs[places], [candidate.p for _, candidate in found], equal_nan=True)
        if not same or any(a != b for a, b in best):
            self.wrong.setdefault("probs", "the trace tells of another P")
        self._tell("probs", probs[places], computed[places])
        if "loss" not in self._used:
            return
        if told.loss is None or not np.array_equal(told.loss, float(self._used["loss"]), equal_nan=True):
            self.wrong.setdefault("loss", f"the trace tells of another: {told.loss}")
        source = self._sources("loss")[0]
        losses = [p.loss for p in told.predictions if p.loss is not None]
        if not np.allclose(losses, self._losses(self._used[source]), LOSS, LOSS, equal_nan=True):
            self.wrong.setdefault(source, "the trace tells of other losses of the positions")
        self._tell("loss", self._used["loss"], self._computed["loss"])

    def _tell(self, name: str, used: Array, computed: Array) -> None:
        moved = float(np.nan_to_num(distance(used, computed), nan=np.inf))
        self.edges.append(Edge(name, "what the trace tells", moved, not np.array_equal(used, computed)))


def beyond(value: Array, right: Array, bound: Array) -> float:
    """How many times the bound an element lies off, at most; infinities and NaN equal themselves."""
    with np.errstate(all="ignore"):
        off = np.abs(value - right) / bound
    same = np.equal(value, right.astype(value.dtype)) | np.isnan(value) & np.isnan(right)
    return float(np.nan_to_num(np.where(same, 0.0, off), nan=np.inf).max(initial=0.0))


def perturbation(name: str) -> Callable[[Array], Array]:
    """A change that moves every element by some 10 % of itself and of a typical one, the same each time;
    probabilities by 10 % of themselves, for they are positive."""

    def change(value: Array) -> Array:
        noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=value.shape) * AMOUNT
        value = np.where(np.isfinite(value), value, value.dtype.type(0))  # of P perturbed a loss is infinite
        if name == "probs":
            return np.asarray(value * np.exp(noise)).astype(value.dtype)
        typical = np.median(np.abs(value)) or np.sqrt(np.square(value).mean()) or 1.0
        return np.asarray(value + noise * (np.abs(value) + typical)).astype(value.dtype)

    return change
