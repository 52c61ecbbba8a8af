"""Probabilities and Loss: what the logits predict, and how surprising what follows is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...arrays.logits import losses_of, softmax
from ...arrays.stats import Array
from ..arithmetic import (
    MINUS_LOG,
    Function,
    elements,
    exponential,
    minus,
    nothing,
    product,
    result,
    sum_of,
    total,
)
from ..kinds import Kind, Loss, Probabilities
from ..plan import Operation
from ..steps import Factor, Use, Worked, in_one_step
from ..traced_element import TracedElement, nothing_from, strongest
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import Sizes, Spread
from .softmax import backward as softmax_backward
from .softmax import of_softmax, share_of

TINY_PROBABILITY = 1e-30  # below it float32 loses digits, and the loss is not that of P any more


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLoss(Loss):
    """Of other tokens."""

    tokens: Array | None = None


def forward(row: Operation, run: PassState, logits: Array) -> Array:
    """The softmax over the tokens: [T, V] -> [T, V]; or the mean of -log P(target) over the positions whose
    next token is known: [T, V] -> []"""
    if isinstance(row.kind, Probabilities):
        return softmax(logits)
    rows, targets = known_targets(run.targets)
    losses = losses_of(logits[rows], targets)
    return np.asarray(losses.mean() if losses.size else np.nan, logits.dtype)


def backward(row: Operation, run: PassState, dy: Array, y: Array, logits: Array) -> Gradients:
    """dlogits = p * (dp - sum(p * dp)) of the softmax, dloss * (p - one_hot(target)) / n of the loss, 0 where
    no target is known: [T, V] or [] -> [T, V]"""
    if isinstance(row.kind, Probabilities):
        return softmax_backward(row, run, dy, y, logits)
    (rows, targets), dlogits = known_targets(run.targets), np.zeros_like(logits)
    if rows.size:
        dlogits[rows] = softmax(logits[rows])
        dlogits[rows, targets] -= 1
        dlogits *= dy / len(rows)
    return Gradients((dlogits,))


def known_targets(targets: Sequence[int | None]) -> tuple[Array, Array]:
    """The positions whose next token is known, and which it is: [n] each"""
    known = [(at, target) for at, target in enumerate(targets) if target is not None]
    rows, tokens = np.array(known, np.intp).reshape(-1, 2).T
    return rows, tokens


def reference(row: Operation, given: ReferenceInputs, logits: Array) -> Array:
    """The softmax over the tokens: [T, V] -> [T, V]; or the mean of log(sum(exp(logits))) - logits[target]
    over the positions whose next token is known: [T, V] -> []"""
    if isinstance(row.kind, Probabilities):
        exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exp / exp.sum(axis=-1, keepdims=True)
    targets = given.targets
    if isinstance(row.kind, FaultyLoss) and row.kind.tokens is not None:
        targets = ReferenceInputs(given.model, row.kind.tokens).targets
    logits = logits[: len(targets)] - logits[: len(targets)].max(axis=1, keepdims=True)
    own = logits[np.arange(len(targets)), targets]
    return np.asarray((np.log(np.exp(logits).sum(axis=1)) - own).mean())


def spread(kind: Kind, sizes: Sizes) -> Spread:
    """A sum over the tokens."""
    return Spread(sizes.input, peaked=isinstance(kind, Probabilities))


def size(row: Operation, given: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to."""
    return of_softmax(value) if isinstance(row.kind, Probabilities) else np.abs(value)


def worked(at: TracedElement) -> Worked:
    """A probability, or the mean of the losses of all predictions."""
    if isinstance(at.row.kind, Loss):
        return _mean_loss(at)
    position, token = at.index
    (logits,) = at.row.inputs
    row = at.along(logits, position)
    exp = exponential(row.values)
    denominator = total("sum of exponentials", [row], at.most, exp, label_of=at.in_vocabulary)
    steps = share_of(at, denominator, at.factor(logits, position, token), exp)
    formula = (
        f"{at.own} = exp({logits}[{position},{token}]) / sum of exp({logits}[{position},j]) for all "
        f"{len(row.values):,} tokens j"
    )
    return Worked(formula, steps, steps[-1].value * max(1.0, float(np.abs(row.values).max())))


def _mean_loss(at: TracedElement) -> Worked:
    known = at.numbers.known_targets
    usual = [own for own in known if not own.p <= TINY_PROBABILITY]  # or NaN
    vanished = [
        Factor(f"the loss at position {own.position}, from the logits", own.loss)
        for own in known
        if own.p <= TINY_PROBABILITY
    ]
    probs = _probabilities_of(at, at.row)
    chances = np.array([own.p for own in usual])
    operand = elements(chances, probs, lambda i: (usual[i].position, usual[i].token))
    summed = total(
        "sum of losses", [operand], at.most, MINUS_LOG, vanished, lambda i: at.in_vocabulary(usual[i].token)
    )  # fmt: skip
    step = product(at.name, result(summed), Factor(f"1/{len(known)}", 1 / len(known)))
    formula = f"{at.name} = mean of -log {probs}[p,target at p] over {len(known)} positions p"
    return Worked(formula, (summed, step), step.magnitude + 1.0)


def _probabilities_of(at: TracedElement, loss: Operation) -> str:
    """The probabilities of the logits that a loss reads."""
    return next(row.name for row in at.numbers.plan.of_kind(Probabilities) if row.inputs == loss.inputs)


def _loss_of(at: TracedElement, logits: str) -> Operation:
    """The loss of logits."""
    return next(row for row in at.numbers.plan.of_kind(Loss) if logits in row.inputs)


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """The probability of the same token, or the loss, which looks at the target."""
    kind = reader.kind
    if isinstance(kind, Loss):
        return _into_loss(at, reader)
    size = at.numbers.shapes[at.name][-1]
    return at.use(reader.name, at.index, None, size, f"softmax over the {size:,} tokens")


