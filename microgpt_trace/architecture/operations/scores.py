"""Scores: how well each query goes with each key, before the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...arrays.heads import in_heads, out_of_heads, shares
from ...arrays.linear import ignoring, share
from ...arrays.stats import Array
from ..arithmetic import Operand, product, result, total
from ..kinds import Scores
from ..plan import Operation
from ..steps import Factor, Use, Worked, element_name
from ..traced_element import TracedElement, channels_of, sharing, short, strongest
from .linear import capped
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import Sizes, Spread
from .softmax import over_queries, seen_by


@dataclass(frozen=True, eq=False, repr=False)
class FaultyScores(Scores):
    """With a `cap`: c * tanh(scores / c)."""

    cap: float | None = None


def forward(row: Operation, run: PassState, q: Array, k: Array) -> Array:
    """scores = q @ k.T * scale of n sequences: [n*T, H*D], [n*T, G*D] -> [n*H, T, S]"""
    kind = row.kind
    assert isinstance(kind, Scores)
    queries, keys = (in_heads(x, run.n, kind.head_dim) for x in (q, k))
    group = run.groups(kind.group, len(keys) // run.n)
    if run.cache is not None:
        keys = run.cache.extend(row.name, keys)
    return scores_forward(queries, keys, group, kind.scale, run.attention_workers)


def backward(row: Operation, run: PassState, dy: Array, y: Array, q: Array, k: Array) -> Gradients:
    """dq = dscores @ k * scale, dk = dscores.T @ q * scale, of all heads that share a key"""
    kind = row.kind
    assert isinstance(kind, Scores)
    queries, keys = (in_heads(x, run.n, kind.head_dim) for x in (q, k))
    group = run.groups(kind.group, len(keys) // run.n)
    dscores, dkeys = dy * kind.scale, np.zeros_like(keys)
    np.add.at(dkeys, group, dscores.swapaxes(1, 2) @ queries)
    return Gradients((out_of_heads(dscores @ keys[group], run.n), out_of_heads(dkeys, run.n)))


def scores_forward(queries: Array, keys: Array, group: Array, scale: float, workers: int) -> Array:
    """scores = q @ k.T * scale, head h with the keys group[h]: [H, T, D], [G, S, D] -> [H, T, S]"""
    scores = np.empty((*queries.shape[:2], keys.shape[1]), queries.dtype)

    def fill(own: slice) -> None:
        with ignoring():
            np.matmul(queries[own], keys[group[own]].swapaxes(1, 2), out=scores[own])
            scores[own] *= scale

    share(fill, shares(len(queries), workers), workers)
    return scores


def reference(row: Operation, given: ReferenceInputs, q: Array, k: Array) -> Array:
    """scores = q @ k.T * scale: [T, H*D], [T, G*D] -> [H, T, T]"""
    kind = row.kind
    assert isinstance(kind, Scores)
    queries, keys = (x.reshape(len(x), -1, kind.head_dim).swapaxes(0, 1) for x in (q, k))
    scores = queries @ keys[list(kind.group)].swapaxes(1, 2) * kind.scale
    return capped(scores, kind.cap) if isinstance(kind, FaultyScores) else scores


def spread(kind: Scores, sizes: Sizes) -> Spread:
    """A sum over the width of a head."""
    return Spread(kind.head_dim, halves=True)


def size(row: Operation, given: ReferenceInputs, value: Array, q: Array, k: Array) -> Array:
    """|q| |k|, of which the terms may cancel."""
    kind = row.kind
    assert isinstance(kind, Scores)
    of_q, of_k = (np.linalg.norm(x.reshape(len(x), -1, kind.head_dim), axis=-1).T for x in (q, k))  # [H, T]
    return of_q[:, :, None] * of_k[list(kind.group)][:, None] * abs(kind.scale) + np.abs(value)


def worked(at: TracedElement) -> Worked:
    """The query times the key, scaled."""
    kind = at.row.kind
    assert isinstance(kind, Scores)
    head, query, key = at.index
    q, k = at.row.inputs
    own, of_key = channels_of(head, kind.head_dim), channels_of(kind.group[head], kind.head_dim)
    operands = [at.along(q, query, within=own), at.along(k, key, within=of_key)]
    summed = total("sum of products", operands, at.most)
    scaled = product(str(at.element), result(summed), _scale(kind))
    shift = of_key.start - own.start
    c = "c" if not shift else f"c - {-shift}" if shift < 0 else f"c + {shift}"
    formula = (
        f"{at.own} = sum of {short(q)}[{query},c] × {short(k)}[{key},{c}]{_scaled(kind)}, "
        f"c={own.start}..{own.stop - 1}"
    )
    notes = []
    if shift:
        notes.append(f"head {head} reads the keys of key-value head {kind.group[head]}")
    if why := seen_by(at, at.row).hidden(query, key):
        notes.append(f"masked: {why}; the score is computed, but no weight comes from it")
    return Worked(formula, (summed, scaled), summed.magnitude * abs(kind.scale), tuple(notes))


def _is_root(kind: Scores) -> bool:
    return kind.scale == 1 / math.sqrt(kind.head_dim)


def _scale(kind: Scores) -> Factor:
    return Factor(f"1/sqrt({kind.head_dim})" if _is_root(kind) else f"{kind.scale:.6g}", kind.scale)


def _scaled(kind: Scores) -> str:
    """The same behind a formula."""
    return f" / sqrt({kind.head_dim})" if _is_root(kind) else f" × {kind.scale:.6g}"


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """A query meets the keys that it sees, a key the queries that see it."""
    kind = reader.kind
    assert isinstance(kind, Scores)
    position, channel = at.index
    q, k = reader.inputs
    own, within = divmod(channel, kind.head_dim)
    seen = seen_by(at, reader)
    if at.name == q:
        keys, column = seen.keys_of(position), kind.group[own] * kind.head_dim + within
        products = at.value * at.numbers.column(k, column)[keys] * kind.scale
        key = keys.start + strongest(products)
        index, times = (own, position, key), element_name(k, (key, column))
    else:
        queries, heads = seen.queries_of(position), sharing(kind.group, own)
        rows = [at.numbers.column(q, h * kind.head_dim + within)[queries] for h in heads]
        products = (at.value * np.stack(rows) * kind.scale).reshape(-1)
        which, query = divmod(strongest(products), queries.stop - queries.start)
        head, query = heads[which], queries.start + query
        index, times = (head, query, position), element_name(q, (query, head * kind.head_dim + within))
    adds = float(products[strongest(products)])
    return at.use(reader.name, index, adds, len(products), f"times {times},{_scaled(kind)}")


def path(at: TracedElement, reader: Operation) -> Worked:
    """scores = q @ k.T * scale: dq = dscores @ k * scale, dk = dscores.T @ q * scale"""
    kind = reader.kind
    assert isinstance(kind, Scores)
    of_query, q = at.name == reader.inputs[0], reader.inputs[0]
    operands, text, seen = _of_query(at, reader) if of_query else over_queries(at, reader, reader.name, q)
    count = seen.stop - seen.start
    labels = at.tokens_from(seen.start)
    summed = total("sum of products", operands, at.most, label_of=lambda i: labels(i % count))
    scaled = product(at.label(reader.name), result(summed), _scale(kind))
    formula = f"{text}{_scaled(kind)}, j={seen.start}..{seen.stop - 1}"
    return Worked(formula, (summed, scaled), summed.magnitude * abs(kind.scale))


def _of_query(at: TracedElement, reader: Operation) -> tuple[list[Operand], str, slice]:
    """The gradients of a query's scores and its keys, the sum of their products in words, the keys."""
    kind = reader.kind
    assert isinstance(kind, Scores)
    position, channel = at.index
    k, (head, within) = reader.inputs[1], divmod(channel, kind.head_dim)
    column = kind.group[head] * kind.head_dim + within
    row = at.numbers.row(reader.name, head, position, kind="backward")
    products = row * at.numbers.column(k, column)
    seen = at.counting(products, seen_by(at, reader).keys_of(position))
    text = f"sum of d {short(reader.name)}[{head},{position},j] × {short(k)}[j,{column}]"
    gradients = at.along(reader.name, head, position, kind="backward", within=seen)
    return [gradients, at.down(k, column, seen)], text, seen


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """To the query and to the key, unless the mask is there."""
    kind = at.row.kind
    assert isinstance(kind, Scores)
    head, query, key = at.index
    if seen_by(at, at.row).hidden(query, key):
        return []
    of_q, of_k = channels_of(head, kind.head_dim), channels_of(kind.group[head], kind.head_dim)
    q, k = at.row.inputs

    def part(name: str, place: tuple[int, slice], other: str, of: tuple[int, slice]) -> Use:
        products = at.gradient * at.numbers.row(other, of[0])[of[1]] * kind.scale
        best = strongest(products)
        words = f"times {element_name(other, (of[0], of[1].start + best))},{_scaled(kind)}"
        index = (place[0], place[1].start + best)
        return at.gradient_use(name, index, float(products[best]), len(products), words)

    return [part(q, (query, of_q), k, (key, of_k)), part(k, (key, of_k), q, (query, of_q))]
