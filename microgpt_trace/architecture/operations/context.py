"""Context: the values of the keys, each by its weight."""

from __future__ import annotations

import numpy as np

from ...arrays.heads import in_heads, out_of_heads, shares
from ...arrays.linear import ignoring, share
from ...arrays.stats import Array
from ..arithmetic import total
from ..kinds import Context
from ..plan import Operation
from ..steps import Use, Worked, element_name, in_one_step
from ..traced_element import TracedElement, channels_of, sharing, short, strongest
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import ROUNDINGS, Sizes, Spread
from .softmax import over_queries, seen_by


def forward(row: Operation, run: PassState, weights: Array, v: Array) -> Array:
    """context = weights @ v of n sequences, heads side by side: [n*H, T, S], [n*T, G*D] -> [n*T, H*D]"""
    kind = row.kind
    assert isinstance(kind, Context)
    values = in_heads(v, run.n, kind.head_dim)
    group = run.groups(kind.group, len(values) // run.n)
    if run.cache is not None:
        values = run.cache.extend(row.name, values)
    return out_of_heads(context_forward(weights, values, group, run.attention_workers), run.n)


def backward(row: Operation, run: PassState, dy: Array, y: Array, weights: Array, v: Array) -> Gradients:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, of all heads that share a value"""
    kind = row.kind
    assert isinstance(kind, Context)
    dcontext, values = (in_heads(x, run.n, kind.head_dim) for x in (dy, v))
    group, dvalues = run.groups(kind.group, len(values) // run.n), np.zeros_like(values)
    np.add.at(dvalues, group, weights.swapaxes(1, 2) @ dcontext)
    return Gradients((dcontext @ values[group].swapaxes(1, 2), out_of_heads(dvalues, run.n)))


def context_forward(weights: Array, values: Array, group: Array, workers: int) -> Array:
    """context = weights @ v, head h with the values group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    context = np.empty((*weights.shape[:2], values.shape[2]), weights.dtype)

    def fill(own: slice) -> None:
        with ignoring():
            np.matmul(weights[own], values[group[own]], out=context[own])

    share(fill, shares(len(weights), workers), workers)
    return context


def reference(row: Operation, given: ReferenceInputs, weights: Array, v: Array) -> Array:
    """context = weights @ v, head by head, side by side: [H, T, T], [T, G*D] -> [T, H*D]"""
    kind = row.kind
    assert isinstance(kind, Context)
    values = v.reshape(len(v), -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]
    return (weights @ values).swapaxes(0, 1).reshape(len(v), -1)


def spread(kind: Context, sizes: Sizes) -> Spread:
    """A sum over the keys."""
    return Spread(sizes.length, halves=True)


def size(row: Operation, given: ReferenceInputs, value: Array, weights: Array, v: Array) -> Array:
    """The sum of the magnitudes."""
    kind = row.kind
    assert isinstance(kind, Context)
    length = len(v)
    of_v = np.abs(v).reshape(length, -1, kind.head_dim).swapaxes(0, 1)[list(kind.group)]  # [H, T, D]
    return (np.abs(weights) @ of_v * (1 + length / ROUNDINGS)).swapaxes(0, 1).reshape(length, -1)


def worked(at: TracedElement) -> Worked:
    """The same channel of the values of all keys, each by its weight."""
    kind = at.row.kind
    assert isinstance(kind, Context)
    position, channel = at.index
    weights, v = at.row.inputs
    head, own = divmod(channel, kind.head_dim)
    column = kind.group[head] * kind.head_dim + own
    products = at.numbers.row(weights, head, position) * at.numbers.column(v, column)
    keys = at.counting(products, seen_by(at, at.row).keys_of(position))
    operands = [at.along(weights, head, position, within=keys), at.down(v, column, keys)]
    step = total(str(at.element), operands, at.most, label_of=at.tokens_from(keys.start))
    formula = (
        f"{at.own} = sum of {short(weights)}[{head},{position},j] × {short(v)}[j,{column}] "
        f"for the keys j={keys.start}..{keys.stop - 1}"
    )
    of = kind.group[head]
    notes = () if column == channel else (f"head {head} reads the values of key-value head {of}",)
    return in_one_step(formula, step, notes)


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """The channel of the query's context that the element weighs most in."""
    kind = reader.kind
    assert isinstance(kind, Context)
    weights, v = reader.inputs
    seen, dim = seen_by(at, reader), kind.head_dim
    if at.name == weights:
        head, query, key = at.index
        if seen.hidden(query, key):
            return None
        values = channels_of(kind.group[head], dim)
        products = at.value * at.numbers.row(v, key)[values]
        best = strongest(products)
        times = element_name(v, (key, values.start + best))
        index = (query, head * dim + best)
        return at.use(reader.name, index, float(products[best]), dim, f"times {times}")
    position, channel = at.index
    own, within = divmod(channel, dim)
    queries, heads = seen.queries_of(position), sharing(kind.group, own)
    shares = at.numbers.array(weights)[heads, queries, position].astype(np.float64)
    products = (at.value * shares).reshape(-1)
    best = strongest(products)
    which, query = divmod(best, queries.stop - queries.start)
    query += queries.start
    times = element_name(weights, (heads[which], query, position))
    index = (query, heads[which] * dim + within)
    return at.use(reader.name, index, float(products[best]), len(products), f"times {times}")


def path(at: TracedElement, reader: Operation) -> Worked:
    """context = weights @ v: dweights = dcontext @ v.T, dv = weights.T @ dcontext"""
    kind = reader.kind
    assert isinstance(kind, Context)
    weights, v = reader.inputs
    if at.name != weights:
        return _of_value(at, reader, weights)
    head, query, key = at.index
    own, values = channels_of(head, kind.head_dim), channels_of(kind.group[head], kind.head_dim)
    operands = [at.along(reader.name, query, kind="backward", within=own), at.along(v, key, within=values)]
    shift = own.start - values.start
    c = "c" if not shift else f"c - {shift}"
    text = f"sum of d {short(reader.name)}[{query},c] × {short(v)}[{key},{c}], c={own.start}..{own.stop - 1}"
    return in_one_step(text, total(at.label(reader.name), operands, at.most))


def _of_value(at: TracedElement, reader: Operation, weights: str) -> Worked:
    """The sum over the queries that see it, of all heads that share it."""
    operands, text, seen = over_queries(at, reader, weights, reader.name)
    count, labels = seen.stop - seen.start, at.tokens_from(seen.start)
    step = total(at.label(reader.name), operands, at.most, label_of=lambda i: labels(i % count))
    return in_one_step(f"{text}, j={seen.start}..{seen.stop - 1}", step)


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """To the weights and to the values, at the key where it weighs most."""
    kind = at.row.kind
    assert isinstance(kind, Context)
    position, channel = at.index
    weights, v = at.row.inputs
    head, own = divmod(channel, kind.head_dim)
    column, keys = kind.group[head] * kind.head_dim + own, seen_by(at, at.row).keys_of(position)
    to_weights = at.gradient * at.numbers.column(v, column)[keys]
    to_v = at.gradient * at.numbers.row(weights, head, position)[keys]
    key, other = keys.start + strongest(to_weights), keys.start + strongest(to_v)
    n = len(to_v)
    return [
        at.gradient_use(weights, (head, position, key), float(to_weights[key - keys.start]), n,
                        f"times {element_name(v, (key, column))}"),
        at.gradient_use(v, (other, column), float(to_v[other - keys.start]), n,
                        f"times {element_name(weights, (head, position, other))}"),
    ]  # fmt: skip
