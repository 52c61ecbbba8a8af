"""Probabilities and Loss: the softmax of the logits, and the mean of -log P(target)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.logits import losses_of, softmax
from ..arrays.stats import Array
from ..formulas.formula import (
    Constant,
    ElementAt,
    Formula,
    Over,
    PlaceAlong,
    ResultOf,
    Setting,
    ShareOfKnown,
    StepOf,
    TermOf,
    one_step,
)
from ..formulas.steps import INVERSE, MINUS_LOG
from ..formulas.traced_element import TracedElement
from ..models.language_model import Scalar
from ..plans.kinds import Loss, Probabilities
from ..plans.plan import Operation, Plan
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import backward as softmax_backward
from .softmax import softmax_gradient_steps, softmax_size, softmax_steps

TINY_PROBABILITY = 1e-30  # a smaller P loses digits in float32, so that -log P differs from the loss
TARGET = (0, 1)  # the axes of the position and the token


def forward(row: Operation, run: PassState, logits: Array) -> Array:
    """Compute the probabilities [T, V] or the loss [] from logits [T, V]. The loss is the mean of -log
    P(target) over the positions with a known target."""
    if isinstance(row.kind, Probabilities):
        return softmax(logits)
    rows, targets = known_targets(run.targets)
    losses = losses_of(logits[rows], targets)
    return np.asarray(losses.mean() if losses.size else np.nan, logits.dtype)


def backward(row: Operation, run: PassState, dy: Array, y: Array, logits: Array) -> Gradients:
    """Return dlogits [T, V]: p * (dp - sum(p * dp)) for the probabilities, dloss * (p - one_hot(target)) / n
    for the loss. The loss adds no gradient at positions without a known target."""
    if isinstance(row.kind, Probabilities):
        return softmax_backward(row, run, dy, y, logits)
    (rows, targets), dlogits = known_targets(run.targets), np.zeros_like(logits)
    if rows.size:
        dlogits[rows] = softmax(logits[rows])
        dlogits[rows, targets] -= 1
        dlogits *= dy / len(rows)
    return Gradients((dlogits,))


def known_targets(targets: Sequence[int | None]) -> tuple[Array, Array]:
    """Return the positions whose target is known, and their targets: [n] each"""
    pairs = [(at, target) for at, target in enumerate(targets) if target is not None]
    rows, tokens = np.array(pairs, np.intp).reshape(-1, 2).T
    return rows, tokens


def reference(row: Operation, ref: ReferenceInputs, logits: Array) -> Array:
    """Compute the probabilities [T, V] or the loss [] from logits [T, V]. The loss is the mean of
    log(sum(exp(logits))) - logits[target] over the positions with a known target."""
    if isinstance(row.kind, Probabilities):
        exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exp / exp.sum(axis=-1, keepdims=True)
    targets = ref.targets
    logits = logits[: len(targets)] - logits[: len(targets)].max(axis=1, keepdims=True)
    target_logits = logits[np.arange(len(targets)), targets]
    return np.asarray((np.log(np.exp(logits).sum(axis=1)) - target_logits).mean())


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the tokens."""
    return Spread(ref.shapes[row.inputs[0]][-1], peaked=isinstance(row.kind, Probabilities))


