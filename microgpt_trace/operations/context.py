"""Context: the sum of the values, weighted by the attention weights."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Formula, Setting, one_step
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Context
from ..plans.plan import Operation
from . import heads
from .pass_state import Gradients, PassState, QueryBlock
from .reference_inputs import ReferenceInputs, Spread
from .softmax import window_of


def forward(row: Operation[Context], run: PassState, weights: Array, v: Array) -> Array:
    """Compute weights @ v for n sequences, with heads side by side: [n*H, T, S], [n*T, G*D] -> [n*T, H*D]"""
    kind = row.kind
    values = heads.in_heads(v, run.n, kind.head_dim)
    group = run.keys_of_heads(kind.group, len(values) // run.n)
    if run.cache is not None:
        values = run.cache.extend(row.inputs[1], values)
    window = window_of(run.model.plan, row)

    def of(block: QueryBlock) -> Array:
        own, first = weights[:, block.rows], block.first(window)
        context = context_forward(own[..., first : block.keys], values[:, first : block.keys], group, workers)
        for part in (slice(first), slice(block.keys, own.shape[2])):  # not 0 only if a hook changed weights
            if own[..., part].any():
                context += context_forward(own[..., part], values[:, part], group, workers)
        return context

    workers = run.attention_workers
    parts = [of(block) for block in run.blocks(len(kind.group))]
    return heads.out_of_heads(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), run.n)


def backward(
    row: Operation[Context], run: PassState, dy: Array, y: Array, weights: Array, v: Array
) -> Gradients:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, summed over the heads that share a value"""
    kind = row.kind
    dcontext, values = (heads.in_heads(x, run.n, kind.head_dim) for x in (dy, v))
    group = run.keys_of_heads(kind.group, len(values) // run.n)
    dvalues = heads.sum_by_group(weights.swapaxes(1, 2) @ dcontext, group, len(values))
    return Gradients((dcontext @ values[group].swapaxes(1, 2), heads.out_of_heads(dvalues, run.n)))


def context_forward(weights: Array, values: Array, group: Array, workers: int) -> Array:
    """Compute weights @ v; head h uses the values of head group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    context = np.empty((*weights.shape[:2], values.shape[2]), weights.dtype)

    def fill(part: slice) -> None:
        np.matmul(weights[part], values[group[part]], out=context[part])

    heads.share_heads(fill, len(weights), workers)
    return context


def reference(row: Operation[Context], ref: ReferenceInputs, weights: Array, v: Array) -> Array:
    """Compute weights @ v, with heads side by side: [H, T, T], [T, G*D] -> [T, H*D]"""
    kind = row.kind
    values = v.reshape(len(v), -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]
    return (weights @ values).swapaxes(0, 1).reshape(len(v), -1)


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the keys."""
    return Spread(len(ref.tokens), alike=True, halves=True)


def size(row: Operation[Context], ref: ReferenceInputs, value: Array, weights: Array, v: Array) -> Array:
    """Return the sum of the absolute values of the terms."""
    return reference(row, ref, np.abs(weights), np.abs(v))


def formula(row: Operation[Context], setting: Setting) -> Formula:
    """Describe an element as a sum over the keys: attention weight times the same channel of the value."""
    kind, (weights, v) = row.kind, row.inputs
    length, window = setting.shapes[v][0], window_of(setting.plan, row)
    sizes = (length, len(kind.group), kind.head_dim)
    return one_step(sizes, heads.over_keys(kind, (weights, "forward"), v, length, window))


def gradient_formula(name: str, reader: Operation[Context], setting: Setting) -> Formula:
    """dweights = dcontext @ v.T; dv = weights.T @ dcontext, summed over the queries and heads that use v"""
    kind, (weights, v) = reader.kind, reader.inputs
    length, gradient = setting.shapes[v][0], (reader.name, heads.BACKWARD)
    if name == weights:
        return one_step((len(kind.group), length, length), heads.over_channels(kind, gradient, v))
    window = window_of(setting.plan, reader)
    terms = heads.over_queries(kind, (weights, "forward"), gradient, length, window)
    return one_step((length, heads.key_value_heads(kind), kind.head_dim), terms)


def notes(at: TracedElement[Context]) -> tuple[str, ...]:
    """Return a note that names the key-value head, if its number differs from the head's number."""
    kind = at.row.kind
    head = at.index[1] // kind.head_dim
    values = kind.group[head]
    return () if values == head else (f"head {head} reads the values of key-value head {values}",)
