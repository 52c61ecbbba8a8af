"""Softmax: what part of its attention each query gives to each key that it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays.heads import shares
from ...arrays.linear import ignoring, share
from ...arrays.stats import Array
from ..arithmetic import (
    Function,
    Operand,
    elements,
    exponential,
    minus,
    nothing,
    product,
    reciprocal,
    result,
    sum_of,
    total,
)
from ..kinds import Context, Scores, Softmax
from ..plan import Operation, Plan
from ..steps import Factor, Pass, Step, Use, Worked
from ..traced_element import TracedElement, sharing, short
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import Sizes, Spread, terms


@dataclass(frozen=True, eq=False, repr=False)
class FaultySoftmax(Softmax):
    """Sees so many positions `ahead` (-1: not even itself), has another `base` than e, sums over another
    `axis` than that of the keys."""

    ahead: int = 0
    base: float = math.e
    axis: int = -1


def forward(row: Operation, run: PassState, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [n*H, T, S] -> [n*H, T, S]"""
    kind = row.kind
    assert isinstance(kind, Softmax)
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
        with ignoring():
            z = np.where(seen, scores[own], lowest)
            z -= z.max(axis=-1, keepdims=True)
            np.exp(z, out=z)
            np.divide(z, z.sum(axis=-1, keepdims=True), out=weights[own])

    share(fill, shares(len(scores), workers), workers)
    return weights


def seen_keys(length: int, seen: int, window: int | None) -> Array:
    """Which positions a query may look at: [T, S] of booleans, the last T rows of a causal mask."""
    back = np.arange(seen - length, seen)[:, None] - np.arange(seen)  # how far back the key lies
    return (back >= 0) if window is None else (back >= 0) & (back < window)


