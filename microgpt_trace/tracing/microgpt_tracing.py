"""Trace a text through a microGPT: its events, gradients, Adam step, predictions and checks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.edits import replacing
from ..architecture.model import Scalar
from ..arrays.stats import Array, TensorStats
from ..hooks.bus import SILENT, Run, Tap
from ..hooks.event import TraceEvent, differs
from ..hooks.names import select_names
from ..measuring.norms import NormMeter
from ..microgpt.forward_backward import Pass, forward
from ..microgpt.forward_backward import backward as run_backward
from ..microgpt.model import Model, Schedule
from ..microgpt.parameters import Parameters
from .checks import untraced_check
from .collector import kept_events, predictions_of
from .microgpt_insights import insights_of
from .observers import Observers, baseline_of
from .result import ParameterRow, Predictions, StepSummary, Trace

if TYPE_CHECKING:
    from ..microgpt.training import Adam
    from ..running.interventions import Editor, Intervention
    from .findings import Check


def trace_microgpt(
    model: Model, text: str, names: Sequence[str], values: bool | Sequence[str], top_k: int,
    backward: bool, step: bool, time: bool, interventions: Sequence[Intervention] = (),
) -> Trace:  # fmt: skip
    """Trace a text through a microGPT with the options of `trace`."""
    inputs, every = model.read(text), list(model.hooks.specs)
    shown = select_names(names, every)
    positions, batch = range(len(inputs.tokens)), model.batch(inputs)
    kept = shown if values is True else kept_events(model, values, inputs, positions)
    norms, rows, summary = NormMeter(model.plan, model.parameter), tuple[ParameterRow, ...](), None
    untouched = baseline_of(model, inputs, positions, interventions, shown, top_k)
    with np.errstate(all="ignore"), untouched as baseline:
        observers = Observers(model, every, shown, kept, [(norms, norms.names, False)], baseline)
        run = observers.begin(time)
        done = forward(model.params, batch, run.tap("forward"))
        replaced = differs(done.probs, done.softmax)
        if baseline is not None:
            baseline.take(positions, done.logits, done.probs, replaced)
        repeated = forward(model.params, batch, replacing(run.replaced))
        checks = [untraced_check(done.logits, repeated.logits), *observers.checker.checks()]
        events = observers.collector.events
        forward_events = list(events)
        if backward or step:
            observers.checker.vanishing = _vanishing(done, run)
            check, summary = _backward_and_step(model, done, run, baseline.editor if baseline else None, step)
            checks.append(check)
            rows = parameter_rows(model.params, events, observers.shown)
        predictions = Predictions(
            predictions_of(model, inputs, positions, done.logits, done.probs, replaced, top_k)
        )
        losses = [p.loss for p in predictions if p.loss is not None]
        insights = insights_of(forward_events, norms.rows, losses, done.probs, model)
        nothing = f"{', '.join(names)}: parameters have no forward event, only a gradient (--backward)"
        return observers.trace(
            inputs, predictions, float(done.loss), checks, insights, nothing, parameters=rows, step=summary,
            scalar=Scalar(run.scalar) if backward or step else None,
        )  # fmt: skip


def _backward_and_step(
    model: Model, done: Pass, run: Run, editor: Editor | None, step: bool
) -> tuple[Check, StepSummary | None]:
    """Run the backward pass, check the gradients against the loss, and take one Adam step if requested."""
    from ..microgpt.training import Adam
    from .gradient_check import gradient_agreement  # a slow import (6 ms)

    moments = model.training.moments if model.training else None
    adam = Adam(model.params.copy(), None if moments is None else moments.copy())
    run_backward(adam.params, done, adam.grads, run.tap("backward"))
    taps = partial(_edited, model, editor)
    hooked = bool(run.replaced)
    if hooked and editor is not None:  # compare with a pass that has only the interventions
        alone = forward(model.params, done.batch, taps()[0])
        hooked = not np.array_equal(alone.logits, done.logits, equal_nan=True)
    check = gradient_agreement(done, adam.params, adam.grads, run.altered or hooked, taps)
    if not step:
        return check, None
    edited, _ = _edited(model, editor and editor.afresh())  # the new editor computes all means again
    return check, _one_step(model, adam, done, run.tap("update"), edited)


def _edited(model: Model, editor: Editor | None) -> tuple[Tap, Tap]:
    """Return the taps of a forward and a backward pass with the interventions and no other hooks."""
    if editor is None:
        return SILENT, SILENT
    bus = model.hooks.alone()
    run = bus.begin(before=editor.subscriptions(bus))
    return run.tap("forward"), run.tap("backward")


def _vanishing(done: Pass, run: Run) -> Array:
    """Mark the probabilities P whose gradient -1 / (T P) overflows: [N, V]. A probability is marked only if
    the loss is finite and no other gradient depends on the gradient of this probability."""
    targets = done.batch.targets
    vanishing = (targets > 0) & np.isinf(targets / done.probs * run.slopes.get("loss", 1))
    if "probs" in run.replaced:  # the gradient of the logits is computed from the gradient of P
        vanishing &= np.broadcast_to(run.slopes["probs"], vanishing.shape) == 0
    return vanishing & np.isfinite(done.loss)


def _one_step(model: Model, adam: Adam, done: Pass, tap: Tap, edited: Tap) -> StepSummary:
    """Take an Adam step, and compute the new loss with the same interventions."""
    state = model.training
    schedule = state.schedule if state else Schedule()
    if state is None or state.moments is None:
        number, note = 1, "fresh moments"
    else:
        number, note = state.step + 1, "moments of the checkpoint"
    unfinished = state is not None and state.step < schedule.steps
    lr = schedule.lr_at(state.step) if state and unfinished else schedule.lr
    adam.step(number, lr, tap)
    after = forward(adam.params, done.batch, edited)
    return StepSummary(number, lr, float(done.loss), float(after.loss), note)


def parameter_rows(
    params: Parameters, events: Iterable[TraceEvent], chosen: Collection[str]
) -> tuple[ParameterRow, ...]:
    """Return the norms of the chosen parameters. `events` provides the norms of gradients and updates."""
    by_event = {(e.phase, e.name): e.stats for e in events if e.stats is not None}
    nothing = TensorStats(0, None, None, None, None, None, None, 0, 0, 0)

    def row(name: str, array: Array) -> ParameterRow:
        value, grad = TensorStats.of(array), by_event.get(("backward", name), nothing)
        update = by_event.get(("update", name), nothing)
        return ParameterRow(
            name, array.shape, value.l2_norm, grad.l2_norm, update.l2_norm,
            value.nonfinite_count, grad.nonfinite_count, update.nonfinite_count,
        )  # fmt: skip

    return tuple(row(name, array) for name, array in params.items() if name in chosen)
