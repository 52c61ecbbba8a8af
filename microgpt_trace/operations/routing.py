"""Routing: the share of each chosen expert."""

from __future__ import annotations

import math

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, ResultOf, Setting, StepOf, TermOf
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Routing
from ..plans.plan import Operation
from .choice import expert_at, numbers, unmoved
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import softmax_size, softmax_steps

LEAST = 1e-20  # added to a sum of scores, as in transformers, because all scores may be 0


def forward(row: Operation[Routing], run: PassState, logits: Array, chosen: Array) -> Array:
    """Compute the softmax of the logits over the chosen or all experts, and return the shares of the chosen
    experts. Scores are divided by their sum: [N, E], [N, k] -> [N, k]"""
    kind = row.kind
    exp = logits if kind.of_scores else np.exp(logits - logits.max(axis=1, keepdims=True))
    own = np.take_along_axis(exp, numbers(chosen, logits.shape[1]), axis=1)
    if kind.of_scores and not kind.normalised:
        return own
    return own / ((own if kind.normalised else exp).sum(axis=1, keepdims=True) + LEAST)


def backward(
    row: Operation[Routing], run: PassState, dy: Array, y: Array, logits: Array, chosen: Array
) -> Gradients:
    """dlogits = w * dw - p * sum(w * dw), where p is the softmax over the same experts. For scores with the
    sum S, dscores = (dw - sum(w * dw)) / S, or dw: [N, k] -> [N, E]"""
    weighted, rows = y * dy, np.arange(len(logits))[:, None]
    total, ids = weighted.sum(axis=1, keepdims=True), numbers(chosen, logits.shape[1])
    if row.kind.of_scores:
        dlogits = np.zeros_like(logits)
        own = np.take_along_axis(logits, ids, axis=1).sum(axis=1, keepdims=True) + LEAST
        weighted = (dy - total) / own if row.kind.normalised else dy
    elif row.kind.normalised:
        dlogits = np.zeros_like(logits)
        weighted = weighted - y * total
    else:
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        dlogits = exp / exp.sum(axis=1, keepdims=True) * -total
    np.add.at(dlogits, (rows, ids), weighted)
    return Gradients((dlogits, np.zeros_like(chosen)))


def reference(row: Operation[Routing], ref: ReferenceInputs, logits: Array, chosen: Array) -> Array:
    """Compute the shares one position at a time: [T, E], [T, k] -> [T, k]"""
    shares, kind = np.empty(chosen.shape), row.kind
    for t, ids in enumerate(numbers(chosen, logits.shape[1])):
        if kind.of_scores:
            shares[t] = logits[t, ids] / (math.fsum(logits[t, ids]) + LEAST if kind.normalised else 1)
            continue
        among = logits[t, ids] if row.kind.normalised else logits[t]
        shares[t] = np.exp(logits[t, ids] - among.max()) / np.exp(among - among.max()).sum()
    return shares


def spread(row: Operation[Routing], ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the experts."""
    return Spread(ref.shapes[row.inputs[0]][1], peaked=True)


def size(row: Operation[Routing], ref: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """Return `softmax_size` of the shares, or |value| of shares without a softmax."""
    return np.abs(value) if row.kind.of_scores else softmax_size(value)


def formula(row: Operation[Routing], setting: Setting) -> Formula:
    """Describe a share: exp(logit), divided by the sum of exp(logit) over the chosen or all experts."""
    (logits, chosen), (length, count) = row.inputs, setting.shapes[row.name]

    def of_choice(axis: int) -> ElementAt:
        return ElementAt(logits, (0, expert_at(chosen, count, 0, axis)))

    if row.kind.of_scores:
        total = StepOf((TermOf((of_choice(2),), (Over(count),)),), "sum of the scores")
        share = TermOf((of_choice(1), ResultOf(0, "1/")))
        steps = (total, StepOf((share,))) if row.kind.normalised else (StepOf((TermOf((of_choice(1),)),)),)
        return Formula((length, count), steps)
    each = of_choice(2) if row.kind.normalised else ElementAt(logits, (0, 2))
    over = Over(count if row.kind.normalised else setting.shapes[logits][1])
    return Formula((length, count), softmax_steps(each, of_choice(1), over))


def gradient_formula(name: str, reader: Operation[Routing], setting: Setting) -> Formula:
    """Describe an element of dlogits = w * dw - p * sum(w * dw), where p is the softmax over the same
    experts. If only the chosen experts are in the softmax, p equals w."""
    (logits, chosen), (_, count) = reader.inputs, setting.shapes[reader.name]
    shape, over, w = setting.shapes[name], (Over(count),), ElementAt(reader.name, (0, 2))
    if name == chosen:
        return unmoved(shape)
    dw, own = ElementAt(reader.name, (0, 2), "backward"), (expert_at(chosen, count, 0, 2), 1)
    total = StepOf((TermOf((w, dw), over),), "sum of w × dw")
    if reader.kind.of_scores and not reader.kind.normalised:
        return Formula(shape, (StepOf((TermOf((dw,), over, same=own),)),))
    if reader.kind.of_scores:
        score = ElementAt(logits, (0, expert_at(chosen, count, 0, 2)))
        less = ElementAt(reader.name, (0, 2), "backward", less=0)
        of_scores = StepOf((TermOf((score,), over),), "sum of the scores")
        return Formula(
            shape, (total, of_scores, StepOf((TermOf((less, ResultOf(1, "1/")), over, same=own),)))
        )
    if reader.kind.normalised:
        last = TermOf((w, ElementAt(reader.name, (0, 2), "backward", less=0)), over, same=own)
        return Formula(shape, (total, StepOf((last,))))
    each, one = ElementAt(logits, (0, 2)), ElementAt(logits, (0, 1))
    steps = softmax_steps(each, one, Over(shape[1]))[:3]
    minus = TermOf((ResultOf(2), ResultOf(3, "-"), ResultOf(1, "1/")))
    return Formula(shape, (*steps, total, StepOf((TermOf((w, dw), over, same=own), minus))))


def notes(at: TracedElement[Routing]) -> tuple[str, ...]:
    """Return a note that names the expert."""
    return (f"the share of expert {at.numbers.value(at.row.inputs[1], at.index):.0f}",)
