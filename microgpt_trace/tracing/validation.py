"""Is each captured value the one that the computation uses, and is it what it says?

Every event of a trace is replaced by itself, which may change nothing. Then all are replaced at once by
perturbed copies, and each is worked out a second time, in float64 and by other code, from the copies that
it should be computed from: where it is not what these give, one of them is not used, or it is something
else. Last comes what the trace tells. The hooks that are subscribed to the model take no part.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from ..architecture.edits import Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.operations.by_kind import reference, size_of, spread_of
from ..architecture.operations.reference_inputs import ReferenceInputs, Spread
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import Operation, layer_of
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import Hook
from ..hooks.event import TraceEvent
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..rounding.invariants import OF_SUMS
from ..rounding.precision import element_bound
from ..text.brief import frozen
from ..text.json_writing import in_document
from .intervention_effects import distance
from .result import Trace
from .trace import trace

LOSS = OF_SUMS["float32"]  # of a position's
AMOUNT = 0.1  # of an element, and of a typical one, by which a perturbation moves it (std)


@frozen
class Verdict:
    """What replacing one event did.

    `by_itself` is the largest difference of a logit when the event is replaced by a copy of itself;
    `perturbed` how far what is computed from it next moves when it is perturbed: |after - before| /
    |before|, the farthest of several. A dead event is one that nothing can depend on here.
    """

    name: str
    by_itself: float
    perturbed: float | None
    verdict: Literal["used", "dead", "failed"]
    reason: str = ""


@frozen
class Validation:
    """The verdicts on all events of one run."""

    SCHEMA = "microgpt.validation/1"

    model: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    _repr_html_ = in_notebook

    @property
    @in_document
    def ok(self) -> bool:
        """No event failed."""
        return all(verdict.verdict != "failed" for verdict in self.verdicts)


def validate(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    names: Sequence[str] | None = None, report: Report = unreported,
) -> Validation:  # fmt: skip
    """The verdict on every event (or those that `names` stand for).

    `report` is told of the layers that are done. Raises InputError for a text or a name that does not
    fit.
    """
    inputs = model.read(text, tokens)
    known = [name for name in list(model.plan) if name != "loss" or inputs.targets[0] is not None]
    chosen = select_names(names or ("*",), known)
    with one_blas_thread(), np.errstate(all="ignore"):
        verdicts = _verdicts(model, inputs, known, chosen, report)
        return Validation(model.origin, inputs.text, inputs.tokens, inputs.labels, tuple(verdicts))


def _verdicts(
    model: LanguageModel, inputs: TraceInput, known: Sequence[str], chosen: Sequence[str], report: Report
) -> Iterator[Verdict]:
    untouched = _trace(model, inputs)
    if not np.isfinite(untouched["logits"]).all():
        yield from (Verdict(name, 0.0, None, "failed", "the logits are not finite") for name in chosen)
        return
    own = _replaced_by_itself(model, inputs, chosen, untouched)
    wrong, edges = _perturbed(model, inputs, known, report)
    if any(check.id == "untraced" and check.holds is False for check in untouched.checks):
        wrong.setdefault("logits", "a run that nobody observes gives others")
    found: dict[str, Verdict] = {}
    for name in reversed(known):  # those that read it first
        read_by = [edge for edge in edges if edge.source == name]
        found[name] = _verdict(name, own.get(name, 0.0), wrong.get(name, ""), read_by, found)
    yield from (found[name] for name in chosen)


def _verdict(name: str, own: float, wrong: str, edges: Sequence[Edge], later: dict[str, Verdict]) -> Verdict:
    moved = max((edge.moved for edge in edges), default=None)
    if own != 0:
        return Verdict(name, own, moved, "failed", "a copy of itself changes the logits")
    if wrong or not edges:
        return Verdict(name, own, moved, "failed", wrong or "nothing is computed from it")
    felt = [edge for edge in edges if edge.felt]
    if any(edge.reader not in later or later[edge.reader].verdict != "dead" for edge in felt):
        return Verdict(name, own, moved, "used")
    edge = max(felt or edges, key=lambda edge: edge.moved)
    why = "is the same"
    if edge.moved:
        why = f"moves by {edge.moved:.0e}, {'and that is dead' if felt else 'which may be rounding'}"
    reason = f"recomputed from the perturbed value, {edge.reader} {why}"
    return Verdict(name, own, moved, "dead", reason)


def _perturbed(
    model: LanguageModel, inputs: TraceInput, known: Sequence[str], report: Report
) -> tuple[dict[str, str], list[Edge]]:
    """What is wrong with which events, and what reads what: once without the heads and with P as computed,
    which are ways past both, and once with all that there is."""
    wrong, edges = dict[str, str](), list[Edge]()
    layers = model.config.n_layer
    for number, (left_out, kept) in enumerate([(model.plan.sums_of, ["probs"]), ({}, [])]):
        watch = Watch(model, inputs, kept, partial(_reported, report, number * layers, 2 * layers))
        told = _trace(model, inputs, watch, [name for name in known if name not in left_out])
        watch.hold_told(told)
        wrong = watch.wrong | wrong
        edges += watch.edges
    return wrong, edges


def _reported(report: Report, before: int, total: int, layer: int) -> None:
    report(before + layer, total)


def _trace(
    model: LanguageModel, inputs: TraceInput, hook: Hook | None = None, names: Sequence[str] = ()
) -> Trace:
    """A trace under a hook alone, with what the head gives, as used."""
    alone, values = model.alone(), ["logits", "probs", "loss"][: 2 + (inputs.targets[0] is not None)]
    with alone.hooks.subscribe(hook, *names) if hook is not None else nullcontext():
        if "prompts" in alone.abilities:
            return trace(alone, tokens=inputs.tokens, values=values, recheck=hook is None)
        return trace(alone, inputs.text, values=values)


def _replaced_by_itself(
    model: LanguageModel, inputs: TraceInput, names: Sequence[str], untouched: Trace
) -> dict[str, float]:
    """How far the head's values move, for each event. All at once where that moves nothing at all."""

    def moved(names: Sequence[str]) -> float:
        found = _trace(model, inputs, lambda event, value: np.array(value), names)
        pairs = [(array, untouched.arrays[place]) for place, array in found.arrays.items()]
        if all(np.array_equal(after, before, equal_nan=True) for after, before in pairs):
            return 0.0
        differences = [np.abs(after - before).max() for after, before in pairs]
        return float(np.nan_to_num(max(differences), nan=np.inf)) or np.inf

    if moved(names) == 0:
        return dict.fromkeys(names, 0.0)
    return {name: moved([name]) for name in names}


