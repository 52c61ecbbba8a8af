"""The backward pass of a traced decoder: the gradients of a scalar with respect to events and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architecture.edits import Edit, editing
from ..architecture.float64_model import parts_of, stats_of
from ..architecture.interpreter.backward import ForwardPass, Give, TokenLogit, backward, forward
from ..architecture.model import Scalar
from ..arrays.logits import rows_held, rows_of_a_part
from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..hooks.bus import PartsTap, Run
from ..hooks.names import select_names
from ..rounding.invariants import OF_SUMS
from ..running.token_names import chosen_positions, token_label, token_of
from ..text.frozen import frozen
from ..text.wording import ranges
from .collector import Collector
from .findings import Check, TargetGradients, gradient_check
from .observers import Observers
from .result import ParameterRow, Prediction

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput

Token = str | int | None
CHANGE = 40  # the change of the scalar in a difference, as a multiple of the rounding error of a logit
LOGITS = 25.0  # if all logits are smaller, the rounding error of a logit of this size is assumed
ALLOWED, BENT = 0.03, 0.1  # error of a difference, besides its asymmetry; largest asymmetry of a difference


@frozen(slots=False)
class Asked:
    """The gradients that a trace is asked for. `targets` are tokens, or None for the loss. `parameters` are
    the parameters that get a gradient, which `on_gradient` receives."""

    targets: Sequence[Token]
    against: Token
    position: int | None
    parameters: Sequence[str]
    on_gradient: Give | None
    recheck: bool


def asked_gradients(
    model: LanguageModel, target: Token | Sequence[Token], against: Token, position: int | None,
    parameters: Sequence[str], on_gradient: Give | None, backward: bool, lens: bool, recheck: bool,
) -> Asked:  # fmt: skip
    """Return what a trace is asked for. Raises InputError if the options do not fit each other."""
    if target is not None and not (lens or backward):
        raise InputError("target: needs lens=True, which follows the target, or backward=True")
    if not backward and (against is not None or position is not None or parameters or on_gradient):
        raise InputError("against, position, parameters and on_gradient: need backward=True")
    targets = [target] if target is None or isinstance(target, str | int) else [*target]
    if not targets or (len(targets) > 1 and (lens or parameters or on_gradient)):
        raise InputError("target: the lens and the gradients of parameters are for one target")
    wanted = select_names(parameters, list(model.plan.parameters), "parameter")
    return Asked(targets, against, position, wanted, on_gradient, recheck)


def scalar_of(
    model: LanguageModel, inputs: TraceInput, predictions: Sequence[Prediction], loss: float | None,
    target: Token, against: Token, position: int | None,
) -> Scalar:  # fmt: skip
    """Return the scalar whose gradients are computed. Without a target this is the loss, or the logit of the
    last prediction if there is no loss. Raises InputError if an argument does not fit the prompt."""
    if target is None and (against is not None or position is not None):
        raise InputError(f"{'position' if against is None else 'against'}: needs a target")
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
    model: LanguageModel, inputs: TraceInput, predictions: Sequence[Prediction], loss: float | None,
    asked: Asked, done: ForwardPass, run: Run, observers: Observers,
) -> tuple[Check, dict[str, Any]]:  # fmt: skip
    """Run a backward pass for each target after the pass `done`. The gradients with respect to all events are
    emitted to the run. Return the check of the first event's gradient, and fields of the Trace. Raises
    InputError if a target does not fit the prompt."""
    scalars = [
        scalar_of(model, inputs, predictions, loss, target, asked.against, asked.position)
        for target in asked.targets
    ]
    check, parameters = _differentiate(model, inputs, scalars[0], asked, done, run, observers)
    others, kept, collector = list[TargetGradients](), list[dict[str, Array]](), observers.collector
    for scalar in scalars[1:]:  # the collector keeps what it had before
        count, arrays, collector.arrays = len(collector.events), collector.arrays, {}
        _differentiate(model, inputs, scalar, replace(asked, recheck=False), done, run, observers)
        events = tuple(event for event in collector.events[count:] if event.name in observers.shown)
        others.append(TargetGradients(scalar, events))
        kept.append({name: array for (_, name), array in collector.arrays.items()})
        collector.arrays = arrays
        del collector.events[count:]
    more = {"more_gradients": tuple(others), "more_arrays": tuple(kept)}
    return check, {"scalar": scalars[0], "parameters": parameters, **more}


def _differentiate(
    model: LanguageModel, inputs: TraceInput, scalar: Scalar, asked: Asked, done: ForwardPass, run: Run,
    observers: Observers,
) -> tuple[Check, tuple[ParameterRow, ...]]:  # fmt: skip
    """Return the check of the first event's gradient, and a row for each parameter. The gradients of the
    parameters are given to `on_gradient`, one at a time, or else kept."""
    norms, checker, rows = list[ParameterRow](), observers.checker, done.rows

    def give(name: str, gradient: Array) -> None:
        parts = (model.parameter(name, part) for part in parts_of(gradient.shape))
        value, grad = reduce(TensorStats.merge, map(TensorStats.of, parts)), stats_of(gradient)
        if grad.nonfinite_count and checker.first_nonfinite is None:
            checker.first_nonfinite = f"backward of {name}"
        bad = value.nonfinite_count, grad.nonfinite_count
        norms.append(ParameterRow(name, gradient.shape, value.l2_norm, grad.l2_norm, None, *bad))
        if asked.on_gradient is None:
            observers.collector.arrays["backward", name] = gradient
        else:
            asked.on_gradient(name, gradient)

    first = next(iter(model.plan))
    kept = Collector([first])
    run.scalar = scalar.name
    if asked.recheck:
        run.subscriptions = (*run.subscriptions, model.hooks.subscription(kept, first, phases="backward"))
    names, vocab_size = [*(row.name for row in model.plan.head), "probs"], model.config.vocab_size
    whole = any(run.wants_whole(name, ("forward", "backward")) for name in names)
    size = None if whole or len(rows) <= rows_of_a_part(vocab_size) else rows_held(vocab_size)
    head = run.tap("backward") if size is None else PartsTap(run, "backward", "")
    of = [
        TokenLogit(rows.index(scalar.position), token, factor)
        for token, factor in ((scalar.target, 1.0), (scalar.against, -1.0))
        if token is not None and scalar.position is not None
    ]
    backward(done, run.tap("backward"), asked.parameters, of, size, head, run.announce_parts, give)
    check = gradient_check("only with --recheck, which runs three more forward passes", ALLOWED)
    if asked.recheck:
        check = _agreement(model, inputs, of, rows, kept.arrays["backward", first], run)
    return check, tuple(norms)


def _agreement(
    model: LanguageModel, inputs: TraceInput, logits: Sequence[TokenLogit], rows: Sequence[int],
    gradient: Array, run: Run,
) -> Check:  # fmt: skip
    """Check the gradient of the first event against a central difference of the scalar, along the direction
    of the gradient. The step changes the scalar by much more than rounding does. If the scalar changes
    differently in the two directions, so that the step is too large, the gradient is not judged."""
    name, size = next(iter(model.plan)), float(np.linalg.norm(gradient.astype(np.float64)))
    if run.replaced or run.altered:
        return gradient_check("hooks replaced values or gradients", ALLOWED)
    if not 0 < size < math.inf:
        return gradient_check(f"the gradient of {name} is {'0' if size == 0 else 'not finite'}", ALLOWED)
    targets = [inputs.targets[row] for row in rows]

    def run_at(step: float) -> tuple[float, float]:
        edit = Edit(name, lambda value: value + (step / size * gradient).astype(value.dtype))
        done = forward(model, np.array(inputs.tokens), targets, editing(edit), rows=rows)
        value = sum(of.factor * float(done.logits[of.row, of.token]) for of in logits)
        return value if logits else done.loss, float(np.abs(done.logits).max())

    middle, largest = run_at(0.0)
    change = CHANGE * OF_SUMS[model.dtype] * max(LOGITS, largest)
    above, below = (run_at(sign * change / size)[0] for sign in (1, -1))
    slope, bend = (above - below) / (2 * change), abs(above + below - 2 * middle) / (2 * change)
    if not bend <= BENT:
        return gradient_check(
            f"the {run.scalar} is not linear within the smallest step that rounding allows", ALLOWED
        )
    detail = f"{name}: {size:.6g} against {slope * size:.6g}, along the direction of the gradient"
    return gradient_check(detail, ALLOWED + bend, abs(slope - 1))
