"""Validate that the model uses each event of a trace, and that the value of each event matches its name.

First, each event is replaced by a copy of the event, which must not change the result. Then all events are
replaced by perturbed copies. Independent code recomputes each event in float64 from the perturbed copies of
the event's inputs. If the recomputed value differs from the model's value, the model does not use one of the
inputs, or the event's value does not match the event's name. The predictions and the loss in the Trace are
also compared with the perturbed values. The hooks of the model are not called.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import Hook
from ..hooks.event import TraceEvent
from ..hooks.names import select_names
from ..models.language_model import LanguageModel, TraceInput
from ..notebook import in_notebook
from ..operations.by_kind import reference, size_of, spread_of
from ..operations.reference_inputs import ReferenceInputs, Spread
from ..plans.kinds import Linear
from ..plans.plan import Operation, layer_of
from ..progress import Report, unreported
from ..rounding.invariants import OF_SUMS
from ..rounding.precision import element_bound
from ..text.frozen import frozen
from ..text.json_writing import in_document
from .intervention_effects import distance
from .result import Trace
from .trace import trace

LOSS = OF_SUMS["float32"]  # tolerance of the loss at a position
AMOUNT = 0.1  # standard deviation of a perturbation, relative to the element and to a typical element


@frozen
class Verdict:
    """The verdict on one event. `by_itself` is the largest change of logits, P or loss when a copy replaces
    the event. If the event is perturbed, `perturbed` is the largest change |after - before| / |before| of an
    event that is computed from the perturbed event. An event is dead if no result of this run can depend on
    the event."""

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
        """True if no event failed."""
        return all(verdict.verdict != "failed" for verdict in self.verdicts)


def validate(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    names: Sequence[str] | None = None, report: Report = unreported,
) -> Validation:  # fmt: skip
    """Judge every event, or only the events that match `names`. `report` is called with the number of
    validated layers and the number of all layers. Raises InputError if the text or a name does not fit the
    model."""
    inputs = model.read(text, tokens)
    events = [name for name in model.plan if name != "loss" or inputs.targets[0] is not None]
    chosen = select_names(names or ("*",), events)
    with one_blas_thread(), np.errstate(all="ignore"):
        verdicts = _verdicts(model, inputs, events, chosen, report)
        return Validation(model.origin, inputs.text, inputs.tokens, inputs.labels, tuple(verdicts))


def _verdicts(
    model: LanguageModel, inputs: TraceInput, events: Sequence[str], chosen: Sequence[str], report: Report
) -> Iterator[Verdict]:
    untouched = _trace(model, inputs)
    if not np.isfinite(untouched["logits"]).all():
        yield from (Verdict(name, 0.0, None, "failed", "the logits are not finite") for name in chosen)
        return
    own = _replaced_by_itself(model, inputs, chosen, untouched)
    wrong, edges = _perturbed(model, inputs, events, report)
    if any(check.id == "untraced" and check.holds is False for check in untouched.checks):
        wrong.setdefault("logits", "a run without observers computes other logits")
    verdicts: dict[str, Verdict] = {}
    for name in reversed(events):  # judge the readers of an event first
        readers = [edge for edge in edges if edge.source == name]
        verdicts[name] = _verdict(name, own.get(name, 0.0), wrong.get(name, ""), readers, verdicts)
    yield from (verdicts[name] for name in chosen)


def _verdict(name: str, own: float, wrong: str, edges: Sequence[Edge], later: dict[str, Verdict]) -> Verdict:
    moved = max((edge.moved for edge in edges), default=None)
    if own != 0:
        return Verdict(name, own, moved, "failed", "a copy of the event changes the logits, P or the loss")
    if wrong or not edges:
        return Verdict(name, own, moved, "failed", wrong or "nothing is computed from this event")
    felt = [edge for edge in edges if edge.felt]
    if any(edge.reader not in later or later[edge.reader].verdict != "dead" for edge in felt):
        return Verdict(name, own, moved, "used")
    edge = max(felt or edges, key=lambda edge: edge.moved)
    effect = "does not change"
    if edge.moved:
        effect = f"changes by {edge.moved:.0e}, {'but is dead itself' if felt else 'which may be rounding'}"
    reason = f"recomputed from the perturbed value, {edge.reader} {effect}"
    return Verdict(name, own, moved, "dead", reason)


def _perturbed(
    model: LanguageModel, inputs: TraceInput, events: Sequence[str], report: Report
) -> tuple[dict[str, str], list[Edge]]:
    """Perturb the events, and return the errors by event and the edges between events. The first pass does
    not perturb the heads and P. Therefore attn.out is recomputed from the context, and the loss is recomputed
    from the logits. The second pass perturbs all events."""
    wrong, edges = dict[str, str](), list[Edge]()
    layers = model.config.n_layer
    for number, (left_out, kept) in enumerate([(model.plan.sums_of, ["probs"]), ({}, [])]):
        watch = Watch(model, inputs, kept, partial(_report_layer, report, number * layers, 2 * layers))
        watch.check_trace(_trace(model, inputs, watch, [name for name in events if name not in left_out]))
        wrong = watch.wrong | wrong
        edges += watch.edges
    return wrong, edges


def _report_layer(report: Report, before: int, total: int, layer: int) -> None:
    report(before + layer, total)


def _trace(
    model: LanguageModel, inputs: TraceInput, hook: Hook | None = None, names: Sequence[str] = ()
) -> Trace:
    """Run a trace with `hook` as the only hook, and keep the logits, P and the loss after the hook."""
    alone, values = model.alone(), ["logits", "probs", "loss"][: 2 + (inputs.targets[0] is not None)]
    with alone.hooks.subscribe(hook, *names) if hook is not None else nullcontext():
        if alone.takes_prompts:
            return trace(alone, tokens=inputs.tokens, values=values, recheck=hook is None)
        return trace(alone, inputs.text, values=values)


def _replaced_by_itself(
    model: LanguageModel, inputs: TraceInput, names: Sequence[str], untouched: Trace
) -> dict[str, float]:
    """Return, by event, the largest change of the logits, P or the loss if a copy replaces the event. First,
    copies replace all events at once. If a result changes, each event is replaced separately."""

    def moved(names: Sequence[str]) -> float:
        result = _trace(model, inputs, lambda event, value: np.array(value), names)
        pairs = [(array, untouched.arrays[key]) for key, array in result.arrays.items()]
        if all(np.array_equal(after, before, equal_nan=True) for after, before in pairs):
            return 0.0
        differences = [np.abs(after - before).max() for after, before in pairs]
        return float(np.nan_to_num(max(differences), nan=np.inf)) or np.inf

    if moved(names) == 0:
        return dict.fromkeys(names, 0.0)
    return {name: moved([name]) for name in names}


class Edge(NamedTuple):
    """An event `source`, and an event `reader` that is computed from `source`. `moved` is the change |after -
    before| / |before| of the event `reader` if the event `source` is perturbed. `felt` is True if rounding
    cannot explain the change."""

    source: str
    reader: str
    moved: float
    felt: bool


class Watch:
    """A hook that recomputes each event, records errors in `wrong`, and perturbs the events whose names are
    not in `kept`."""

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, kept: Container[str], done: Callable[[int], None]
    ) -> None:
        self.wrong: dict[str, str] = {}
        self.edges: list[Edge] = []
        self._targets = [target for target in inputs.targets if target is not None]
        self._inputs, self._plan = ReferenceInputs(model, inputs.tokens, bounded=True), model.plan
        self._computed: dict[str, Array] = {}  # events of the current and the previous layer, in float64
        self._used: dict[str, Array] = {}  # the perturbed values of the computed events
        self._part_bounds: dict[str, Array] = {}  # upper bounds of the rounding errors of this layer's heads
        self._layer, self._kept, self._done = -1, kept, done

    def __call__(self, event: TraceEvent, value: Array) -> Array | None:
        self._enter(event.layer)
        used = None if event.name in self._kept else perturbed(event.name, value)
        self._check(event.name, value)
        self._computed[event.name] = value.astype(np.float64)
        self._used[event.name] = self._computed[event.name] if used is None else used.astype(np.float64)
        return used

    def _enter(self, layer: int | None) -> None:
        """Forget the events before the previous layer."""
        if layer is None or layer == self._layer:
            return
        self._layer = layer
        self._done(layer)
        self._part_bounds.clear()
        for arrays in (self._computed, self._used):
            for name in [n for n in arrays if (layer_of(n) or 0) < layer - 1 and n not in self._plan.lasting]:
                del arrays[name]

    def _sources(self, name: str) -> list[str]:
        """Return the events that an event is computed from in this run. A sum is computed from its parts if
        the parts were perturbed. The loss is computed from P if P was perturbed."""
        if name == "loss":
            return ["logits" if "probs" in self._kept else "probs"]
        row = self._plan[name]
        return [part for part in row.parts if part in self._used] or list(row.inputs)

    def _check(self, name: str, value: Array) -> None:
        """Recompute an event from its perturbed sources, compare the values, and record the edges."""
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
        """Record the sources that were not used. If all sources were used, record an error of the event."""
        unused = [
            source for source, other in without.items()
            if beyond(value, other, self._bound(name, list(without), other, value.dtype)) <= 1
        ]  # fmt: skip
        for source in unused:
            self.wrong.setdefault(source, f"{name} is computed from another value, not from this event")
        if not unused:
            sources = " and ".join(without) if len(without) < 3 else f"the {len(without)} heads"
            off = f"off by {distance(value.astype(np.float64), right):.0e}"
            self.wrong.setdefault(name, f"the event does not follow from {sources or 'its parameter'}: {off}")

    def _apply(self, name: str, sources: Sequence[str], cases: Sequence[Sequence[Array]]) -> list[Array]:
        if name == "loss":
            return [np.asarray(self._losses(x).mean()) for (x,) in cases]
        row = self._plan[name]
        if set(sources) & set(row.parts):
            return [np.sum(parts, axis=0) + self._bias(row) for parts in cases]
        if isinstance(row.kind, Linear):
            rows = np.concatenate([x for (x,) in cases])  # the matrix is decoded once for all rows
            return np.split(reference(row, self._inputs, rows), len(cases))
        return [reference(row, self._inputs, *inputs) for inputs in cases]

    def _bias(self, row: Operation) -> Array:
        return np.zeros(1) if row.bias is None else self._inputs.parameter(row, row.bias).astype(np.float64)

    def _bound(self, name: str, sources: Sequence[str], value: Array, dtype: np.dtype[Any]) -> Array:
        """Return an upper bound of the rounding error of each element. If the event is a sum of parts, the
        bound includes the rounding of both compared sums."""
        used, row = [self._used[source] for source in sources], self._plan[name]
        length, spread = len(self._inputs.tokens), Spread()
        if set(sources) & set(row.parts):
            size = np.sum(np.abs([*used, *(self._computed[source] for source in sources)]), axis=0)
            slack = np.sum([self._part_bounds[source] for source in sources], axis=0)
            spread, size = Spread(len(used), alike=True), size + np.abs(self._bias(row))
            return 2 * slack + element_bound(size, spread, length, dtype)
        if name == "loss":
            size = np.abs(value) + np.abs(used[0]).max() * (sources == ["logits"])
            return element_bound(size, spread, length, dtype)
        size, spread = size_of(row, self._inputs, value, *used), spread_of(row, self._inputs)
        bound = element_bound(size, spread, length, dtype)
        if name in self._plan.sums_of:
            self._part_bounds[name] = bound
        return bound

    def _losses(self, x: Array) -> Array:
        """Return the loss -log P(target) at every position with a target. `x` contains probabilities or, if P
        is in `kept`, logits."""
        rows = np.arange(len(self._targets))
        if "probs" not in self._kept:
            return -np.log(x[rows, self._targets])
        return np.logaddexp.reduce(x[rows], axis=1) - x[rows, self._targets]

    def check_trace(self, trace: Trace) -> None:
        """Check that the predictions and the loss in the trace are the perturbed values."""
        probs, computed = self._used["probs"], self._computed["probs"]
        pairs = [(p.position, c) for p in trace.predictions for c in (p.predicted, p.target, *p.top) if c]
        places = tuple(zip(*((position, candidate.token) for position, candidate in pairs), strict=True))
        best = [(probs[p.position].max(), p.predicted.p) for p in trace.predictions if p.predicted]
        same = np.array_equal(probs[places], [candidate.p for _, candidate in pairs], equal_nan=True)
        if not same or any(a != b for a, b in best):
            self.wrong.setdefault("probs", "P in the trace's predictions differs from P in the run")
        self._add_edge("probs", probs[places], computed[places])
        if "loss" not in self._used:
            return
        if trace.loss is None or not np.array_equal(trace.loss, float(self._used["loss"]), equal_nan=True):
            self.wrong.setdefault("loss", f"the trace's loss differs from the loss of the run: {trace.loss}")
        source = self._sources("loss")[0]
        losses = [p.loss for p in trace.predictions if p.loss is not None]
        if not np.allclose(losses, self._losses(self._used[source]), LOSS, LOSS, equal_nan=True):
            self.wrong.setdefault(source, "losses in the trace's predictions differ from losses in the run")
        self._add_edge("loss", self._used["loss"], self._computed["loss"])

    def _add_edge(self, name: str, used: Array, computed: Array) -> None:
        moved = float(np.nan_to_num(distance(used, computed), nan=np.inf))
        self.edges.append(Edge(name, "the result of the trace", moved, not np.array_equal(used, computed)))


def beyond(value: Array, right: Array, bound: Array) -> float:
    """Return the largest difference of an element, as a multiple of the element's bound. NaN counts as equal
    to NaN, and an infinity as equal to the same infinity."""
    with np.errstate(all="ignore"):
        off = np.abs(value - right) / bound
    same = np.equal(value, right.astype(value.dtype)) | np.isnan(value) & np.isnan(right)
    return float(np.nan_to_num(np.where(same, 0.0, off), nan=np.inf).max(initial=0.0))


def perturbed(name: str, value: Array) -> Array:
    """Change every element by about 10 % of |element| + |typical element|. The noise for an event is the same
    in each call. A probability changes by about 10 % of the probability, and therefore stays positive."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=value.shape) * AMOUNT
    value = np.where(np.isfinite(value), value, value.dtype.type(0))  # the loss may be infinite
    if name == "probs":
        return np.asarray(value * np.exp(noise)).astype(value.dtype)
    typical = np.median(np.abs(value)) or np.sqrt(np.square(value).mean()) or 1.0
    return np.asarray(value + noise * (np.abs(value) + typical)).astype(value.dtype)