class Edge(NamedTuple):
    """What reads an event, and how far it moves when the event is perturbed: |after - before| / |before|.
    It is felt if no rounding could do as much."""

    source: str
    reader: str
    moved: float
    felt: bool


class Watch:
    """A hook that perturbs the events that it is called for but those that are `kept`, and holds each against
    what it is computed from. `wrong` says what is wrong with which."""

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
        used = None if event.name in self._kept else perturbed(event.name, value)
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
        deaf = False
        for source, other in without.items():
            if beyond(value, other, self._bound(name, list(without), other, value.dtype)) <= 1:
                deaf = True
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
        if set(sources) & set(row.parts):
            return [np.sum(parts, axis=0) + self._bias(row) for parts in cases]
        if isinstance(row.kind, Linear):
            rows = np.concatenate([x for (x,) in cases])  # each by itself: the matrix is decoded once
            return np.split(reference(row, self._given, rows), len(cases))
        return [reference(row, self._given, *inputs) for inputs in cases]

    def _bias(self, row: Operation) -> Array:
        """What a row adds to the sum of its parts."""
        return np.zeros(1) if row.bias is None else self._given.parameter(row, row.bias).astype(np.float64)

    def _bound(self, name: str, sources: Sequence[str], value: Array, dtype: np.dtype[Any]) -> Array:
        """How far rounding may move each element. One part more or less is a difference of sums."""
        used, row = [self._used[source] for source in sources], self._plan[name]
        length, spread = len(self._given.tokens), Spread()
        if set(sources) & set(row.parts):
            size = np.sum(np.abs([*used, *(self._computed[source] for source in sources)]), axis=0)
            slack = np.sum([self._of_parts[source] for source in sources], axis=0)
            spread, size = Spread(len(used), alike=True), size + np.abs(self._bias(row))
            return 2 * slack + element_bound(size, spread, length, dtype)
        if name == "loss":
            size = np.abs(value) + np.abs(used[0]).max() * (sources == ["logits"])
            return element_bound(size, spread, length, dtype)
        size, spread = size_of(row, self._given, value, *used), spread_of(row, self._given)
        found = element_bound(size, spread, length, dtype)
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


def perturbed(name: str, value: Array) -> Array:
    """Move every element by some 10 % of itself and of a typical one, the same each time; probabilities by
    10 % of themselves, for they are positive."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=value.shape) * AMOUNT
    value = np.where(np.isfinite(value), value, value.dtype.type(0))  # of P perturbed a loss is infinite
    if name == "probs":
        return np.asarray(value * np.exp(noise)).astype(value.dtype)
    typical = np.median(np.abs(value)) or np.sqrt(np.square(value).mean()) or 1.0
    return np.asarray(value + noise * (np.abs(value) + typical)).astype(value.dtype)
