"""Trace a text through a microGPT: events, gradients, one Adam step, predictions, checks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .architecture.graph import forward_names
from .arrays.norm_rows import NormRows
from .arrays.stats import Array, TensorStats
from .checks import Checker, untraced_check
from .errors import InputError
from .hooks.bus import SILENT, Run, Subscription, Tap
from .hooks.event import PHASES, TraceEvent
from .hooks.names import select_names
from .hooks.replacements import differs
from .insights import insights_of
from .microgpt.batch import Batch
from .microgpt.model import Model, Schedule
from .microgpt.ops import RMSNORM_EPS
from .microgpt.parameters import Parameters
from .microgpt.passes import Pass, forward, parameter_spec
from .microgpt.passes import backward as run_backward
from .tracing.collector import Collector
from .tracing.effects import Comparer, divergences, p_after
from .tracing.predictions import predictions_of
from .tracing.result import Intervened, ParameterRow, Prediction, StepSummary, Trace

if TYPE_CHECKING:
    from .architecture.model import TraceInput
    from .microgpt.training import Adam
    from .running.interventions import Editor, Intervention


def trace_microgpt(
    model: Model, text: str, names: Sequence[str], values: bool | Sequence[str], top_k: int,
    backward: bool, step: bool, time: bool, interventions: Sequence[Intervention] = (),
) -> Trace:  # fmt: skip
    bus, known = model.hooks, list(model.hooks.specs)
    shown = select_names(names, known)
    kept = shown if values is True else select_names(values, known) if values else []
    inputs = model.read(text)
    batch = model.batch(inputs)
    collector, checker, norms = Collector(kept), Checker(model.config.n_head), _Norms()
    summary: StepSummary | None = None
    before, after = checker.observers(bus)
    collecting = bus.subscription(collector, phases=PHASES, stats=True)
    measuring = bus.subscription(norms, *_Norms.NAMES)
    untouched = _Untouched(model, inputs, batch, interventions) if interventions else None
    editing, comparing = untouched.subscriptions() if untouched else ([], [])
    with np.errstate(all="ignore"):
        run = bus.begin(time, [before, *editing], [after, *comparing, measuring, collecting])
        done = forward(model.params, batch, run.tap("forward"))
        checks = [untraced_check(done.logits, _untraced_logits(model, batch, run)), *checker.checks()]
        if backward or step:  # what only these need is imported here: 6 ms of a plain trace's start
            from .gradient_agreement import gradient_agreement

            adam = _adam_of(model)
            checker.vanishing = _vanishing(done, run)
            run_backward(adam.params, done, adam.grads, run.tap("backward"))
            taps = untouched.edited if untouched else lambda: (SILENT, SILENT)
            by_others = bool(run.replaced) and (untouched is None or not untouched.explains(done))
            checks.append(gradient_agreement(done, adam.params, adam.grads, run.altered or by_others, taps))
        if step:
            changed = untouched.afresh() if untouched else SILENT
            summary = _one_step(model, adam, done, run.tap("update"), changed)

    chosen = set(shown)
    visible = _visible(collector.events, chosen, names)
    predictions = _predictions(model, inputs, done, top_k)
    losses = [p.loss for p in predictions if p.loss is not None]
    forward_events = [event for event in collector.events if event.phase == "forward"]
    return Trace(
        model=model.describe(),
        input=inputs,
        events=visible,
        predictions=predictions,
        loss=float(done.loss),
        chance_loss=math.log(model.config.vocab_size),
        checks=(checker.finite(), *checks),
        insights=tuple(insights_of(forward_events, norms.rows, losses, done.probs, model)),
        parameters=parameter_rows(model.params, collector.events, chosen) if backward or step else (),
        step=summary,
        arrays=collector.arrays,
        specs=bus.specs,
        intervened=untouched.beside(done, chosen, top_k) if untouched else None,
    )


def _visible(events: Sequence[TraceEvent], chosen: set[str], names: Sequence[str]) -> tuple[TraceEvent, ...]:
    """Those of the events that are to be shown. Raises InputError where these have none."""
    visible = tuple(event for event in events if event.name in chosen)
    if not visible:
        raise InputError(
            f"{', '.join(names)}: parameters have no forward event, only a gradient (--backward)"
        )
    return visible


class _Norms:
    """A hook that holds each norm's output against what goes in."""

    NAMES = ("embed.sum", "*.norm", "*.residual")

    def __init__(self) -> None:
        self.rows, self._stream = NormRows(RMSNORM_EPS), np.empty((0, 0))

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if event.name.endswith(".norm"):
            self.rows.measure(event.name, self._stream, value)
        if event.name.endswith(".residual") or event.stage == "embedding":
            self._stream = value.copy()


def _predictions(model: Model, inputs: TraceInput, done: Pass, top_k: int) -> tuple[Prediction, ...]:
    positions = range(len(inputs.targets))
    return tuple(
        predictions_of(
            positions, [inputs.text[:i] for i in positions], inputs.targets, done.logits, done.probs,
            differs(done.probs, done.softmax), lambda token: model.tokenizer.label(token, target=True), top_k,
        )
    )  # fmt: skip


