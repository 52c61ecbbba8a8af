"""Run a model under its hook bus and collect a Trace: events, predictions, checks and insights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .batch import Batch, Packer
from .checks import Check, Checker
from .errors import InputError
from .events import PHASES, HookBus, Phase, Run, Tap, TraceEvent, select_names
from .insights import Insight, insights_of
from .microgpt import Pass, forward, parameter_spec, row_losses
from .microgpt import backward as run_backward
from .model import Model, Schedule
from .parameters import Parameters
from .stats import Array, TensorStats

if TYPE_CHECKING:
    from .training import Adam

SCHEMA_ID = "microgpt.trace/1"


@dataclass(frozen=True, slots=True)
class TraceInput:
    """What was traced. `notes` say what was changed before (capitals lowered)."""

    text: str
    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    labels: tuple[str, ...]
    target_labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    token: int
    label: str
    p: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's guess at one position. `rank` 1 is the most probable; ties rank by id.

    Where the probabilities are not finite nothing is predicted: `predicted` and `rank` are None.
    """

    position: int
    seen: str
    target: Candidate
    predicted: Candidate | None
    rank: int | None
    loss: float
    top: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """A parameter with the L2 norms of its value, gradient and update; None where not computed."""

    name: str
    shape: tuple[int, ...]
    l2_norm: float | None
    gradient_l2: float | None
    update_l2: float | None = None

    @property
    def gradient_ratio(self) -> float | None:
        """|gradient| / |weight|"""
        return _ratio(self.gradient_l2, self.l2_norm)

    @property
    def update_ratio(self) -> float | None:
        """|update| / |weight|"""
        return _ratio(self.update_l2, self.l2_norm)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


