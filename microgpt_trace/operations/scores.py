"""Scores: the product of each query with each key, before the mask."""

from __future__ import annotations

import math

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, Formula, ResultOf, Setting, StepOf, TermOf
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Scores, Shape
from ..plans.plan import Operation
from . import heads
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import masked, window_of


def forward(row: Operation[Scores], run: PassState, q: Array, k: Array) -> Array:
    """Compute q @ k.T * scale for n sequences: [n*T, H*D], [n*T, G*D] -> [n*H, T, S]"""
    kind = row.kind
    queries, keys = (heads.in_heads(x, run.n, kind.head_dim) for x in (q, k))
    group = run.keys_of_heads(kind.group, len(keys) // run.n)
    if run.cache is not None:
        keys = run.cache.extend(row.inputs[1], keys)
    blocks = run.blocks(len(kind.group))
    parts = (  # the keys before the end of a block, and the later keys if all scores are requested
        (block.rows, part, scores_forward(
            queries[:, block.queries], keys[:, part], group, kind.scale, run.attention_workers
        ))
        for block in blocks
        for part in (slice(block.keys), slice(block.keys, blocks[-1].keys))
        if part.start != part.stop
    )  # fmt: skip
    return heads.placed(parts, (len(queries), blocks[-1].rows.stop, blocks[-1].keys))


def backward(row: Operation[Scores], run: PassState, dy: Array, y: Array, q: Array, k: Array) -> Gradients:
    """dq = dscores @ k * scale; dk = dscores.T @ q * scale, summed over the heads that share a key"""
    kind = row.kind
    queries, keys = (heads.in_heads(x, run.n, kind.head_dim) for x in (q, k))
    group = run.keys_of_heads(kind.group, len(keys) // run.n)
    dscores = dy * kind.scale
    dkeys = heads.sum_by_group(dscores.swapaxes(1, 2) @ queries, group, len(keys))
    return Gradients((heads.out_of_heads(dscores @ keys[group], run.n), heads.out_of_heads(dkeys, run.n)))


def scores_forward(queries: Array, keys: Array, group: Array, scale: float, workers: int) -> Array:
    """Compute q @ k.T * scale; head h uses the keys of head group[h]: [H, T, D], [G, S, D] -> [H, T, S]"""
    scores = np.empty((*queries.shape[:2], keys.shape[1]), queries.dtype)

    def fill(part: slice) -> None:
        np.matmul(queries[part], keys[group[part]].swapaxes(1, 2), out=scores[part])
        scores[part] *= scale

    heads.share_heads(fill, len(queries), workers)
    return scores


def reference(row: Operation[Scores], ref: ReferenceInputs, q: Array, k: Array) -> Array:
    """Compute q @ k.T * scale: [T, H*D], [T, G*D] -> [H, T, T]"""
    kind = row.kind
    queries, keys = (x.reshape(len(x), -1, kind.head_dim).swapaxes(0, 1) for x in (q, k))
    return queries @ keys[list(kind.group)].swapaxes(1, 2) * kind.scale


def spread(row: Operation[Scores], ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the width of a head."""
    return Spread(row.kind.head_dim, halves=True, factor=True)


def size(row: Operation[Scores], ref: ReferenceInputs, value: Array, q: Array, k: Array) -> Array:
    """Return |q| |k| |scale| + |score|. |score| alone may be too small, because terms may cancel."""
    kind = row.kind
    queries, keys = (np.linalg.norm(x.reshape(len(x), -1, kind.head_dim), axis=-1).T for x in (q, k))
    return queries[:, :, None] * keys[list(kind.group)][:, None] * abs(kind.scale) + np.abs(value)


def formula(row: Operation[Scores], setting: Setting) -> Formula:
    """Describe an element as the dot product of a query and a key, times the scale."""
    kind, (q, k) = row.kind, row.inputs
    length = setting.shapes[k][0]
    return _of_products((len(kind.group), length, length), kind, heads.over_channels(kind, (q, "forward"), k))


def gradient_formula(name: str, reader: Operation[Scores], setting: Setting) -> Formula:
    """dq = dscores @ k * scale; dk = dscores.T @ q * scale, summed over the heads that share a key"""
    kind, (q, k) = reader.kind, reader.inputs
    length, gradient = setting.shapes[k][0], (reader.name, heads.BACKWARD)
    window = window_of(setting.plan, reader)
    if name == q:
        sizes = (length, len(kind.group), kind.head_dim)
        return _of_products(sizes, kind, heads.over_keys(kind, gradient, k, length, window))
    sizes = (length, heads.key_value_heads(kind), kind.head_dim)
    return _of_products(sizes, kind, heads.over_queries(kind, gradient, (q, "forward"), length, window))


def _of_products(sizes: Shape, kind: Scores, products: TermOf) -> Formula:
    """Return the formula of a sum of products that is multiplied by the scale."""
    scale = Constant(f"{kind.scale:.6g}", (kind.scale,))
    if kind.scale == 1 / math.sqrt(kind.head_dim):
        scale = Constant(f"sqrt({kind.head_dim})", (kind.scale,), prefix="1/")
    scaled = TermOf((ResultOf(0), scale))
    return Formula(sizes, (StepOf((products,), "sum of products"), StepOf((scaled,))))


def notes(at: TracedElement[Scores]) -> tuple[str, ...]:
    """Return a note if head and key-value head have different numbers, and a note if the score is masked."""
    head, keys = at.index[0], at.row.kind.group[at.index[0]]
    group = [f"head {head} reads the keys of key-value head {keys}"] * (keys != head)
    return (*group, *(f"{reason}; the score is computed, but not used" for reason in masked(at)))
