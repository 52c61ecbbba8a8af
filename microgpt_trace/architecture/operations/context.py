"""Context: the values of the keys, each by its weight."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import Formula, Setting, one_step
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Context
from ..plans.plan import Operation
from .heads import (
    BACKWARD,
    in_heads,
    out_of_heads,
    over_channels,
    over_keys,
    over_queries,
    own_heads,
    share_heads,
)
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import window_of


def forward(row: Operation[Context], run: PassState, weights: Array, v: Array) -> Array:
    """context = weights @ v of n sequences, heads side by side: [n*H, T, S], [n*T, G*D] -> [n*T, H*D]"""
    kind = row.kind
    values = in_heads(v, run.n, kind.head_dim)
    group = run.keys_of_heads(kind.group, len(values) // run.n)
    if run.cache is not None:
        values = run.cache.extend(row.name, values)
    return out_of_heads(context_forward(weights, values, group, run.attention_workers), run.n)


def backward(
    row: Operation[Context], run: PassState, dy: Array, y: Array, weights: Array, v: Array
) -> Gradients:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, of all heads that share a value"""
    kind = row.kind
    dcontext, values = (in_heads(x, run.n, kind.head_dim) for x in (dy, v))
    group, dvalues = run.keys_of_heads(kind.group, len(values) // run.n), np.zeros_like(values)
    np.add.at(dvalues, group, weights.swapaxes(1, 2) @ dcontext)
    return Gradients((dcontext @ values[group].swapaxes(1, 2), out_of_heads(dvalues, run.n)))


def context_forward(weights: Array, values: Array, group: Array, workers: int) -> Array:
    """context = weights @ v, head h with the values group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    context = np.empty((*weights.shape[:2], values.shape[2]), weights.dtype)

    def fill(own: slice) -> None:
        np.matmul(weights[own], values[group[own]], out=context[own])

    share_heads(fill, len(weights), workers)
    return context


def reference(row: Operation[Context], given: ReferenceInputs, weights: Array, v: Array) -> Array:
    """context = weights @ v, head by head, side by side: [H, T, T], [T, G*D] -> [T, H*D]"""
    kind = row.kind
    values = v.reshape(len(v), -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]
    return (weights @ values).swapaxes(0, 1).reshape(len(v), -1)


def spread(row: Operation, given: ReferenceInputs) -> Spread:
    """A sum over the keys."""
    return Spread(len(given.tokens), alike=True, halves=True)


def size(row: Operation[Context], given: ReferenceInputs, value: Array, weights: Array, v: Array) -> Array:
    """The sum of the magnitudes."""
    kind = row.kind
    length = len(v)
    of_v = np.abs(v).reshape(length, -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]  # [H, T, D]
    return (np.abs(weights) @ of_v).swapaxes(0, 1).reshape(length, -1)


def formula(row: Operation[Context], setting: Setting) -> Formula:
    """The same channel of the values of all keys, each by its weight."""
    kind, (weights, v) = row.kind, row.inputs
    length, window = setting.shapes[v][0], window_of(setting.plan, row)
    sizes = (length, len(kind.group), kind.head_dim)
    return one_step(sizes, over_keys(kind, (weights, "forward"), v, length, window))


def gradient_formula(name: str, reader: Operation[Context], setting: Setting) -> Formula:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, over the queries that see it, of all heads that
    share it"""
    kind, (weights, v) = reader.kind, reader.inputs
    length, gradient = setting.shapes[v][0], (reader.name, BACKWARD)
    if name == weights:
        return one_step((len(kind.group), length, length), over_channels(kind, gradient, v))
    window = window_of(setting.plan, reader)
    terms = over_queries(kind, (weights, "forward"), gradient, length, window)
    return one_step((length, own_heads(kind), kind.head_dim), terms)


def notes(at: TracedElement[Context]) -> tuple[str, ...]:
    """Whose values a head reads, where these are not its own."""
    kind = at.row.kind
    head = at.index[1] // kind.head_dim
    of = kind.group[head]
    return () if of == head else (f"head {head} reads the values of key-value head {of}",)