@dataclass(frozen=True, slots=True)
class StepSummary:
    """One Adam step on this input."""

    number: int
    lr: float
    loss_before: float
    loss_after: float
    note: str


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything one run showed. Iterates over its events; `trace[name]` is the array of an event."""

    model: dict[str, Any]
    input: TraceInput
    events: tuple[TraceEvent, ...]
    predictions: tuple[Prediction, ...]
    loss: float
    chance_loss: float
    checks: tuple[Check, ...]
    insights: tuple[Insight, ...]
    parameters: tuple[ParameterRow, ...] = ()
    step: StepSummary | None = None
    arrays: dict[tuple[Phase, str], Array] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __contains__(self, name: object) -> bool:
        return ("forward", name) in self.arrays

    def __getitem__(self, name: str) -> Array:
        """The forward array of an event. Raises InputError where it was not kept."""
        return self.array(name)

    def array(self, name: str, phase: Phase = "forward") -> Array:
        """The array of an event or parameter in a phase: an activation, a gradient, an update."""
        if (phase, name) not in self.arrays:
            kept = [n for p, n in self.arrays if p == phase]
            chosen = select_names([name], kept) if kept else []
            if len(chosen) != 1:
                raise InputError(f"no array of {name!r} was kept in phase {phase}")
            name = chosen[0]
        return self.arrays[phase, name]

    def gradient(self, name: str) -> Array:
        """d loss / d the tensor or parameter of that name."""
        return self.array(name, "backward")

    def event(self, name: str, phase: Phase = "forward") -> TraceEvent | None:
        """The event of that name, if it is among those shown."""
        return next((e for e in self.events if e.name == name and e.phase == phase), None)

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.holds is not False for check in self.checks)

    def _repr_html_(self) -> str:
        from .render.table import to_html

        return to_html(self)


class _Collector:
    """An observer that keeps events with statistics, and copies of the arrays that are wanted."""

    def __init__(self, keep: Iterable[str]) -> None:
        self.events: list[TraceEvent] = []
        self.arrays: dict[tuple[Phase, str], Array] = {}
        self._keep = set(keep)

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self.events.append(event)
        if event.name in self._keep:
            self.arrays[event.phase, event.name] = value.copy()


def prepare(model: Model, text: str) -> TraceInput:
    """Encode a text. Raises InputError for a character or a length that does not fit the model."""
    tokenizer, block = model.tokenizer, model.config.block_size
    lowered = tokenizer.normalize(text)
    ids = tokenizer.encode_name(text)
    if len(ids) - 1 > block:
        raise InputError(
            f"text {text!r}: expected at most {block - 1} characters (block_size {block}), found {len(text)}"
        )
    return TraceInput(
        lowered,
        tuple(ids[:-1]),
        tuple(ids[1:]),
        tuple(tokenizer.label(i) for i in ids[:-1]),
        tuple(tokenizer.label(i, target=True) for i in ids[1:]),
        (f"{text!r} was lowered to {lowered!r}",) if lowered != text else (),
    )


def trace(
    model: Model,
    text: str = "emma",
    *,
    names: Sequence[str] = ("*",),
    values: bool | Sequence[str] = True,
    top_k: int = 1,
    backward: bool = False,
    step: bool = False,
    time: bool = False,
) -> Trace:
    """Trace a text through a microGPT, under the hooks subscribed to `model.hooks`.

    `names` (names, globs, apr's stage names) choose the events that the Trace holds, and `values`
    whether it keeps their arrays (or those of which names); `backward` adds the gradients of the
    text's loss, `step` one Adam step after them, `time` seconds per event. The model is not
    changed. Raises InputError for a text or a name that does not fit.
    """
    if top_k < 1:
        raise InputError(f"top_k: expected at least 1, found {top_k}")
    bus, known = model.hooks, list(model.hooks.specs)
    shown = select_names(names, known)
    kept = shown if values is True else select_names(values, known) if values else []
    inputs = prepare(model, text)
    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    batch = Packer(model.config, model.params.dtype).one(ids)
    collector, checker = _Collector(kept), Checker()
    summary: StepSummary | None = None
    with np.errstate(all="ignore"), checker.watch(bus), bus.subscribe(collector, phases=PHASES, stats=True):
        run = bus.begin(time)
        done = forward(model.params, batch, run.tap("forward"))
        checks = checker.checks(done.logits, _untraced_logits(model, batch, run))
        if backward or step:  # what only these need is imported here: 10 ms of a plain trace's start
            from .gradient_check import gradient_agreement

            adam = _adam_of(model)
            run_backward(adam.params, done, adam.grads, run.tap("backward"))
            checks.append(
                gradient_agreement(done, adam.params, adam.grads, run.altered or bool(run.replaced))
            )
        if step:
            summary = _one_step(model, adam, done, run.tap("update"))

    chosen = set(shown)
    visible = tuple(event for event in collector.events if event.name in chosen)
    if not visible:
        raise InputError(
            f"{', '.join(names)}: parameters have no forward event, only a gradient (--backward)"
        )
    predictions = predictions_of(done, inputs, model, top_k, "probs" in run.replaced)
    forward_events = [event for event in collector.events if event.phase == "forward"]
    return Trace(
        model=model.describe(),
        input=inputs,
        events=visible,
        predictions=predictions,
        loss=float(done.loss),
        chance_loss=math.log(model.config.vocab_size),
        checks=(checker.finite(), *checks),
        insights=tuple(insights_of(forward_events, [p.loss for p in predictions], model.config)),
        parameters=parameter_rows(model.params, collector.events, chosen) if backward or step else (),
        step=summary,
        arrays=collector.arrays,
    )


def _untraced_logits(model: Model, batch: Batch, traced: Run) -> Array:
    """The logits of a run that nobody observes, with what hooks had replaced put in place again."""
    if not traced.replaced:
        return forward(model.params, batch).logits
    bus = HookBus(list(model.hooks.specs.values()))
    with bus.subscribe(lambda event, value: traced.replaced[event.name], *traced.replaced):
        return forward(model.params, batch, bus.begin().tap("forward")).logits


def _adam_of(model: Model) -> Adam:
    """An optimizer on a copy of the parameters, with the moments that the model came with."""
    from .training import Adam

    moments = model.training.moments if model.training else None
    return Adam(model.params.copy(), None if moments is None else moments.copy())


def _one_step(model: Model, adam: Adam, done: Pass, tap: Tap) -> StepSummary:
    state = model.training
    schedule = state.schedule if state else Schedule()
    if state is None or state.moments is None:
        number, note = 1, "fresh moments"
    else:
        number, note = state.step + 1, "moments of the checkpoint"
    unfinished = state is not None and state.step < schedule.steps
    lr = schedule.lr_at(state.step) if state and unfinished else schedule.lr
    adam.step(number, lr, tap)
    after = forward(adam.params, done.batch)
    return StepSummary(number, lr, float(done.loss), float(after.loss), note)


def predictions_of(
    done: Pass, inputs: TraceInput, model: Model, top_k: int, replaced: bool
) -> tuple[Prediction, ...]:
    """One row per position, from the probabilities as used."""

    def candidate(token: int, row: Array) -> Candidate:
        return Candidate(token, model.tokenizer.label(token, target=True), float(row[token]))

    # From the logits, so that a vanishing probability has its exact loss, unless they no longer count.
    losses = -np.log(done.probs[range(len(inputs.targets)), inputs.targets]) if replaced else row_losses(done)
    predictions = []
    ranked = done.probs if replaced else done.logits  # logits tell apart what vanishes as a probability
    for position, (row, target) in enumerate(zip(done.probs, inputs.targets, strict=True)):
        order = (
            np.argsort(-ranked[position], kind="stable") if np.isfinite(row).all() else np.array([], np.intp)
        )
        predictions.append(
            Prediction(
                position=position,
                seen=inputs.text[:position],
                target=candidate(target, row),
                predicted=candidate(int(order[0]), row) if len(order) else None,
                rank=int(np.flatnonzero(order == target)[0]) + 1 if len(order) else None,
                loss=float(losses[position]),
                top=tuple(candidate(int(token), row) for token in order[:top_k]),
            )
        )
    return tuple(predictions)


def selection(model: Model, verbose: bool) -> list[str]:
    """What is shown unless asked otherwise: the events of the overview or all of them."""
    return [name for name, spec in model.hooks.specs.items() if verbose or spec.overview]


def update_events(adam: Adam, seq: int) -> list[TraceEvent]:
    """The last step's update as events, counted from `seq`."""
    return [
        TraceEvent(
            seq + i, "update", spec.stage, spec.layer, name, f"update of {name}",
            update.shape, str(update.dtype), TensorStats.of(update),
        )
        for i, (name, update) in enumerate(adam.update.items())
        for spec in [parameter_spec(name)]
    ]  # fmt: skip


def parameter_rows(
    params: Parameters, events: Iterable[TraceEvent], chosen: set[str]
) -> tuple[ParameterRow, ...]:
    """The chosen parameters beside the gradient and the update that the events tell of."""
    norms = {(e.phase, e.name): e.stats.l2_norm for e in events if e.stats is not None}
    return tuple(
        ParameterRow(
            name, array.shape, TensorStats.of(array).l2_norm,
            norms.get(("backward", name)), norms.get(("update", name)),
        )
        for name, array in params.items()
        if name in chosen
    )  # fmt: skip
