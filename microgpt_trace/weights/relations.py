"""Compare the parameters of two models, and find how two parameters that should be equal are related: B may
be A transposed, permuted, scaled ...

A relation holds if the transformed A equals B within the tolerance of the stored types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import turned_names
from ..plans.plan import kind_of
from ..progress import Report, unreported
from ..readers.model_file import even_rows_first
from ..text.wording import listed
from .stored_rounding import BLOCK, FACTOR, LIMIT, QuantisationDistance, Values, measure
from .used_bits import bits_of_type, bits_used, narrowed

_SAMPLE = 1 << 12  # how many elements are compared first, to rule out most relations
_MOST_TRANSPOSED = 1 << 26  # matrices with more elements (256 MB) are not transposed
_MOST_ORDERED = 1 << 16  # the order of more rows is not searched
_CHUNK = 1 << 20  # elements in memory at a time while the order of rows is searched
_COLUMNS = 32  # columns that are compared to find the row of A in B
_SAME_ROW = 0.98  # least cosine of these columns in two roundings of a row
_SHIFTED = 0.9  # if this share of the rows in other places moved equally far, the rows are shifted
_MOST_DAMAGED, _MUCH = 0.9, 0.3  # a damage may be in this share of a parameter if it is this large there
_ROUNDED = 0.7  # rounding to 2 bits leaves a relative L2 distance of about 0.4
_NEAR_NAMESAKE = 0.5  # a matrix is not permuted or exchanged if its relative L2 distance is smaller than this

Kind = Literal["permuted", "transposed", "swapped", "scaled", "damaged", "rounded", "coarse", "other"]
Rows = Callable[[int, int], Array]


class Cause(NamedTuple):
    """Why a parameter of B differs from the parameter of A. `text` has {A} and {B} for the names of the
    sides. `other` is the parameter of A that B contains, or the side whose rows are in adjacent pairs, or the
    number of bits that B uses. A "rounded" parameter went through a narrower type and is otherwise right."""

    kind: Kind
    text: str
    other: str = ""

    def told(self, a: str = "A", b: str = "B") -> str:
        """Return the sentence with the names of the sides."""
        return self.text.format(A=a, B=b)


class ParameterPair(NamedTuple):
    """A parameter of model B, and the parameter of model A that should be equal. `name_a` or `name_b` is
    "wte" if a side uses "wte" for "lm_head".

    `distance` is None if the pair was not compared, or if the shapes differ or are single numbers. `cause` is
    None if the distance is allowed, or if no relation explains the distance.
    """

    name: str
    name_a: str
    name_b: str
    a: Values
    b: Values
    distance: QuantisationDistance | None = None
    allowed: bool = False
    cause: Cause | None = None


def paired(a: Mapping[str, Values], b: Mapping[str, Values], names: Iterable[str]) -> list[ParameterPair]:
    """Pair the parameters with these names that both models have. A model without "lm_head" uses "wte"."""

    def used(name: str, values: Mapping[str, Values]) -> str:
        return "wte" if name == "lm_head" and name not in values else name

    both = ((name, used(name, a), used(name, b)) for name in names)
    return [ParameterPair(name, x, y, a[x], b[y]) for name, x, y in both if x in a and y in b]


def compared_parameters(
    pairs: Sequence[ParameterPair], a: Mapping[str, Values], head_dims: tuple[int, ...], limit: float,
    rtol: float | None = None, report: Report = unreported,
) -> Iterator[ParameterPair]:  # fmt: skip
    """Compare the parameters of each pair. `a` has all parameters of model A, which B may contain by mistake.

    `limit` is the relative L2 distance that exact types may have. If `rtol` is set, it limits all types.
    `head_dims` lists the head widths of both models. `report(done, of)` is called with the number of compared
    pairs and of all pairs.
    """
    for done, pair in enumerate(pairs):
        report(done, len(pairs))
        if pair.a.shape != pair.b.shape or not pair.a.shape:
            yield pair
            continue
        distance, others = measure(pair.a, pair.b), {**a, pair.name_a: pair.a}
        allowed = distance.holds(limit, rtol)
        cause = None if allowed else find_cause(pair.name_a, others, pair.b, distance, head_dims)
        yield pair._replace(distance=distance, allowed=allowed, cause=cause)


Candidate = tuple[Cause, Values, Values]


def find_cause(
    name: str, a: Mapping[str, Values], b: Values, distance: QuantisationDistance, head_dims: tuple[int, ...]
) -> Cause | None:
    """Find how b, the parameter `name` of side B, relates to the parameters of A, or return None.
    `distance` is the distance of b from `a[name]`. `head_dims` lists the head widths of both sides."""
    if distance.nonfinite or not (distance.aa and distance.bb):
        return Cause("damaged", _describe_values(distance))
    if distance.holds(LIMIT):  # if only rounding differs, many relations would seem to hold
        return _in_one_place(distance) or Cause("rounded", "rounding explains the difference")
    if cause := _rounded(a[name], b, distance):
        return cause
    if distance.rewritten and distance.relative_l2 <= _NEAR_NAMESAKE:
        runs = f"{distance.rewritten:,} run(s) of elements have the same scale but no integer in common"
        return Cause("damaged", f"{runs}; two roundings of the same numbers never differ in this way")
    if distance.damaged:  # few elements differ, and many relations would seem to hold
        return _in_one_place(distance)
    candidates = _candidates(name, a, b, distance, head_dims)
    cause = next((cause for cause, left, right in candidates if _are_equal(left, right)), None)
    cause = cause or _in_one_place(distance) or _in_experts(name, a, b, head_dims)
    if cause is None and distance.relative_l2 > _NEAR_NAMESAKE:
        cause = _rows_of_layer(name, a, b)
    cause = cause or _in_one_place(distance, _MOST_DAMAGED)
    cause = cause or (_shifted_on_average(distance) if distance.moved else None)
    near = distance.expected is not None and distance.relative_l2 <= FACTOR * distance.expected
    if cause and cause.kind == "scaled" and near and bits_used(a[name]) < bits_of_type(a[name].type):
        return Cause("rounded", "the errors of two roundings, which may grow with the numbers")
    return cause


def _rounded(a: Values, b: Values, distance: QuantisationDistance) -> Cause | None:
    """Return the cause if B was rounded to fewer bits than its type has."""
    if distance.relative_l2 > _ROUNDED:
        return None
    for type in ("BF16", "F16"):
        values = narrowed(b, type)
        if values and measure(a, values).holds(LIMIT):
            return Cause("rounded", f"the numbers of {{B}} were rounded to {type}", type)
    if b.type == "BF16" or narrowed(b, "BF16"):
        a = _cut_to_bf16(a)
        if _are_equal(a, b, exact=True):
            return Cause("coarse", "the numbers of {B} were cut to BF16, not rounded to the nearest")
    bits = bits_used(b)
    if bits < min(bits_of_type(b.type), bits_used(a)):
        return Cause("coarse", f"the numbers of {{B}} use only about {bits} bits", str(bits))
    return None


def _describe_values(distance: QuantisationDistance) -> str:
    """Name the side that contains NaN, infinities or only zeros."""
    if not distance.nonfinite:
        return f"{'{B}' if distance.aa else '{A}'} is all zeros"
    at, (a, b) = list(distance.index(distance.at)), distance.values
    side, value = ("{B}", b) if math.isfinite(a) or not math.isfinite(b) else ("{A}", a)
    kind = "NaN" if math.isnan(value) else "infinite"
    both = "" if math.isfinite(a) or math.isfinite(b) else f" where {{A}} has {a:g}"
    more = distance.nonfinite - 1
    return f"{side} is {kind} at {at}{both}" + f", and {more:,} more elements differ in this way" * bool(more)


def _in_one_place(distance: QuantisationDistance, share: float = 0.01) -> Cause | None:
    """Describe the elements or blocks that differ, or return None if more than `share` of all differ, or if
    rounding does not explain the other blocks. More than a hundredth must differ by much."""
    count, size = distance.count, 1
    differing = distance.unequal
    if distance.expected is not None and not (distance.damaged and not distance.blocks_off):
        count, size, differing = count // BLOCK, BLOCK, distance.blocks_off
    if not 0 < differing <= max(1, int(count * share)) or distance.unexplained > 0:
        return None
    if differing > count // 100 + 1 and distance.relative_l2**2 < _MUCH**2 * differing / count:
        return None
    text = f"{differing:,} of {count:,} elements differ"
    if size == BLOCK:
        worst = f"the run at {list(distance.index(distance.block_at))} by {distance.worst_block:.3g} times"
        text = f"{differing:,} run(s) of {BLOCK} elements differ, {worst} as much as rounding explains"
    elif distance.expected is not None:
        steps = f"{distance.most_steps:.3g} steps of the type" if distance.most_steps < math.inf else "more"
        text += f", by up to {steps}"
    return Cause("damaged", text)


def _shifted_on_average(distance: QuantisationDistance) -> Cause:
    share = distance.shift / distance.count
    way = "above" if share > 0 else "below"
    by = f"by {abs(share):.2g} times the error that rounding explains"
    return Cause("other", f"{{B}} is {way} {{A}} on average, {by}")


def _are_equal(a: Values, b: Values, exact: bool = False) -> bool:
    most = max(1, _SAMPLE // max(1, math.prod(a.shape[1:])))
    parts = (measure(a, b, rows) for rows in (most, None)[: 1 + (most < a.shape[0])])
    return all(own.unequal == 0 if exact else own.holds(LIMIT) for own in parts)


def _in_experts(name: str, a: Mapping[str, Values], b: Values, head_dims: tuple[int, ...]) -> Cause | None:
    """Return why the first wrong expert differs, or None if all experts do, or if none does alone."""
    one, other = a[name].tensor, b.tensor
    if one is None or other is None or len(b.shape) != 3:
        return None
    pairs = [(Values.of(one.of_expert(i)), Values.of(other.of_expert(i))) for i in range(b.shape[0])]
    wrong = {i: own for i, pair in enumerate(pairs) if not (own := measure(*pair)).holds(LIMIT)}
    if len(wrong) in (0, len(pairs)):
        return None
    first = next(iter(wrong))
    cause = find_cause(name, {name: pairs[first][0]}, pairs[first][1], wrong[first], head_dims)
    cause = cause or Cause("other", "")
    more = f", and {len(wrong) - 1:,} more experts differ" * (len(wrong) > 1)
    return cause._replace(text=f"expert {first}: {cause.text or 'the numbers differ'}{more}")


def _rows_of_layer(name: str, a: Mapping[str, Values], b: Values) -> Cause | None:
    """Return the parameters of this layer whose rows B contains, as after a wrong cut of a fused matrix."""
    layer, width = name.rpartition(".")[0], b.shape[-1]
    alike = [own for own in a if own.rpartition(".")[0] == layer and a[own].shape[1:] == (width,)]
    if len(b.shape) != 2 or width < _COLUMNS or max(a[own].shape[0] for own in alike) > _MOST_ORDERED:
        return None
    rows = _fingerprints(b)
    near = np.stack([_nearest(rows, _fingerprints(a[own]))[1] for own in alike])
    if near.max(axis=0).min() < _SAME_ROW:
        return None
    found = listed([alike[i] for i in np.unique(near.argmax(axis=0))])
    return Cause(
        "swapped", f"{{B}} contains rows of {{A}}'s {found}, as if a fused matrix was in another order"
    )


def _nearest(rows: Array, others: Array) -> tuple[Array, Array]:
    """Return the most similar of `others` for each row, and the cosine: [n, k], [m, k] -> [n], [n]"""
    step = max(1, _CHUNK // len(others))
    products = (rows[i : i + step] @ others.T for i in range(0, len(rows), step))
    places, cosines = zip(*((own.argmax(axis=1), own.max(axis=1)) for own in products), strict=True)
    return np.concatenate(places), np.concatenate(cosines)


def _candidates(
    name: str, a: Mapping[str, Values], b: Values, distance: QuantisationDistance, head_dims: tuple[int, ...]
) -> Iterator[Candidate]:
    """Yield a sentence for each relation, and two parameters that are equal if the sentence is true."""
    own = a[name]
    if len(own.shape) == 1 or distance.relative_l2 > _NEAR_NAMESAKE:  # may be permuted or exchanged
        if len(own.shape) > 1 and min(own.shape) > 1 and math.prod(own.shape) <= _MOST_TRANSPOSED:
            text = "transposed: the rows of {B} are the columns of {A}"
            yield Cause("transposed", text), own, transposed(b)
        if kind_of(name) in turned_names():
            yield from _rope_orders(own, b, head_dims)
        for other in _namesakes(name, a):
            yield Cause("swapped", f"{{B}} contains {{A}}'s {other}", other), a[other], b
        if len(own.shape) > 1:
            yield from _row_orders(own, b)
    if distance.scale is not None:
        factor = -1.0 if abs(distance.scale + 1) < LIMIT else distance.scale
        yield Cause("scaled", "negated: {B} is -{A}"), scaled(own, -1.0), b
        yield Cause("scaled", f"scaled: {{B}} is {factor:.6g} times {{A}}"), scaled(own, factor), b
    yield Cause("scaled", "{B} is {A} + 1"), shifted(own, 1.0), b
    yield Cause("scaled", "{B} is {A} - 1"), shifted(own, -1.0), b


def _rope_orders(own: Values, b: Values, head_dims: tuple[int, ...]) -> Iterator[Candidate]:
    text = "RoPE order: {}'s rows are in GGUF's adjacent pairs, or {}'s rows were converted once too often"
    for dim in dict.fromkeys(head_dims):
        if own.tensor and b.tensor and own.shape[0] % dim == dim % 2 == 0:
            ours, theirs = (Values.of(even_rows_first(side.tensor, dim)) for side in (b, own) if side.tensor)
            yield Cause("permuted", text.format("{B}", "{A}"), "B"), own, ours
            yield Cause("permuted", text.format("{A}", "{B}"), "A"), theirs, b


def _namesakes(name: str, a: Mapping[str, Values]) -> list[str]:
    """Return other parameters of A with this shape: first of the same kind, then of the same layer, then all
    others."""
    layer, _, kind = name.rpartition(".")
    alike = [other for other, values in a.items() if other != name and values.shape == a[name].shape]
    others = [other for other in alike if layer and other.endswith(f".{kind}")]
    here = [other for other in alike if other.rpartition(".")[0] == layer]
    return list(dict.fromkeys(others + here + alike))


def _row_orders(own: Values, b: Values) -> Iterator[Candidate]:
    """Yield the order in which B has the rows of A. A row of a tensor of experts is a matrix of an expert."""
    count, what = own.shape[0], "expert" if len(own.shape) > 2 else "row"
    if own.tensor is None or count > _MOST_ORDERED:
        return
    order, _ = _nearest(_fingerprints(b), _fingerprints(own))
    away = order - np.arange(count)
    if moved := np.flatnonzero(away).tolist():
        text = f": {what} {moved[0]} of {{B}} is {what} {order[moved[0]]} of {{A}}"
        cause = Cause("permuted" if what == "row" else "swapped", f"{what}s in another order{text}")
        if what == "row" and np.mean(away[moved] == np.median(away[moved])) > _SHIFTED:
            cause = Cause("damaged", f"rows shifted{text}")
        yield cause, Values.of(own.tensor.of_rows(order)), b


def _fingerprints(values: Values) -> Array:
    """Return some columns of all rows, scaled to length 1: [rows, columns]"""
    width = math.prod(values.shape[1:])
    step, columns = max(1, _CHUNK // width), np.unique(np.linspace(0, width - 1, _COLUMNS).astype(int))
    starts = range(0, values.shape[0], step)
    read = [values.rows(i, min(i + step, values.shape[0])).reshape(-1, width)[:, columns] for i in starts]
    rows = np.concatenate(read)
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-30))  # no overflow
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def transposed(values: Values) -> Values:
    """Read each matrix column by column: reshape it to [columns, rows] and transpose the result."""
    *experts, height, width = values.shape

    def transpose(rows: Rows) -> Rows:
        whole = cache(lambda: rows(0, values.shape[0]).reshape(*experts, width, height).swapaxes(-1, -2))
        return lambda start, stop: np.ascontiguousarray(whole()[start:stop])

    return replace(values, rows=transpose(values.rows), steps=transpose(values.steps))


def _cut_to_bf16(values: Values) -> Values:
    def cut(start: int, stop: int) -> Array:
        rows = np.ascontiguousarray(values.rows(start, stop), np.float32)
        return (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    return replace(values, type="BF16", rows=cut, tensor=None)


def scaled(values: Values, factor: float) -> Values:
    def times(rows: Rows, factor: float) -> Rows:
        return lambda start, stop: rows(start, stop) * np.float64(factor)

    return replace(values, rows=times(values.rows, factor), steps=times(values.steps, abs(factor)))


def shifted(values: Values, constant: float) -> Values:
    return replace(values, rows=lambda start, stop: values.rows(start, stop) + np.float64(constant))
