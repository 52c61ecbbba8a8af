"""Where an element goes: the elements that are worked out from it, as names one can explain next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..architecture.plan import kind_of
from ..architecture.steps import Use, element_name
from ..arrays.stats import Array
from .elements import Element
from .place import Place


def uses_of(at: Place) -> list[Use]:
    """What reads the element of a forward event, in order of computation."""
    readers = ("loss",) if at.name == "probs" else at.traced.model.plan.readers[at.name]
    found = []
    for reader in readers:
        use = _READERS[kind_of(reader)](at, reader)
        if use is not None:
            found.append(use)
    return found


def use_of(at: Place, reader: str, index: tuple[int, ...], adds: float | None, count: int, words: str) -> Use:
    """Of an element of a reader, with its value where the run kept that."""
    name = element_name(reader, index)
    return Use(name, "forward", at.traced.known(reader, index), adds, count, words)


def value_of(at: Place) -> float:
    """The element's own value."""
    return at.traced.value(at.name, at.index)


def strongest(products: Array) -> int:
    """Where the largest magnitude is, NaN aside."""
    return int(np.argmax(np.where(np.isnan(products), -1.0, np.abs(products))))


def _added(at: Place, reader: str) -> Use:
    return use_of(at, reader, at.index, value_of(at), 1, "added to the other part of the sum")


def _normed(at: Place, reader: str) -> Use:
    per_head = kind_of(reader) in ("attn.q_norm", "attn.k_norm")
    size = at.traced.head_dim if per_head else at.traced.shapes[at.name][-1]
    words = f"divided by the rms of the {'head' if per_head else 'row'}, of {size} squares its own is one"
    return use_of(at, reader, at.index, None, size, words)


def _multiplied(at: Place, reader: str) -> Use:
    position, channel = at.index
    weight = at.behind(reader)
    products = value_of(at) * at.traced.parameter_column(weight, channel)
    best = strongest(products)
    words = f"times {element_name(weight, (best, channel))}"
    return use_of(at, reader, (position, best), float(products[best]), len(products), words)


def _turned(at: Place, reader: str) -> Use:
    rotation, dim = at.traced.rules.rotation, at.traced.head_dim
    assert rotation is not None
    position, channel = at.index
    half, own = dim // 2, channel % dim
    angle = position * float(rotation.frequencies[own % half])
    cos, sin = np.cos(angle) * rotation.factor, np.sin(angle) * rotation.factor
    other, share = (channel + half, sin) if own < half else (channel - half, -sin)
    best, factor = (channel, cos) if abs(cos) >= abs(sin) else (other, share)
    words = "turned together with the other channel of its pair"
    return use_of(at, reader, (position, best), value_of(at) * float(factor), 2, words)


def _into_scores(at: Place, reader: str) -> Use:
    """A query meets the keys that it sees, a key the queries that see it."""
    position, channel = at.index
    dim, group, scale = at.traced.head_dim, at.traced.rules.group, at.scale.value
    own, within = divmod(channel, dim)
    q, k = at.traced.rules.inputs["attn.scores"]
    prefix = at.element.prefix
    if at.element.kind == q:
        keys, column = at.keys_of(position), group[own] * dim + within
        products = value_of(at) * at.traced.column(prefix + k, column)[keys] * scale
        key = keys.start + strongest(products)
        index, times = (own, position, key), element_name(prefix + k, (key, column))
    else:
        queries, heads = at.queries_of(position), [h for h, of in enumerate(group) if of == own]
        rows = [at.traced.column(prefix + q, h * dim + within)[queries] for h in heads]
        products = (value_of(at) * np.stack(rows) * scale).reshape(-1)
        which, query = divmod(strongest(products), queries.stop - queries.start)
        head, query = heads[which], queries.start + query
        index, times = (head, query, position), element_name(prefix + q, (query, head * dim + within))
    adds = float(products[strongest(products)])
    return use_of(at, reader, index, adds, len(products), f"times {times}, / sqrt({dim})")


def _into_weights(at: Place, reader: str) -> Use | None:
    _, query, key = at.index
    if at.hidden(query, key):
        return None
    keys = at.keys_of(query)
    words = f"softmax over the keys {keys.start} to {keys.stop - 1} of the query"
    return use_of(at, reader, at.index, None, keys.stop - keys.start, words)


