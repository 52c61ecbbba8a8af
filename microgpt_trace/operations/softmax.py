"""Softmax: the attention weights of each query over the keys that it sees."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, Over, ResultOf, Setting, StepOf, TermOf
from ..formulas.steps import EXP
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Softmax, first_key
from ..plans.plan import Operation, Plan
from .heads import KEY, OVER, QUERY, placed, share_heads
from .pass_state import Gradients, PassState, QueryBlock
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Softmax], run: PassState, scores: Array) -> Array:
    """Compute the softmax over the visible keys, and 0 for other keys: [n*H, T, S] -> [n*H, T, S]"""
    kind, workers = row.kind, run.attention_workers
    sinks = None if kind.sinks is None else np.tile(run.model.parameter(kind.sinks), run.n)

    def of(block: QueryBlock) -> tuple[slice, slice, Array]:
        keys, length = slice(block.first(kind.window), block.keys), block.queries.stop - block.queries.start
        key = "seen", kind.window, length, block.keys
        seen = run.once(key, lambda: seen_keys(length, block.keys, kind.window)[:, keys])
        return block.rows, keys, softmax_forward(scores[:, block.rows, keys], seen, workers, sinks)

    return placed(map(of, run.blocks(len(scores) // run.n)), scores.shape)


def backward(row: Operation, run: PassState, dy: Array, y: Array, scores: Array) -> Gradients:
    """dscores = w * (dw - sum(w * dw)) over the visible keys, 0 for other keys: [n*H, T, T] -> [n*H, T, T]"""
    weighted, sinks = y * dy, getattr(row.kind, "sinks", None)
    total, parameters = weighted.sum(axis=-1, keepdims=True), dict[str, Array]()
    if sinks in run.wanted:
        by_head = ((1 - y.sum(axis=-1)) * -total[..., 0]).sum(axis=-1)
        parameters[str(sinks)] = by_head.reshape(run.n, -1).sum(axis=0)
    return Gradients((weighted - y * total,), parameters)


def softmax_forward(scores: Array, seen: Array, workers: int, sinks: Array | None = None) -> Array:
    """Compute the softmax over visible keys, and 0 for other keys: [H, T, S], [T, S] -> [H, T, S]. `sinks`
    [H] has a score without a key for each head."""
    weights, lowest = np.empty(scores.shape, scores.dtype), scores.dtype.type(-np.inf)

    def fill(part: slice) -> None:
        z = np.where(seen, scores[part], lowest)
        most = z.max(axis=-1, keepdims=True)
        if sinks is not None:
            sink = sinks[part, None, None]
            most = np.maximum(most, sink)
        z -= most
        np.exp(z, out=z)
        total = z.sum(axis=-1, keepdims=True)
        np.divide(z, total if sinks is None else total + np.exp(sink - most), out=weights[part])

    share_heads(fill, len(scores), workers)
    return weights


def seen_keys(length: int, seen: int, window: int | None) -> Array:
    """Return a mask [T, S] of visible keys: the last T rows of the causal mask [S, S] with a window."""
    queries, keys = np.arange(seen - length, seen)[:, None], np.arange(seen)
    return (keys <= queries) & (keys >= first_key(queries, window))


def reference(row: Operation[Softmax], ref: ReferenceInputs, scores: Array) -> Array:
    """Compute the softmax over the visible keys, and 0 for other keys: [H, T, T] -> [H, T, T]"""
    kind = row.kind
    masked = np.where(visible(kind, scores.shape[-1]), scores, -np.inf)
    if kind.sinks is not None:
        sinks = ref.parameter(row, kind.sinks)[:, None, None]
        masked = np.concatenate([masked, np.broadcast_to(sinks, (*scores.shape[:2], 1))], axis=-1)
    exp = np.exp(masked - masked.max(axis=-1, keepdims=True))
    return (exp / exp.sum(axis=-1, keepdims=True))[..., : scores.shape[-1]]


def visible(kind: Softmax, length: int) -> Array:
    """Return a mask [T, T] of visible keys: the causal mask with a window."""
    below, window = np.tri(length, dtype=bool), kind.window
    if window is not None and window < 0:
        return below & np.equal.outer(*[np.arange(length) // -window] * 2)
    return below if window is None else below & ~np.tri(length, k=-window, dtype=bool)


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the keys."""
    return Spread(len(ref.tokens), peaked=True)