def size(row: Operation, ref: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """Return `softmax_size` for probabilities, or the absolute value of the loss."""
    return softmax_size(value) if isinstance(row.kind, Probabilities) else np.abs(value)


def formula(row: Operation, setting: Setting) -> Formula:
    """Describe the softmax over all tokens, or the mean of -log P(target) over known targets."""
    (logits,) = row.inputs
    length, size = setting.shapes[logits]
    if isinstance(row.kind, Probabilities):
        each, one, tokens = ElementAt(logits, (0, 2)), ElementAt(logits, (0, 1)), Over(size, "vocabulary")
        return Formula((length, size), softmax_steps(each, one, tokens))
    target = ElementAt(other_of(setting.plan, row).name, (0, PlaceAlong((), table="targets")))
    losses = TermOf((target,), (Over(length, "known"),), MINUS_LOG, least=TINY_PROBABILITY)
    share = StepOf((TermOf((ResultOf(0), ShareOfKnown())),))
    return Formula((), (StepOf((losses,), "sum of losses"), share))


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """Describe a gradient. The loss itself has gradient 1. The loss passes -1/(n * P) to the probability of a
    target and 0 to other probabilities. The loss passes (P - 1)/n to the logit of a target and P/n to other
    logits. The probabilities pass P * (dP - sum of P * dP) to a logit."""
    shape, dloss = setting.shapes[name], tuple[ElementAt, ...]()
    if name == reader.name:
        return one_step((), TermOf((Constant("1", (1.0,)),)))
    if isinstance(reader.kind, Probabilities):
        tokens = Over(shape[1], "vocabulary")
        return Formula(shape, softmax_gradient_steps(reader.name, (0, 2), (0, 1), tokens, "sum of P × dP"))
    if ("backward", reader.name) in setting.replaced:
        dloss = (ElementAt(reader.name, (), "backward"),)
    if name in reader.inputs:
        probability = ElementAt(other_of(setting.plan, reader).name, TARGET)
        minus_one = TermOf((ShareOfKnown("-1/"), *dloss), where=TARGET)
        return one_step(shape, TermOf((probability, ShareOfKnown(), *dloss), where=TARGET[:1]), minus_one)
    inverse = StepOf((TermOf((ElementAt(name, TARGET),), function=INVERSE),), "1/P")
    last = TermOf((ShareOfKnown("-1/"), ResultOf(0), *dloss), where=TARGET)
    return Formula(shape, (inverse, StepOf((last,))))


def logit_gradient(scalar: Scalar, shape: Sequence[int], index: Sequence[int]) -> Formula:
    """Describe the gradient of the logit at `index`, a position and a token, if the backward pass begins at
    logits. The gradient is 1 for the target's logit, -1 for the logit that is subtracted, and otherwise 0."""
    position, token = index
    sign = {scalar.target: "1", scalar.against: "-1"}.get(token) if position == scalar.position else None
    if sign is None:
        reason = f"{scalar.name} at position {scalar.position} does not contain this logit"
        return Formula(tuple(shape), (StepOf(()),), zero=reason)
    return one_step(shape, TermOf((Constant(sign, (float(sign),)),)))


def is_end(plan: Plan, name: str) -> bool:
    """Return True for the logits, the probabilities and the loss."""
    return any(name in (row.name, *row.inputs) for row in plan.of_kind(Probabilities, Loss))


def other_of(plan: Plan, row: Operation) -> Operation:
    """Return the row of the loss for a row of probabilities, and vice versa."""
    rows = plan.of_kind(Probabilities, Loss)
    return next(other for other in rows if other.inputs == row.inputs and other is not row)


def gradient_notes(at: TracedElement) -> tuple[str, ...]:
    """Return notes on the gradients of the loss, of probabilities and of a target's logit."""
    kind, plan, scalar = at.row.kind, at.numbers.plan, at.numbers.scalar
    if scalar is not None and scalar.target is not None:
        return ("the backward pass begins here",) if is_end(plan, at.name) else ()
    if isinstance(kind, Loss):
        return ("the backward pass begins here",)
    if isinstance(kind, Probabilities):
        if {("forward", at.name), ("backward", at.name)} & at.numbers.replaced:
            return ()
        return ("the gradient of the logits is computed directly from the loss, not from this gradient",)
    losses = [row for row in plan.of_kind(Loss) if at.name in row.inputs]
    if not losses or ("backward", other_of(plan, losses[0]).name) in at.numbers.replaced:
        return ()
    is_target = at.index[1] == at.numbers.inputs.targets[at.index[0]]
    return ("this token is the target: a larger logit reduces the loss",) if is_target else ()
