"""Attention heads: the layout of heads in arrays, the division of heads among threads, and the sums in
formulas.

The axes of a formula are [head, query, key], or [position, head, channel of the head].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import share
from ..formulas.formula import ElementAt, Over, PlaceAlong, TermOf
from ..formulas.steps import Pass
from ..plans.kinds import Context, Scores

QUERY, KEY, OVER = 1, 2, 3  # the axes of [H, T, T] are 0, 1, 2; the range of a sum is 3
Named = tuple[str, Pass]  # the name of an event; "forward" for the value, or "backward" for the gradient
BACKWARD: Pass = "backward"


def in_heads(x: Array, n: int, head_dim: int) -> Array:
    """Return the heads of n sequences one after another: [n*T, H*D] -> [n*H, T, D]"""
    heads = x.reshape(n, len(x) // n, -1, head_dim).swapaxes(1, 2)
    return heads.reshape(-1, *heads.shape[2:])


def out_of_heads(x: Array, n: int) -> Array:
    """Return the heads of n sequences side by side: [n*H, T, D] -> [n*T, H*D]"""
    heads = x.reshape(n, -1, *x.shape[1:]).swapaxes(1, 2)
    return heads.reshape(n * x.shape[1], -1)


def sum_by_group(heads: Array, group: Array, count: int) -> Array:
    """Return the sum of the heads of each group: [H, ...] -> [count, ...]"""
    sums = np.zeros((count, *heads.shape[1:]), heads.dtype)
    for head, at in zip(heads, group, strict=True):  # 9 times as fast as np.add.at
        sums[at] += head
    return sums


def share_heads(fill: Callable[[slice], None], heads: int, workers: int) -> None:
    """Divide the heads among `workers` threads. Each thread calls `fill` with a slice of heads."""

    def fill_ignoring(part: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            fill(part)

    bounds = [heads * n // workers for n in range(workers + 1)]
    share(fill_ignoring, map(slice, bounds, bounds[1:]), workers)


def placed(parts: Iterable[tuple[slice, slice, Array]], shape: tuple[int, ...]) -> Array:
    """Return an array [H, T, S] that contains each part at its queries and keys, and 0 elsewhere."""
    whole: Array | None = None
    for queries, keys, part in parts:
        if part.shape == shape:
            return part
        whole = np.zeros(shape, part.dtype) if whole is None else whole
        whole[:, queries, keys] = part
    assert whole is not None  # a pass has at least one query
    return whole


def over_channels(kind: Scores | Context, of_query: Named, of_key: str) -> TermOf:
    """Describe an element [head, query, key] as a sum over the head's channels. Each term is an element of
    `of_query` times an element of the keys or values, `of_key`."""
    column = PlaceAlong(((0, kind.head_dim), (OVER, 1)))
    query = ElementAt(of_query[0], (QUERY, column), of_query[1])
    return TermOf((query, ElementAt(of_key, (KEY, _key_value_column(kind, 0, OVER)))), (Over(kind.head_dim),))


def over_keys(kind: Scores | Context, square: Named, wide: str, length: int, window: int | None) -> TermOf:
    """Describe an element [position, head, channel] as a sum over the keys. Each term is an element of
    `square` [H, T, T] times an element of the keys or values, `wide`."""
    weight = ElementAt(square[0], (1, 0, OVER), square[1])
    value = ElementAt(wide, (OVER, _key_value_column(kind, 1, 2)))
    return TermOf((weight, value), (Over(length, "keys", 0, window),))


def over_queries(
    kind: Scores | Context, square: Named, wide: Named, length: int, window: int | None
) -> TermOf:
    """Describe the gradient of a key or value as a sum over the heads and queries that use the key or value.
    Each term is an element of `square` [H, T, T] times an element of `wide` [T, H*D]. One of the factors is
    the gradient of the scores or the context."""
    dim, sharing = kind.head_dim, len(kind.group) // key_value_heads(kind)  # adjacent heads share a key
    head, query = OVER, OVER + 1
    square_at = ElementAt(square[0], (PlaceAlong(((1, sharing), (head, 1))), query, 0), square[1])
    column = PlaceAlong(((1, sharing * dim), (head, dim), (2, 1)))
    wide_at = ElementAt(wide[0], (query, column), wide[1])
    return TermOf((square_at, wide_at), (Over(sharing), Over(length, "queries", 0, window)))


def key_value_heads(kind: Scores | Context) -> int:
    """Return the number of key-value heads."""
    return max(kind.group) + 1


def _key_value_column(kind: Scores | Context, head: int, channel: int) -> PlaceAlong:
    """Return the column in the keys or values for a head and a channel of the head."""
    return PlaceAlong(((channel, 1),), table=kind.group, by=(head, kind.head_dim))