def size(row: Operation, ref: ReferenceInputs, value: Array, scores: Array) -> Array:
    """Return `softmax_size` for the weights. The error of exp(z) is exp(z) times the error of z."""
    return softmax_size(value)


def softmax_size(value: Array) -> Array:
    """Return, for each output of a softmax over the last axis, a size proportional to its rounding error."""
    return value * (1 - np.log(np.where(value > 0, value, 1)))


def masked(at: TracedElement) -> tuple[str, ...]:
    """Return a note that explains why the query does not see the key, or () if the query sees the key."""
    _, query, key = at.index
    window = window_of(at.numbers.plan, at.row)
    if key > query:
        return (f"masked: key {key} comes after query {query}, which may not look ahead",)
    if window is None or key >= (first := first_key(query, window)):
        return ()
    if window < 0:
        return (f"masked: the chunk of query {query} begins at position {first}, after key {key}",)
    return (f"masked: key {key} is {query - key} positions back, and the window of this layer is {window}",)


def window_of(plan: Plan, row: Operation) -> int | None:
    """Return the window of the softmax that follows scores or precedes a context."""
    while not isinstance(row.kind, Softmax):
        row = plan[(plan.readers[row.name] if row.causal else row.inputs)[0]]
    return row.kind.window


def formula(row: Operation[Softmax], setting: Setting) -> Formula:
    """Describe an element: exp(score), divided by the sum of exp(score) over the keys that the query sees."""
    (scores,), shape, window = row.inputs, setting.shapes[row.name], window_of(setting.plan, row)
    keys = Over(shape[2], "keys", QUERY, window)
    each, one = ElementAt(scores, (0, QUERY, OVER)), ElementAt(scores, (0, QUERY, KEY))
    sinks = [ElementAt(row.kind.sinks, (0,))] if row.kind.sinks else []
    return Formula(shape, softmax_steps(each, one, keys, *sinks), (QUERY, KEY, window))


def softmax_steps(each: ElementAt, one: ElementAt, over: Over, *more: ElementAt) -> tuple[StepOf, ...]:
    """Return the steps of exp(one) / sum of exp(each). The sum also contains exp of `more`. If exp would
    overflow, first subtract the maximum."""
    others = (TermOf((element,), (), EXP, less=0) for element in more)
    return (
        StepOf((TermOf((each,), (over,)),), "largest", guard=True),
        StepOf((TermOf((each,), (over,), EXP, less=0), *others), "sum of exponentials"),
        StepOf((TermOf((one,), (), EXP, less=0),), "own exponential"),
        StepOf((TermOf((ResultOf(2), ResultOf(1, "1/"))),)),
    )


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """Describe an element of ds = w * (dw - sum of w * dw), where w = softmax(s)."""
    shape, window = setting.shapes[reader.name], window_of(setting.plan, reader)
    keys = Over(shape[2], "keys", QUERY, window)
    steps = softmax_gradient_steps(reader.name, (0, QUERY, OVER), (0, QUERY, KEY), keys, "sum of w × dw")
    return Formula(shape, steps, (QUERY, KEY, window))


def softmax_gradient_steps(
    name: str, each: tuple[int, ...], one: tuple[int, ...], over: Over, label: str
) -> tuple[StepOf, ...]:
    """Return the steps of the input's gradient w * (dw - sum of w * dw), where `name` is the output w."""
    weight, gradient = (ElementAt(name, one), ElementAt(name, one, "backward"))
    mean = TermOf((ElementAt(name, each), ElementAt(name, each, "backward")), (over,))
    last = (TermOf((weight, gradient)), TermOf((weight, ResultOf(0, "-"))))
    return (StepOf((mean,), label), StepOf(last))


def parameter_formula(name: str, row: Operation[Softmax], setting: Setting) -> Formula:
    """Describe the gradient of a sink: the sum of -w * dw * s over queries and keys, where s = 1 - sum(w) is
    the weight of the sink."""
    heads, length, _ = setting.shapes[row.name]
    query, keys = (Over(length),), (Over(length), Over(length, "keys", QUERY, row.kind.window))
    w, dw = ElementAt(row.name, (0, QUERY, KEY)), ElementAt(row.name, (0, QUERY, KEY), "backward")
    steps = (
        StepOf((TermOf((w,), keys),), "seen", along=query),
        StepOf((TermOf((Constant("1", (1.0,)),), query, less=0),), "sink", along=query),
        StepOf((TermOf((w, dw, ResultOf(1, "-")), keys),)),
    )
    return Formula((heads,), steps)


notes = masked
