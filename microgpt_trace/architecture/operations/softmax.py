"""Softmax: what part of its attention each query gives to each key that it sees."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, ResultOf, Setting, StepOf, TermOf
from ..formulas.steps import EXP
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Softmax
from ..plans.plan import Operation, Plan
from .heads import KEY, OVER, QUERY, share_heads
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Softmax], run: PassState, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [n*H, T, S] -> [n*H, T, S]"""
    kind = row.kind
    length, keys = scores.shape[1:]
    seen = run.once(("seen", kind.window), lambda: seen_keys(length, keys, kind.window))
    return softmax_forward(scores, seen, run.attention_workers)


def backward(row: Operation, run: PassState, dy: Array, y: Array, scores: Array) -> Gradients:
    """dscores = w * (dw - sum(w * dw)) over the keys, 0 where they are not seen: [n*H, T, T] -> same"""
    weighted = y * dy
    return Gradients((weighted - y * weighted.sum(axis=-1, keepdims=True),))


def softmax_forward(scores: Array, seen: Array, workers: int) -> Array:
    """softmax over the keys that are seen, 0 elsewhere: [H, T, S], [T, S] -> [H, T, S]"""
    weights, lowest = np.empty_like(scores), scores.dtype.type(-np.inf)

    def fill(own: slice) -> None:
        z = np.where(seen, scores[own], lowest)
        z -= z.max(axis=-1, keepdims=True)
        np.exp(z, out=z)
        np.divide(z, z.sum(axis=-1, keepdims=True), out=weights[own])

    share_heads(fill, len(scores), workers)
    return weights


def seen_keys(length: int, seen: int, window: int | None) -> Array:
    """Which positions a query may look at: [T, S] of booleans, the last T rows of a causal mask."""
    back = np.arange(seen - length, seen)[:, None] - np.arange(seen)  # how far back the key lies
    return (back >= 0) if window is None else (back >= 0) & (back < window)


def reference(row: Operation[Softmax], given: ReferenceInputs, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [H, T, T] -> [H, T, T]"""
    kind = row.kind
    masked = np.where(visible(kind, scores.shape[-1]), scores, -np.inf)
    exp = np.exp(masked - masked.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def visible(kind: Softmax, length: int) -> Array:
    """Which keys each query sees, itself and those before it within the window: [T, T] of booleans"""
    below = np.tri(length, dtype=bool)
    return below if kind.window is None else below & ~np.tri(length, k=-kind.window, dtype=bool)


def spread(row: Operation, given: ReferenceInputs) -> Spread:
    """A sum over the keys."""
    return Spread(len(given.tokens), peaked=True)


def size(row: Operation, given: ReferenceInputs, value: Array, scores: Array) -> Array:
    """exp(z) is off by itself times what z is off by, its sum by roundings of its own."""
    return of_softmax(value)


def of_softmax(value: Array) -> Array:
    """The same of any softmax along its last axis."""
    return value * (1 - np.log(np.where(value > 0, value, 1)))


def masked(at: TracedElement) -> str:
    """Why the element's query does not see its key, or nothing where it does."""
    _, query, key = at.index
    back, window = query - key, window_of(at.numbers.plan, at.row)
    if back < 0:
        return f"masked: key {key} comes after query {query}, which may not look ahead"
    if window is not None and back >= window:
        return f"masked: key {key} lies {back} positions back, and the window of this layer is {window}"
    return ""


def window_of(plan: Plan, row: Operation) -> int | None:
    """The window of the softmax that scores go into, or that a context comes from."""
    while not isinstance(row.kind, Softmax):
        row = plan[(plan.readers[row.name] if row.kind.causal else row.inputs)[0]]
    return row.kind.window


def formula(row: Operation, setting: Setting) -> Formula:
    """One exponential divided by the sum of those of all keys that are seen."""
    (scores,), shape, window = row.inputs, setting.shapes[row.name], window_of(setting.plan, row)
    keys = Over(shape[2], "keys", QUERY, window)
    along, own = ElementAt(scores, (0, QUERY, OVER)), ElementAt(scores, (0, QUERY, KEY))
    return Formula(shape, share_of_all(along, own, keys), (QUERY, KEY, window))


def share_of_all(along: ElementAt, own: ElementAt, over: Over) -> tuple[StepOf, ...]:
    """exp(own) over the sum of exp, of what is less the largest where that would overflow."""
    return (
        StepOf((TermOf((along,), (over,)),), "largest", guard=True),
        StepOf((TermOf((along,), (over,), EXP, less=0),), "sum of exponentials"),
        StepOf((TermOf((own,), (), EXP, less=0),), "own exponential"),
        StepOf((TermOf((ResultOf(2), ResultOf(1, "1/"))),)),
    )


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """w = softmax(s): ds = w * (dw - sum of w * dw)"""
    shape, window = setting.shapes[reader.name], window_of(setting.plan, reader)
    keys = Over(shape[2], "keys", QUERY, window)
    steps = back_through(reader.name, (0, QUERY, OVER), (0, QUERY, KEY), keys, "sum of w × dw")
    return Formula(shape, steps, (QUERY, KEY, window))


def back_through(
    name: str, along: tuple[int, ...], own: tuple[int, ...], over: Over, label: str
) -> tuple[StepOf, ...]:
    """Of shares the gradient of what they are shares of: w * (dw - sum of w * dw)"""
    weight, gradient = (ElementAt(name, own), ElementAt(name, own, "backward"))
    mean = TermOf((ElementAt(name, along), ElementAt(name, along, "backward")), (over,))
    last = (TermOf((weight, gradient)), TermOf((weight, ResultOf(0, "-"))))
    return (StepOf((mean,), label), StepOf(last))


def notes(at: TracedElement) -> tuple[str, ...]:
    """Why there is no weight."""
    return tuple(filter(None, [masked(at)]))