def after_probabilities(at: TracedElement) -> list[Use]:
    """What probabilities go into, though the loss is worked out from the logits at once."""
    use = _into_loss(at, _loss_of(at, at.row.inputs[0]))
    return [] if use is None else [use]


def _into_loss(at: TracedElement, reader: Operation) -> Use | None:
    position, token = at.index
    target = at.numbers.inputs.targets[position]
    chances = at.name not in reader.inputs
    if target is None or (chances and token != target):
        return None
    n = _predictions(at)
    part, adds = "the target, whose -log P counts", None
    if token != target:
        part = "in the denominator of P(target)"
    elif chances:
        with np.errstate(divide="ignore"):
            adds = float(-np.log(at.value) / n)
    use = at.use(reader.name, (), adds, 1, f"{part}, one of {n} positions")
    return use if at.numbers.whole else replace(use, value=None)


def _predictions(at: TracedElement) -> int:
    """At how many positions it is known what follows."""
    return sum(target is not None for target in at.numbers.inputs.targets)


def gradient_at_the_end(at: TracedElement) -> Worked | None:
    """The gradient of the loss, of probabilities and of logits; None of what else there is."""
    if isinstance(at.row.kind, Loss):
        step = product(at.gradient_name, Factor("1", 1.0))
        return Worked(f"{at.gradient_name} = 1: this is where the backward pass begins", (step,), 1.0)
    if isinstance(at.row.kind, Probabilities):
        return _of_probabilities(at, _loss_of(at, at.row.inputs[0]).name)
    for row in at.ways:
        if isinstance(row.kind, Loss):
            return _of_logits(at, row.name, _probabilities_of(at, row))
    return None


def _cut_off(at: TracedElement, reader: str) -> Worked:
    """No gradient at all, because a hook replaced the only thing that it comes from."""
    return Worked(f"{at.gradient_name} = {nothing_from(reader)}", (nothing(at.gradient_name),), 0.0)


def _of_probabilities(at: TracedElement, loss: str) -> Worked:
    """loss = mean of -log P(target): -1/(T * P) at the target, 0 elsewhere"""
    position, token = at.index
    if at.is_cut(loss):
        return _cut_off(at, loss)
    if token != at.numbers.inputs.targets[position]:
        formula = f"d {at.own} = 0: the loss looks at the target alone"
        return Worked(formula, (nothing(at.gradient_name),), 0.0)
    n = _predictions(at)
    inverse = product("1/P", at.factor(at.name, *at.index), function=Function("1/x", lambda x: 1 / x))
    share, dloss = Factor(f"-1/{n}", -1 / n), at.factor(loss, kind="backward")
    step = product(at.gradient_name, share, result(inverse), *([] if dloss.value == 1 else [dloss]))
    note = ("the gradient of the logits is worked out at once, not by way of it",)
    return Worked(f"d {at.own} = -1 / ({n} × {at.own})", (inverse, step), step.magnitude, note)


def _of_logits(at: TracedElement, loss: str, probs: str) -> Worked:
    """(P - 1 at the target, else P) / T"""
    position, token = at.index
    target = at.numbers.inputs.targets[position]
    for later in (loss, probs):
        if at.is_cut(later):
            return _cut_off(at, later)
    if ("backward", probs) in at.numbers.replaced:
        return _of_logits_by_probabilities(at, probs)
    if target is None:
        formula = f"d {at.own} = 0: it is not known what follows"
        return Worked(formula, (nothing(at.gradient_name),), 0.0)
    n = _predictions(at)
    share, chance = Factor(f"1/{n}", 1 / n), at.factor(probs, *at.index)
    dloss = at.factor(loss, kind="backward")
    scale = [] if dloss.value == 1 else [dloss]  # a hook replaced it, or the loss
    parts = [[chance, share, *scale]]
    if token == target:
        parts.append([Factor(f"-1/{n}", -1 / n), *scale])
    step = sum_of(at.gradient_name, *parts)
    wanted = " - 1" * (len(parts) > 1)
    formula = f"d {at.own} = ({chance.name}{wanted}) / {n}"
    note = ("the target: the loss falls as its logit rises",) if wanted else ()
    return in_one_step(formula, step, note)


def _of_logits_by_probabilities(at: TracedElement, probs: str) -> Worked:
    """The softmax' own way back, where a hook replaced the probabilities or their gradient."""
    position, token = at.index
    chances, gradients = at.along(probs, position), at.along(probs, position, kind="backward")
    mean = total("sum of P × dP", [chances, gradients], at.most, label_of=at.in_vocabulary)
    own = at.factor(probs, position, token)
    gradient = at.factor(probs, position, token, kind="backward")
    step = sum_of(at.gradient_name, [own, gradient], [own, minus(mean)])
    place = f"[{position},{token}]"
    formula = f"d {at.own} = P{place} × (dP{place} - sum of P × dP)"
    return Worked(formula, (mean, step), step.magnitude + own.value * mean.magnitude)


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """From the loss to the logits, at once."""
    if isinstance(at.row.kind, Probabilities):
        return []
    (logits,) = at.row.inputs
    shape = at.numbers.shapes[logits]
    gradients = at.numbers.array(logits, "backward")
    place = np.unravel_index(strongest(gradients), shape)
    index = (int(place[0]), int(place[1]))
    words = f"the largest of {gradients.size:,}: P, less 1 at the target, / {_predictions(at)}"
    return [at.gradient_use(logits, index, None, gradients.size, words)]