def _into_context(at: Place, reader: str) -> Use | None:
    dim, group, prefix = at.traced.head_dim, at.traced.rules.group, at.element.prefix
    if at.element.kind == "attn.weights":
        head, query, key = at.index
        if at.hidden(query, key):
            return None
        start = group[head] * dim
        products = value_of(at) * at.traced.row(f"{prefix}attn.v", key)[start : start + dim]
        best = strongest(products)
        times = element_name(f"{prefix}attn.v", (key, start + best))
        return use_of(at, reader, (query, head * dim + best), float(products[best]), dim, f"times {times}")
    position, channel = at.index
    own, within = divmod(channel, dim)
    queries, heads = at.queries_of(position), [h for h, of in enumerate(group) if of == own]
    weights = at.traced.array(f"{prefix}attn.weights")[heads, queries, position].astype(np.float64)
    products = (value_of(at) * weights).reshape(-1)
    best = strongest(products)
    which, query = divmod(best, queries.stop - queries.start)
    query += queries.start
    times = element_name(f"{prefix}attn.weights", (heads[which], query, position))
    index = (query, heads[which] * dim + within)
    return use_of(at, reader, index, float(products[best]), len(products), f"times {times}")


def _into_head(at: Place, reader: str) -> Use | None:
    if Element(reader, ()).head != at.index[1] // at.traced.head_dim:
        return None
    products = value_of(at) * at.traced.parameter_column(at.parameter("attn_wo"), at.index[1])
    best = strongest(products)
    words = f"times {element_name(at.parameter('attn_wo'), (best, at.index[1]))}"
    return use_of(at, reader, (at.index[0], best), float(products[best]), len(products), words)


def _into_out(at: Place, reader: str) -> Use:
    if at.element.kind == "attn.head":
        return use_of(at, reader, at.index, value_of(at), 1, "one of the heads, which add up to it")
    return _multiplied(at, reader)


def _activated(at: Place, reader: str) -> Use:
    name = at.traced.rules.activation
    return use_of(at, reader, at.index, None, 1, f"through {name}")


def _into_hidden(at: Place, reader: str) -> Use:
    act, up = (at.element.prefix + kind for kind in at.traced.rules.inputs["mlp.hidden"])
    other = up if at.name == act else act
    return use_of(at, reader, at.index, None, 1, f"times {element_name(other, at.index)}")


def _into_probs(at: Place, reader: str) -> Use:
    size = at.traced.shapes["logits"][-1]
    return use_of(at, reader, at.index, None, size, f"softmax over the {size:,} tokens")


def _into_loss(at: Place, reader: str) -> Use | None:
    position, token = at.index
    target = at.traced.inputs.targets[position]
    if target is None or (at.name == "probs" and token != target):
        return None
    n = sum(t is not None for t in at.traced.inputs.targets)
    part, adds = "the target, whose -log P counts", None
    if token != target:
        part = "in the denominator of P(target)"
    elif at.name == "probs":
        with np.errstate(divide="ignore"):
            adds = float(-np.log(value_of(at)) / n)
    use = use_of(at, reader, (), adds, 1, f"{part}, one of {n} positions")
    whole = len(at.traced.rows) == at.traced.length  # else the run had the loss of some positions only
    return use if whole else replace(use, value=None)


_READERS: dict[str, Callable[[Place, str], Use | None]] = {
    "embed.sum": _added,
    "embed.norm": _normed,
    "attn.norm": _normed,
    "attn.q": _multiplied,
    "attn.k": _multiplied,
    "attn.v": _multiplied,
    "attn.q_norm": _normed,
    "attn.k_norm": _normed,
    "attn.q_rope": _turned,
    "attn.k_rope": _turned,
    "attn.scores": _into_scores,
    "attn.weights": _into_weights,
    "attn.context": _into_context,
    "attn.head": _into_head,
    "attn.out": _into_out,
    "attn.residual": _added,
    "mlp.norm": _normed,
    "mlp.gate": _multiplied,
    "mlp.up": _multiplied,
    "mlp.act": _activated,
    "mlp.hidden": _into_hidden,
    "mlp.down": _multiplied,
    "mlp.residual": _added,
    "final.norm": _normed,
    "logits": _multiplied,
    "probs": _into_probs,
    "loss": _into_loss,
}