class _Untouched:
    """A pass that no hook takes part in, and how far the one with interventions lies from it."""

    def __init__(
        self, model: Model, inputs: TraceInput, batch: Batch, interventions: Sequence[Intervention]
    ) -> None:
        self.model, self.inputs, self.interventions = model, inputs, interventions
        self.editor = self._editor()
        bus = model.hooks.alone()
        names = forward_names(model)
        collector = Collector(names)
        with np.errstate(all="ignore"):
            run = bus.begin(after=[bus.subscription(collector, *names)])
            self.done = forward(model.params, batch, run.tap("forward"))
        arrays = collector.arrays
        self.comparer = Comparer(lambda name: arrays["forward", name])

    def subscriptions(self) -> tuple[list[Subscription], list[Subscription]]:
        """The interventions, and who looks at what they led to."""
        bus = self.model.hooks
        comparing = bus.subscription(self.comparer, *forward_names(self.model))
        return self.editor.subscriptions(bus), [comparing]

    def explains(self, done: Pass) -> bool:
        """Whether the interventions alone give these logits, or other hooks took part."""
        alone = forward(self.model.params, done.batch, self.edited()[0])
        return np.array_equal(alone.logits, done.logits, equal_nan=True)

    def edited(self) -> tuple[Tap, Tap]:
        """What a pass and its backward pass run under that have the interventions and nothing else, means
        as they were."""
        return self._taps(self.editor)

    def afresh(self) -> Tap:
        """The same for a pass with other parameters: means are those of the pass."""
        return self._taps(self._editor())[0]

    def _editor(self) -> Editor:
        from .running.interventions import Editor

        return Editor(self.model, self.inputs, range(len(self.inputs.tokens)), self.interventions)

    def _taps(self, editor: Editor) -> tuple[Tap, Tap]:
        bus = self.model.hooks.alone()
        run = bus.begin(before=editor.subscriptions(bus))
        return run.tap("forward"), run.tap("backward")

    def beside(self, done: Pass, shown: Collection[str], top_k: int) -> Intervened:
        """What the interventions did, seen from the untouched pass."""
        predicted = _predictions(self.model, self.inputs, self.done, top_k)
        instead = done.probs if differs(done.probs, done.softmax) else None
        return Intervened(
            self.editor.applied,
            self.comparer.changes(shown, self.editor.names),
            predicted,
            float(self.done.loss),
            tuple(p_after(predicted, done.probs)),
            tuple(divergences(self.done.logits, done.logits, instead)),
        )


def _untraced_logits(model: Model, batch: Batch, traced: Run) -> Array:
    """The logits of a run that nobody observes, with what hooks had replaced put in place again."""
    if not traced.replaced:
        return forward(model.params, batch).logits
    bus = model.hooks.alone()
    with bus.subscribe(lambda event, value: traced.replaced[event.name], *traced.replaced):
        return forward(model.params, batch, bus.begin().tap("forward")).logits


def _vanishing(done: Pass, run: Run) -> Array:
    """Where d loss / d P = -1 / (T P) overflows, the loss being finite, and goes into no other gradient:
    [N, V] of booleans"""
    targets = done.batch.targets
    found = (targets > 0) & np.isinf(targets / done.probs * run.slopes.get("loss", 1))
    if "probs" in run.replaced:  # by way of which the gradient of the logits is worked out then
        found &= np.broadcast_to(run.slopes["probs"], found.shape) == 0
    return found & np.isfinite(done.loss)


def _adam_of(model: Model) -> Adam:
    """An optimizer on a copy of the parameters, with the moments that the model came with."""
    from .microgpt.training import Adam

    moments = model.training.moments if model.training else None
    return Adam(model.params.copy(), None if moments is None else moments.copy())


def _one_step(model: Model, adam: Adam, done: Pass, tap: Tap, changed: Tap) -> StepSummary:
    """An Adam step, and the loss after it under the same interventions."""
    state = model.training
    schedule = state.schedule if state else Schedule()
    if state is None or state.moments is None:
        number, note = 1, "fresh moments"
    else:
        number, note = state.step + 1, "moments of the checkpoint"
    unfinished = state is not None and state.step < schedule.steps
    lr = schedule.lr_at(state.step) if state and unfinished else schedule.lr
    adam.step(number, lr, tap)
    after = forward(adam.params, done.batch, changed)
    return StepSummary(number, lr, float(done.loss), float(after.loss), note)


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
    known = {(e.phase, e.name): e.stats for e in events if e.stats is not None}
    nothing = TensorStats(0, None, None, None, None, None, None, 0, 0, 0)

    def row(name: str, array: Array) -> ParameterRow:
        own, grad = TensorStats.of(array), known.get(("backward", name), nothing)
        update = known.get(("update", name), nothing)
        return ParameterRow(
            name, array.shape, own.l2_norm, grad.l2_norm, update.l2_norm,
            own.nonfinite_count, grad.nonfinite_count, update.nonfinite_count,
        )  # fmt: skip

    return tuple(row(name, array) for name, array in params.items() if name in chosen)
