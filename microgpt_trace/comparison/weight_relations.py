"""Find how two parameters that should be equal are related: B may be A transposed, permuted, scaled ...

A relation holds if the transformed A equals B within the tolerance of the stored types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ..architecture.plans.plan import kind_of
from ..arrays.stats import Array
from ..decoder.catalogue import turned_names
from ..rounding.stored_types import BLOCK, LIMIT, QuantisationDistance, Values, measure

_SAMPLE = 1 << 12  # how many elements are compared first, to rule out most relations
_MOST_TRANSPOSED = 1 << 26  # matrices with more elements (256 MB) are not transposed
_NEAR_NAMESAKE = 0.5  # a matrix is not permuted or exchanged if its relative L2 distance is smaller than this

Candidate = tuple[str, Values, Values]
Rows = Callable[[int, int], Array]


def find_cause(
    name: str, a: Mapping[str, Values], b: Values, distance: QuantisationDistance, head_dims: tuple[int, ...]
) -> str:
    """Describe how b, the parameter `name` of side B, relates to the parameters of A, or return "".
    `distance` is the distance of b from `a[name]`. `head_dims` lists the head widths of both sides."""
    if distance.nonfinite or not (distance.aa and distance.bb):
        return _describe_values(distance)
    if distance.holds(LIMIT):  # if only rounding differs, many relations would seem to hold
        return _in_one_place(distance) or "rounding explains the difference"
    if distance.rewritten and distance.relative_l2 <= _NEAR_NAMESAKE:
        runs = f"{distance.rewritten:,} run(s) of elements have the same scale but no integer in common"
        return f"{runs}; two roundings of the same numbers never differ in this way"
    if distance.damaged:  # few elements differ, and many relations would seem to hold
        return _in_one_place(distance)
    candidates = _candidates(name, a, b, distance, head_dims)
    cause = next((text for text, left, right in candidates if _are_equal(left, right)), "")
    return cause or _in_one_place(distance) or (_shifted_on_average(distance) if distance.moved else "")


def _describe_values(distance: QuantisationDistance) -> str:
    """Name the side that contains NaN, infinities or only zeros."""
    if not distance.nonfinite:
        return f"{'B' if distance.aa else 'A'} is all zeros"
    at, (a, b) = list(distance.index(distance.at)), distance.values
    side, value = ("B", b) if math.isfinite(a) or not math.isfinite(b) else ("A", a)
    kind = "NaN" if math.isnan(value) else "infinite"
    both = "" if math.isfinite(a) or math.isfinite(b) else f" where A has {a:g}"
    more = distance.nonfinite - 1
    return f"{side} is {kind} at {at}{both}" + f", and {more:,} more elements differ in this way" * bool(more)


def _in_one_place(distance: QuantisationDistance) -> str:
    """Describe the elements or blocks that differ, or return "" if many differ."""
    if distance.expected is None:
        few = distance.unequal <= max(1, distance.count // 100)
        return f"{distance.unequal:,} of {distance.count:,} elements differ" if few else ""
    if distance.damaged and not distance.blocks_off:
        steps = f"{distance.most_steps:.3g} steps of the type" if distance.most_steps < math.inf else "more"
        return f"{distance.unequal:,} of {distance.count:,} elements differ, by up to {steps}"
    if not 0 < distance.blocks_off <= max(1, distance.count // BLOCK // 100):
        return ""
    worst = f"the run at {list(distance.index(distance.block_at))} by {distance.worst_block:.3g} times"
    return f"{distance.blocks_off:,} run(s) of {BLOCK} elements differ, {worst} as much as rounding explains"


def _shifted_on_average(distance: QuantisationDistance) -> str:
    share = distance.shift / distance.count
    way = "above" if share > 0 else "below"
    return f"B is {way} A on average, by {abs(share):.2g} times the error that rounding explains"


def _are_equal(a: Values, b: Values) -> bool:
    most = max(1, _SAMPLE // max(1, math.prod(a.shape[1:])))
    return measure(a, b, most).holds(LIMIT) and (most >= a.shape[0] or measure(a, b).holds(LIMIT))


def _candidates(
    name: str, a: Mapping[str, Values], b: Values, distance: QuantisationDistance, head_dims: tuple[int, ...]
) -> Iterator[Candidate]:
    """Yield a sentence for each relation, and two parameters that are equal if the sentence is true."""
    own = a[name]
    if len(own.shape) == 1 or distance.relative_l2 > _NEAR_NAMESAKE:  # may be permuted or exchanged
        if len(own.shape) == 2 and min(own.shape) > 1 and math.prod(own.shape) <= _MOST_TRANSPOSED:
            yield "transposed: the rows of B are the columns of A", own, transposed(b)
        if kind_of(name) in turned_names():
            yield from _rope_orders(own, b, head_dims)
        for other in _namesakes(name, a):
            yield f"B contains A's {other}", a[other], b
    if distance.scale is not None:
        factor = -1.0 if abs(distance.scale + 1) < LIMIT else distance.scale
        yield "negated: B is -A", scaled(own, -1.0), b
        yield f"scaled: B is {factor:.6g} times A", scaled(own, factor), b
    yield "B is A + 1", shifted(own, 1.0), b
    yield "B is A - 1", shifted(own, -1.0), b


def _rope_orders(own: Values, b: Values, head_dims: tuple[int, ...]) -> Iterator[Candidate]:
    for dim in dict.fromkeys(head_dims):
        if own.shape[0] % dim == 0:
            order = "{}'s rows are in GGUF's adjacent pairs, or {}'s rows were converted once too often"
            yield "RoPE order: " + order.format("B", "A"), own, in_halves(b, dim)
            yield "RoPE order: " + order.format("A", "B"), in_halves(own, dim), b


def _namesakes(name: str, a: Mapping[str, Values]) -> list[str]:
    """Return other parameters of A with this shape: first of the same kind, then of the same layer."""
    layer, _, kind = name.rpartition(".")
    alike = [other for other, values in a.items() if other != name and values.shape == a[name].shape]
    others = [other for other in alike if layer and other.endswith(f".{kind}")]
    return others + [other for other in alike if other.rpartition(".")[0] == layer]


def transposed(values: Values) -> Values:
    """Read the values column by column: reshape them to [columns, rows] and transpose the result."""

    def transpose(rows: Rows) -> Rows:
        whole = cache(lambda: rows(0, values.shape[0]).reshape(values.shape[::-1]).T)
        return lambda start, stop: np.ascontiguousarray(whole()[start:stop])

    return replace(values, rows=transpose(values.rows), steps=transpose(values.steps))


def in_halves(values: Values, head_dim: int) -> Values:
    """Reorder rows from GGUF's adjacent pairs to Hugging Face's halves, for heads of `head_dim` channels."""

    def reordered(rows: Rows) -> Rows:
        def between(start: int, stop: int) -> Array:
            first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
            pairs = rows(first, last)
            halves = pairs.reshape(-1, head_dim // 2, 2, *pairs.shape[1:]).swapaxes(1, 2)
            return halves.reshape(pairs.shape)[start - first : stop - first]

        return between

    return replace(values, rows=reordered(values.rows), steps=reordered(values.steps))


def scaled(values: Values, factor: float) -> Values:
    def times(rows: Rows, factor: float) -> Rows:
        return lambda start, stop: rows(start, stop) * np.float64(factor)

    return replace(values, rows=times(values.rows, factor), steps=times(values.steps, abs(factor)))


def shifted(values: Values, constant: float) -> Values:
    return replace(values, rows=lambda start, stop: values.rows(start, stop) + np.float64(constant))