def reference(row: Operation, given: ReferenceInputs, scores: Array) -> Array:
    """exp(x) over its sum along the keys that are seen, 0 elsewhere: [H, T, T] -> [H, T, T]"""
    kind = row.kind
    assert isinstance(kind, Softmax)
    base, axis = (kind.base, kind.axis) if isinstance(kind, FaultySoftmax) else (math.e, -1)
    masked = np.where(visible(kind, scores.shape[-1]), scores * math.log(base), -np.inf)
    exp = np.exp(masked - masked.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def visible(kind: Softmax, length: int) -> Array:
    """Which keys each query sees, itself and those before it within the window: [T, T] of booleans"""
    if isinstance(kind, FaultySoftmax) and kind.ahead:
        back = np.arange(length)[:, None] - np.arange(length)
        return (back >= -kind.ahead) & (back < (kind.window or length))
    below = np.tri(length, dtype=bool)
    return below if kind.window is None else below & ~np.tri(length, k=-kind.window, dtype=bool)


def spread(kind: Softmax, sizes: Sizes) -> Spread:
    """A sum over the keys."""
    return Spread(sizes.length, peaked=True)


def size(row: Operation, given: ReferenceInputs, value: Array, scores: Array) -> Array:
    """exp(z) is off by itself times what z is off by, its sum by roundings of its own."""
    return of_softmax(value)


def of_softmax(value: Array) -> Array:
    """The same of any softmax along its last axis."""
    return value * (terms(value.shape[-1]) - np.log(np.where(value > 0, value, 1)))


class Sight(NamedTuple):
    """Which of so many keys each query sees: itself and those before it, within the window."""

    window: int | None
    length: int

    def keys_of(self, query: int) -> slice:
        return slice(max(0, query - self.window + 1) if self.window else 0, query + 1)

    def queries_of(self, key: int) -> slice:
        """The queries that see a key."""
        return slice(key, min(self.length, key + self.window) if self.window else self.length)

    def hidden(self, query: int, key: int) -> str:
        """Why a query does not see a key, or nothing where it does."""
        if key > query:
            return f"key {key} comes after query {query}, which may not look ahead"
        if key < self.keys_of(query).start:
            back, window = query - key, self.window
            return f"key {key} lies {back} positions back, and the window of this layer is {window}"
        return ""


def seen_by(at: TracedElement, row: Operation) -> Sight:
    """What the queries of a row see: of scores those of the softmax that they go into, of a context those of
    the weights that it reads."""
    return Sight(window_of(at.numbers.plan, row), at.numbers.length)


def window_of(plan: Plan, row: Operation) -> int | None:
    """The window of the softmax that scores go into, or that a context comes from."""
    while not isinstance(row.kind, Softmax):
        row = plan[(plan.readers[row.name] if row.kind.causal else row.inputs)[0]]
    return row.kind.window


def over_queries(
    at: TracedElement, reader: Operation, square: str, wide: str
) -> tuple[list[Operand], str, slice]:  # fmt: skip
    """What a key or a value gets by way of scores or a context: the sum over the queries that see it, in all
    heads that share it, of an event [H, T, T] times one [T, heads*D], of which one is the reader's gradient.
    The factors, the sum in words, and the queries."""
    kind = reader.kind
    assert isinstance(kind, Scores | Context)
    position, channel = at.index
    own, within = divmod(channel, kind.head_dim)
    heads = sharing(kind.group, own)
    columns = [head * kind.head_dim + within for head in heads]
    of_square: Pass = "backward" if square == reader.name else "forward"
    of_wide: Pass = "backward" if wide == reader.name else "forward"
    squares = at.numbers.array(square, of_square)[heads, :, position].astype(np.float64)
    rows = np.stack([at.numbers.column(wide, column, of_wide) for column in columns])
    seen = at.counting(np.abs(squares * rows).sum(axis=0), seen_by(at, reader).queries_of(position))
    count = seen.stop - seen.start
    operands = [
        elements(
            squares[:, seen].reshape(-1), square,
            lambda i: (heads[i // count], seen.start + i % count, position), of_square,
        ),
        elements(
            rows[:, seen].reshape(-1), wide,
            lambda i: (seen.start + i % count, columns[i // count]), of_wide,
        ),
    ]  # fmt: skip
    alone = len(heads) == 1
    h, c = (str(heads[0]), str(columns[0])) if alone else ("h", f"{kind.head_dim}h+{within}")
    which = "" if alone else f" for the heads h={heads[0]}..{heads[-1]}"
    d = {"forward": "", "backward": "d "}
    text = f"{d[of_square]}{short(square)}[{h},j,{position}] × {d[of_wide]}{short(wide)}[j,{c}]{which}"
    return operands, f"sum of {text}", seen


def worked(at: TracedElement) -> Worked:
    """One exponential divided by the sum of those of all keys that are seen."""
    head, query, key = at.index
    (scores,) = at.row.inputs
    seen, s = seen_by(at, at.row), short(scores)
    keys = seen.keys_of(query)
    if why := seen.hidden(query, key):
        formula = f"{at.own} = exp(-infinity) / ... = 0"
        return Worked(formula, (nothing(str(at.element)),), 0.0, (f"masked: {why}",))
    row = at.along(scores, head, query, within=keys)
    exp = exponential(row.values)
    labels = at.tokens_from(keys.start)
    denominator = total("sum of exponentials", [row], at.most, exp, label_of=labels)
    steps = share_of(at, denominator, at.factor(scores, head, query, key), exp)
    formula = (
        f"{at.own} = exp({s}[{head},{query},{key}]) / sum of exp({s}[{head},{query},j]) "
        f"for the keys j={keys.start}..{keys.stop - 1}"
    )
    return Worked(formula, steps, steps[-1].value * max(1.0, float(np.abs(row.values).max())))


def share_of(at: TracedElement, denominator: Step, score: Factor, exp: Function) -> tuple[Step, ...]:
    """One exponential divided by the sum of all, which any softmax ends with."""
    own = product("own exponential", score, function=exp)
    return denominator, own, product(str(at.element), result(own), reciprocal(denominator))


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """The weight of the same query and key; nowhere where the mask is."""
    _, query, key = at.index
    seen = seen_by(at, reader)
    if seen.hidden(query, key):
        return None
    keys = seen.keys_of(query)
    words = f"softmax over the keys {keys.start} to {keys.stop - 1} of the query"
    return at.use(reader.name, at.index, None, keys.stop - keys.start, words)


def path(at: TracedElement, reader: Operation) -> Worked:
    """w = softmax(s): ds = w * (dw - sum of w * dw)"""
    head, query, key = at.index
    seen, name = seen_by(at, reader), reader.name
    if seen.hidden(query, key):
        return Worked("0: the mask lets no weight come from it", (nothing(at.gradient_name),), 0.0)
    keys = seen.keys_of(query)
    weights = at.along(name, head, query, within=keys)
    gradients = at.along(name, head, query, kind="backward", within=keys)
    mean = total("sum of w × dw", [weights, gradients], at.most, label_of=at.tokens_from(keys.start))
    own = at.factor(name, head, query, key)
    last = sum_of(at.label(name), [own, at.factor(name, *at.index, kind="backward")], [own, minus(mean)])
    place = f"[{head},{query},{key}]"
    formula = f"w{place} × (dw{place} - sum of w[{head},{query},j] × dw[{head},{query},j])"
    return Worked(formula, (mean, last), last.magnitude + abs(own.value) * mean.magnitude)


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """To the scores of the query, of which this is the key's own."""
    _, query, key = at.index
    seen = seen_by(at, at.row)
    if seen.hidden(query, key):
        return []
    keys = seen.keys_of(query)
    words = f"back through the softmax over the keys {keys.start} to {keys.stop - 1}"
    return [at.gradient_use(at.row.inputs[0], at.index, None, keys.stop - keys.start, words)]
