"""Probabilities and Loss: what the logits predict, and how surprising what follows is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...arrays.logits import losses_of, softmax
from ...arrays.stats import Array
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
from ..plans.kinds import Loss, Probabilities
from ..plans.plan import Operation, Plan
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import back_through, of_softmax, share_of_all
from .softmax import backward as softmax_backward

TINY_PROBABILITY = 1e-30  # below it float32 loses digits, and the loss is not that of P any more
TARGET = (0, 1)  # the axes of position and token; the loss has none


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
    logits = logits[: len(targets)] - logits[: len(targets)].max(axis=1, keepdims=True)
    own = logits[np.arange(len(targets)), targets]
    return np.asarray((np.log(np.exp(logits).sum(axis=1)) - own).mean())


def spread(row: Operation, given: ReferenceInputs) -> Spread:
    """A sum over the tokens."""
    return Spread(given.shapes[row.inputs[0]][-1], peaked=isinstance(row.kind, Probabilities))


def size(row: Operation, given: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to."""
    return of_softmax(value) if isinstance(row.kind, Probabilities) else np.abs(value)


def formula(row: Operation, setting: Setting) -> Formula:
    """The softmax over all tokens, or the mean of -log P(target) over the positions whose target is known."""
    (logits,) = row.inputs
    length, size = setting.shapes[logits]
    if isinstance(row.kind, Probabilities):
        along, own, tokens = ElementAt(logits, (0, 2)), ElementAt(logits, (0, 1)), Over(size, "vocabulary")
        return Formula((length, size), share_of_all(along, own, tokens))
    target = ElementAt(other_of(setting.plan, row).name, (0, PlaceAlong((), table="targets")))
    losses = TermOf((target,), (Over(length, "known"),), MINUS_LOG, least=TINY_PROBABILITY)
    share = StepOf((TermOf((ResultOf(0), ShareOfKnown())),))
    return Formula((), (StepOf((losses,), "sum of losses"), share))


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """Of the loss itself 1. By way of it of probabilities -1/(T * P) at the target, 0 elsewhere; of logits
    (P - 1 at the target, else P) / T, and by way of probabilities P * (dP - sum of P * dP)"""
    shape, dloss = setting.shapes[name], tuple[ElementAt, ...]()
    if name == reader.name:
        return one_step((), TermOf((Constant("1", (1.0,)),)))
    if isinstance(reader.kind, Probabilities):
        tokens = Over(shape[1], "vocabulary")
        return Formula(shape, back_through(reader.name, (0, 2), (0, 1), tokens, "sum of P × dP"))
    if ("backward", reader.name) in setting.replaced:
        dloss = (ElementAt(reader.name, (), "backward"),)
    if name in reader.inputs:
        chance = ElementAt(other_of(setting.plan, reader).name, TARGET)
        wanted = TermOf((ShareOfKnown(-1), *dloss), where=TARGET)
        return one_step(shape, TermOf((chance, ShareOfKnown(), *dloss), where=TARGET[:1]), wanted)
    inverse = StepOf((TermOf((ElementAt(name, TARGET),), function=INVERSE),), "1/P")
    last = TermOf((ShareOfKnown(-1), ResultOf(0), *dloss), where=TARGET)
    return Formula(shape, (inverse, StepOf((last,))))


def other_of(plan: Plan, row: Operation) -> Operation:
    """The probabilities of the logits that a loss reads, or the loss of those that probabilities are of."""
    ends = plan.of_kind(Probabilities, Loss)
    return next(own for own in ends if own.inputs == row.inputs and own is not row)


def gradient_notes(at: TracedElement) -> tuple[str, ...]:
    """Where gradients begin: what is said of that of the loss, of a target's probability and of its logit."""
    kind, plan = at.row.kind, at.numbers.plan
    if isinstance(kind, Loss):
        return ("this is where the backward pass begins",)
    if isinstance(kind, Probabilities):
        return ("the gradient of the logits is worked out at once, not by way of it",)
    losses = [row for row in plan.of_kind(Loss) if at.name in row.inputs]
    if not losses or ("backward", other_of(plan, losses[0]).name) in at.numbers.replaced:
        return ()
    is_target = at.index[1] == at.numbers.inputs.targets[at.index[0]]
    return ("the target: the loss falls as its logit rises",) if is_target else ()
