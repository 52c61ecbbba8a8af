"""The backward pass of a trace: the gradients of a scalar with respect to events and parameters, and the Adam
step of a model that can be trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..arrays.logits import rows_held, rows_of_a_part
from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..hooks.bus import HookBus, PartsTap, Run, Tap
from ..interpreter.backward import ForwardPass, TokenLogit, backward, forward
from ..microgpt.training import one_step
from ..models.float64_model import parts_of, stats_of
from ..models.language_model import Scalar
from ..operations.pass_state import PassState
from ..operations.prediction import known_targets
from ..selection.token_names import chosen_positions, token_label, token_of
from ..text.wording import ranges
from .findings import Check, TargetGradients, agreement_check
from .gradient_agreement import ALLOWED, agreement_of_an_event, agreement_of_parameters
from .observers import Collector, Observers
from .options import Token
from .predicting import Predicted
from .result import ParameterRow, Prediction, StepSummary

if TYPE_CHECKING:
    from ..interventions.interventions import Editor
    from ..models.language_model import LanguageModel, TraceInput


def scalar_of(
    model: LanguageModel, inputs: TraceInput, predictions: Sequence[Prediction], loss: float | None,
    target: Token, against: Token, position: int | None,
) -> Scalar:  # fmt: skip
    """Return the scalar whose gradients are computed. Without a target this is the loss, or the logit of the
    last prediction if there is no loss. Raises InputError if an argument does not fit the prompt."""
    if target is None and loss is not None:
        return Scalar("loss")
    rows = [prediction.position for prediction in predictions]
    (at,) = rows[-1:] if position is None else chosen_positions([position], len(inputs.tokens))
    if at not in rows:
        raise InputError(f"position {position}: expected a position with logits, {ranges(rows)}")
    if target is not None:
        token = token_of(model, target)
    elif (predicted := predictions[rows.index(at)].predicted) is not None:
        token = predicted.token
    else:
        raise InputError("no token follows, and the logits are not finite: name a target")
    other = None if against is None else token_of(model, against)
    labels = [token_label(model, own, target=True) for own in (token, other) if own is not None]
    if token == other:
        raise InputError(f"target and against are both {labels[0]}")
    logits = [f"logit({label})" for label in labels]
    name = f"({' - '.join(logits)})" if other is not None else logits[0]
    note = ""
    if target is None:
        note = f"no token follows, so the gradients are those of the logit of the prediction {labels[0]}"
    return Scalar(name, at, token, other, note)


def differentiate(
    observers: Observers, final: Array, predicted: Predicted, wanted: Sequence[str], run: Run, tap: Tap
) -> tuple[Check, dict[str, Any]]:
    """Run a backward pass for each target after the pass over the text, whose `keeping_tap` is `tap`. `final`
    is the input of the head, and `wanted` are the parameters whose gradients are asked for. The gradients
    with respect to all events are emitted to the run. Return the check of the gradients, and fields of the
    Trace. Raises InputError if a target does not fit the prompt."""
    model, inputs, rows, options = observers.asked
    targets = [inputs.targets[row] for row in rows]
    state = PassState(model, np.array(inputs.tokens), tap=tap, targets=targets)
    loss = math.nan if predicted.loss is None else predicted.loss
    done = ForwardPass(state, final, rows, run.replaced, predicted.used, loss)
    scalars = [
        scalar_of(model, inputs, predicted.rows, predicted.loss, target, options.against, options.position)
        for target in options.targets
    ]
    events = [name for name, spec in model.hooks.specs.items() if spec.parameter == name]
    if events:
        observers.checker.vanishing = _vanishing(predicted, done, run)
        return _with_parameter_events(observers, scalars[0], events, done, run)
    check, parameters = _differentiate(observers, scalars[0], wanted, done, run, options.recheck)
    others, kept, collector = list[TargetGradients](), list[dict[str, Array]](), observers.collector
    for scalar in scalars[1:]:  # the collector keeps what it had before
        count, arrays, collector.arrays = len(collector.events), collector.arrays, {}
        _differentiate(observers, scalar, wanted, done, run, recheck=False)
        events_of_scalar = [event for event in collector.events[count:] if event.name in observers.shown]
        others.append(TargetGradients(scalar, tuple(events_of_scalar)))
        kept.append({name: array for (_, name), array in collector.arrays.items()})
        collector.arrays = arrays
        del collector.events[count:]
    more = {"more_gradients": tuple(others), "more_arrays": tuple(kept)}
    return check, {"scalar": scalars[0], "parameters": parameters, **more}


def _with_parameter_events(
    observers: Observers, scalar: Scalar, names: Sequence[str], done: ForwardPass, run: Run
) -> tuple[Check, dict[str, Any]]:
    """Run a backward pass whose events include the gradients of the parameters `names`, and take one Adam
    step if requested."""
    model, inputs, _, options = observers.asked
    editor = observers.baseline.editor if observers.baseline is not None else None
    computed, tap, hooked = dict[str, Array](), run.tap("backward"), bool(run.replaced)
    backward(done, tap, names, give=computed.__setitem__)
    emitted = {name: tap.emit(name, computed[name]) for name in reversed(names)}
    gradients = {name: emitted[name] for name in names}
    if hooked and editor is not None:  # compare with a pass that has only the interventions
        alone = _pass_with(editor, model, inputs)
        hooked = not np.array_equal(alone.logits, done.logits, equal_nan=True)
    hooks = () if editor is None else (editor.subscriptions,)
    check = agreement_of_parameters(model, inputs, done, gradients, run.altered or hooked, *hooks)
    updates, summary = dict[str, Array](), None
    if options.step:
        stepped, updates, number, lr, note = one_step(cast(Any, model), gradients, run.tap("update"))
        after = _pass_with(editor and editor.afresh(), stepped, inputs)  # the editor computes its means again
        summary = StepSummary(number, lr, done.loss, after.loss, note)
    stats_of_both = {
        name: (TensorStats.of(model.parameter(name)), TensorStats.of(gradients[name])) for name in names
    }
    rows = [
        _row(name, gradients[name].shape, *both, updates.get(name))
        for name, both in stats_of_both.items()
        if name in observers.shown
    ]
    return check, {"scalar": scalar, "parameters": tuple(rows), "step": summary}


def _pass_with(editor: Editor | None, model: LanguageModel, inputs: TraceInput) -> ForwardPass:
    """Run a forward pass with interventions and without other hooks."""
    bus = HookBus(list(model.plan.values()))
    run = bus.begin(before=editor.subscriptions(bus) if editor is not None else ())
    return forward(model, np.array(inputs.tokens), inputs.targets, run.tap("forward"), run.replaced)


def _vanishing(predicted: Predicted, done: ForwardPass, run: Run) -> Array:
    """Mark the probabilities P whose gradient -1 / (T P) overflows: [N, V]. A probability is marked only if
    the loss is finite and no other gradient depends on the gradient of this probability."""
    marks, (rows, tokens) = np.zeros(predicted.probs.shape, bool), known_targets(done.run.targets)
    gradients = run.slopes.get("loss", 1) / len(rows) / predicted.probs[rows, tokens]
    marks[rows, tokens] = np.isinf(gradients) & np.isfinite(done.loss)
    if "probs" in run.replaced:  # the gradient of the logits is computed from the gradient of P
        marks &= np.broadcast_to(run.slopes["probs"], marks.shape) == 0
    return marks


def _row(
    name: str, shape: tuple[int, ...], value: TensorStats, gradient: TensorStats, update: Array | None = None
) -> ParameterRow:
    nothing = TensorStats(0, None, None, None, None, None, None, 0, 0, 0)
    change = nothing if update is None else TensorStats.of(update)
    return ParameterRow(
        name, shape, value.l2_norm, gradient.l2_norm, change.l2_norm,
        value.nonfinite_count, gradient.nonfinite_count, change.nonfinite_count,
    )  # fmt: skip


def _differentiate(
    observers: Observers, scalar: Scalar, wanted: Sequence[str], done: ForwardPass, run: Run, recheck: bool
) -> tuple[Check, tuple[ParameterRow, ...]]:
    """Return the check of the first event's gradient, and a row for each parameter. The gradients of the
    parameters are given to `on_gradient`, one at a time, or else kept."""
    model, inputs, _, options = observers.asked
    norms, checker, rows = list[ParameterRow](), observers.checker, done.rows

    def give(name: str, gradient: Array) -> None:
        parts = (model.parameter(name, part) for part in parts_of(gradient.shape))
        value, grad = reduce(TensorStats.merge, map(TensorStats.of, parts)), stats_of(gradient)
        if grad.nonfinite_count and checker.first_nonfinite is None:
            checker.first_nonfinite = f"backward of {name}"
        norms.append(_row(name, gradient.shape, value, grad))
        if options.on_gradient is None:
            observers.collector.arrays["backward", name] = gradient
        else:
            options.on_gradient(name, gradient)

    first = next(iter(model.plan))
    kept = Collector([first])
    run.scalar = scalar.name
    if recheck:
        run.subscriptions = (*run.subscriptions, model.hooks.subscription(kept, first, phases="backward"))
    names, vocab_size = [*(row.name for row in model.plan.head), "probs"], model.config.vocab_size
    whole = any(run.wants_whole(name, ("forward", "backward")) for name in names)
    size = None if whole or len(rows) <= rows_of_a_part(vocab_size) else rows_held(vocab_size)
    head = run.tap("backward") if size is None else PartsTap(run, "backward")
    of = [
        TokenLogit(rows.index(scalar.position), token, factor)
        for token, factor in ((scalar.target, 1.0), (scalar.against, -1.0))
        if token is not None and scalar.position is not None
    ]
    backward(done, run.tap("backward"), wanted, of, size, head, run.announce_parts, give)
    check = agreement_check("only with --recheck, which runs three more forward passes", ALLOWED)
    if recheck:
        check = agreement_of_an_event(model, inputs, of, rows, kept.arrays["backward", first], run)
    return check, tuple(norms)
