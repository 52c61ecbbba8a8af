"""Attention's heads: side by side in the channels of rows or one after another; shared among workers; and
the sums over keys, over queries and over channels that the formulas of scores and contexts have.

The axes of a formula are head, query and key, or position, head and its channel.
"""

from __future__ import annotations

from collections.abc import Callable

from ...arrays.linear import ignoring, share
from ...arrays.stats import Array
from ..formulas.formula import ElementAt, Over, PlaceAlong, TermOf
from ..formulas.steps import Pass
from ..plans.kinds import Context, Scores

QUERY, KEY, OVER = 1, 2, 3  # the axes of [H, T, T], and the range of a sum behind three axes
Named = tuple[str, Pass]  # an event or its gradient
BACKWARD: Pass = "backward"


def in_heads(x: Array, n: int, head_dim: int) -> Array:
    """The heads of n sequences: [n*T, H*D] -> [n*H, T, D]"""
    heads = x.reshape(n, len(x) // n, -1, head_dim).swapaxes(1, 2)
    return heads.reshape(-1, *heads.shape[2:])


def out_of_heads(x: Array, n: int) -> Array:
    """The way back: [n*H, T, D] -> [n*T, H*D]"""
    heads = x.reshape(n, -1, *x.shape[1:]).swapaxes(1, 2)
    return heads.reshape(n * x.shape[1], -1)


def share_heads(fill: Callable[[slice], None], heads: int, workers: int) -> None:
    """Call `fill` with the heads that each worker has."""

    def fill_ignoring(own: slice) -> None:
        with ignoring():
            fill(own)

    bounds = [heads * n // workers for n in range(workers + 1)]
    share(fill_ignoring, map(slice, bounds, bounds[1:]), workers)


def over_channels(kind: Scores | Context, of_query: Named, of_key: str) -> TermOf:
    """Of a head, a query and a key: the sum over the channels of a head."""
    column = PlaceAlong(((0, kind.head_dim), (OVER, 1)))
    query = ElementAt(of_query[0], (QUERY, column), of_query[1])
    return TermOf((query, ElementAt(of_key, (KEY, _of_group(kind, 0, OVER)))), (Over(kind.head_dim),))


def over_keys(kind: Scores | Context, square: Named, wide: str, length: int, window: int | None) -> TermOf:
    """Of a query's head and channel: the sum over the keys of an event [H, T, T] times keys or values."""
    share = ElementAt(square[0], (1, 0, OVER), square[1])
    value = ElementAt(wide, (OVER, _of_group(kind, 1, 2)))
    return TermOf((share, value), (Over(length, "keys", 0, window),))


def over_queries(
    kind: Scores | Context, square: Named, wide: Named, length: int, window: int | None
) -> TermOf:
    """What a key or a value gets: the sum over the heads that share it and the queries that see it of an
    event [H, T, T] times one [T, heads*D], of which one is the reader's gradient."""
    dim, sharing = kind.head_dim, len(kind.group) // own_heads(kind)  # the heads of one are neighbours
    head, query = OVER, OVER + 1
    of_square = ElementAt(square[0], (PlaceAlong(((1, sharing), (head, 1))), query, 0), square[1])
    column = PlaceAlong(((1, sharing * dim), (head, dim), (2, 1)))
    of_wide = ElementAt(wide[0], (query, column), wide[1])
    return TermOf((of_square, of_wide), (Over(sharing), Over(length, "queries", 0, window)))


def own_heads(kind: Scores | Context) -> int:
    """How many heads keys and values have."""
    return max(kind.group) + 1


def _of_group(kind: Scores | Context, head: int, channel: int) -> PlaceAlong:
    """The column of the same channel of the keys or values that the head has."""
    return PlaceAlong(((channel, 1),), table=kind.group, by=(head, kind.head_dim))
