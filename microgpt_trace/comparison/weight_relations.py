"""What a parameter is to another that it should equal: transposed, permuted, of another layer, scaled ...

Each relation is tried by making the other parameter from it and measuring, by the tolerance of types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ..architecture.plans.catalogue import turned_names
from ..architecture.plans.plan import kind_of
from ..arrays.stats import Array
from ..rounding.stored_types import BLOCK, LIMIT, QuantisationDistance, Values, measure

_SAMPLE = 1 << 12  # elements, at least a row, that rule most relations out
_MOST_TRANSPOSED = 1 << 26  # elements: 256 MB of float32 and as much of steps
_OWN = 0.5  # a matrix that is nearer than this to the one of its name is neither permuted nor another

Candidate = tuple[str, Values, Values]
Rows = Callable[[int, int], Array]


def find_cause(
    name: str, a: Mapping[str, Values], b: Values, found: QuantisationDistance, head_dims: tuple[int, ...]
) -> str:
    """How b, the parameter `name` of side B, relates to the parameters of A; "" where it is unknown.

    `found` is its distance from the parameter of that name, `head_dims` the head widths of both sides.
    """
    if found.nonfinite or not (found.aa and found.bb):
        return _of_values(found)
    if found.holds(LIMIT):  # then much would seem to fit; the caller asked for less
        return _in_one_place(found) or "no more than rounding explains"
    if found.rewritten and found.relative_l2 <= _OWN:
        runs = f"{found.rewritten:,} run(s) of elements have one scale and no integer in common"
        return f"{runs}: no two roundings of the same numbers leave that"
    if found.damaged:  # in so few places that much would seem to fit
        return _in_one_place(found)
    candidates = _candidates(name, a, b, found, head_dims)
    cause = next((text for text, left, right in candidates if _is(left, right)), "")
    return cause or _in_one_place(found) or (_moved(found) if found.moved else "")


def _of_values(found: QuantisationDistance) -> str:
    """Where a side is not finite, or has nothing but zeros."""
    if not found.nonfinite:
        return f"{'B' if found.aa else 'A'} is all zeros"
    at, (a, b) = list(found.index(found.at)), found.values
    side, value = ("B", b) if math.isfinite(a) or not math.isfinite(b) else ("A", a)
    kind = "NaN" if math.isnan(value) else "infinite"
    both = "" if math.isfinite(a) or math.isfinite(b) else f" where A has {a:g}"
    more = found.nonfinite - 1
    return f"{side} is {kind} at {at}{both}" + f" and differs so in {more:,} more" * bool(more)


def _in_one_place(found: QuantisationDistance) -> str:
    """Where all but a few elements agree."""
    if found.expected is None:
        few = found.unequal <= max(1, found.count // 100)
        return f"{found.unequal:,} of {found.count:,} elements differ" if few else ""
    if found.damaged and not found.blocks_off:
        steps = f"{found.most_steps:.3g} steps of the type" if found.most_steps < math.inf else "more"
        return f"{found.unequal:,} of {found.count:,} elements differ, by up to {steps}"
    if not 0 < found.blocks_off <= max(1, found.count // BLOCK // 100):
        return ""
    where = f"from {list(found.index(found.block_at))} on {found.worst_block:.3g} times as far"
    return f"{found.blocks_off:,} run(s) of {BLOCK} elements off, {where} as rounding explains"


def _moved(found: QuantisationDistance) -> str:
    share = found.shift / found.count
    way = "above" if share > 0 else "below"
    return f"B lies {way} A as a whole, on average by {abs(share):.2g} times the error that rounding explains"


def _is(a: Values, b: Values) -> bool:
    most = max(1, _SAMPLE // max(1, math.prod(a.shape[1:])))
    return measure(a, b, most).holds(LIMIT) and (most >= a.shape[0] or measure(a, b).holds(LIMIT))


def _candidates(
    name: str, a: Mapping[str, Values], b: Values, found: QuantisationDistance, head_dims: tuple[int, ...]
) -> Iterator[Candidate]:
    """Relations in the order in which they are tried: a sentence, and two parameters that are then equal."""
    own = a[name]
    if len(own.shape) == 1 or found.relative_l2 > _OWN:  # the same numbers in another order, or elsewhere
        if len(own.shape) == 2 and min(own.shape) > 1 and math.prod(own.shape) <= _MOST_TRANSPOSED:
            yield "transposed: B holds A's columns as its rows", own, transposed(b)
        if kind_of(name) in turned_names():
            yield from _rope_orders(own, b, head_dims)
        for other in _namesakes(name, a):
            yield f"B holds A's {other}", a[other], b
    if found.scale is not None:
        factor = -1.0 if abs(found.scale + 1) < LIMIT else found.scale
        yield "negated: B is -A", scaled(own, -1.0), b
        yield f"scaled: B is {factor:.6g} times A", scaled(own, factor), b
    yield "B is A + 1", shifted(own, 1.0), b
    yield "B is A - 1", shifted(own, -1.0), b


def _rope_orders(own: Values, b: Values, head_dims: tuple[int, ...]) -> Iterator[Candidate]:
    for dim in dict.fromkeys(head_dims):
        if own.shape[0] % dim == 0:
            said = "{}'s rows lie in adjacent pairs as GGUF has them, or {}'s were put back once too often"
            yield "RoPE order: " + said.format("B", "A"), own, in_halves(b, dim)
            yield "RoPE order: " + said.format("A", "B"), in_halves(own, dim), b


def _namesakes(name: str, a: Mapping[str, Values]) -> list[str]:
    """The parameters of that shape of the other layers, then those of the same layer."""
    layer, _, kind = name.rpartition(".")
    alike = [other for other, values in a.items() if other != name and values.shape == a[name].shape]
    others = [other for other in alike if layer and other.endswith(f".{kind}")]
    return others + [other for other in alike if other.rpartition(".")[0] == layer]


def transposed(values: Values) -> Values:
    """The same numbers in the same order, read as the transpose of a matrix [in, out]."""

    def turned(rows: Rows) -> Rows:
        whole = cache(lambda: rows(0, values.shape[0]).reshape(values.shape[::-1]).T)
        return lambda start, stop: np.ascontiguousarray(whole()[start:stop])

    return replace(values, rows=turned(values.rows), steps=turned(values.steps))


def in_halves(values: Values, head_dim: int) -> Values:
    """Rows in Hugging Face order of rows that lie in adjacent pairs: channel i next to i + head_dim/2."""

    def reordered(rows: Rows) -> Rows:
        def between(start: int, stop: int) -> Array:
            first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
            pairs = rows(first, last)
            halves = pairs.reshape(-1, head_dim // 2, 2, *pairs.shape[1:]).swapaxes(1, 2)
            return halves.reshape(pairs.shape)[start - first : stop - first]

        return between

    return replace(values, rows=reordered(values.rows), steps=reordered(values.steps))


def scaled(values: Values, factor: float) -> Values:
    return replace(
        values,
        rows=lambda start, stop: values.rows(start, stop) * np.float64(factor),
        steps=lambda start, stop: values.steps(start, stop) * np.float64(abs(factor)),
    )


def shifted(values: Values, constant: float) -> Values:
    return replace(values, rows=lambda start, stop: values.rows(start, stop) + np.float64(constant))
