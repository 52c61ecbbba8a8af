"""Descriptions of wrong values, for errors that no known mistake explains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial as bind

import numpy as np

from ...arrays.stats import Array
from ...plans.kinds import Lookup, Rotation, Scores
from ...rounding.precision import NARROW, PRECISIONS
from ..case import Case, first_of
from ..hypothesis import COMBINED, DESCRIBED, NUMBERED, PLAIN, Family, Hypothesis
from .attention_faults import capped

SHARE = 4  # at most one in SHARE positions (heads, channels) can be an exception


def nonfinite(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: values are NaN or infinite although the inputs are finite."""
    broken = ~np.isfinite(case.found) & np.isfinite(case.expected)
    if not broken.any():
        return
    id, words = ("nan", "NaN") if np.isnan(case.found[broken]).all() else ("infinite", "infinite or NaN")
    places = np.argwhere(broken).tolist()
    where = f"at {len(places)} of {broken.size} places, the first {places[0]}"
    where = where if len(places) > 1 else f"at {places[0]}"
    claim = f"your values are {words} {where}, although the inputs are finite"
    yield replace(_right_except(id, claim, broken, PLAIN), of_no_number=True)


def zeros(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the values are all zero, as in memory that was never written."""
    if not case.found.any():
        yield Hypothesis("zeros", "your values are all zeros", lambda own, e: e * 0)


def whole(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: rows are shifted or reversed, values are rounded or clipped, or a vector is added."""
    if not case.expected.ndim or not case.found.any():
        return
    rows = len(case.found) if case.expected.ndim == 2 and case.positions is None else 0
    if rows > 1:
        for step, way in ((1, "later"), (-1, "earlier")):
            claim = f"your rows are shifted one position {way}"
            yield Hypothesis("rows-shifted", claim, bind(_shifted, step), copies=True)
        yield Hypothesis("rows-reversed", "your rows are in reverse order", lambda own, e: e[::-1])
    for name, words in NARROW.items():
        yield Hypothesis(f"rounded-{name}", f"your values are rounded to {words}", bind(_rounded, name))
    most = _clip_limit(case)
    if most is not None:
        claim = f"your values are clipped at +-{most:.6g}"
        yield Hypothesis("clipped", claim, lambda own, e: np.clip(e, -most, most), rank=NUMBERED)
    vector = np.median(case.found.astype(np.float64) - case.expected, axis=0) if rows > 2 else np.nan
    if np.isfinite(vector).all():
        claim = f"the same vector (norm {np.linalg.norm(vector):.4g}) is added to every row, like a bias"
        yield Hypothesis("vector-added", claim, lambda own, e: e + vector, rank=NUMBERED)


def _clip_limit(case: Case) -> float | None:
    """Return the limit of clipped values, or None. Values count as clipped if every wrong value equals the
    limit and the right value exceeds the limit. If only one value is at the limit, the limit must be a round
    number or the largest float16."""
    sizes, wrong = np.abs(np.where(_comparable(case), case.found, 0)), np.abs(_errors(case)) > _limit(case)
    most = float(sizes.max(initial=0))
    clipped = (sizes == most) & (np.sign(case.found) * case.expected > most)
    chosen = clipped.sum() > 1 or most in (float(f"{most:.2g}"), 65504.0)  # 65504 is the largest float16
    return most if chosen and wrong.any() and clipped[wrong].all() else None


def _comparable(case: Case) -> Array:
    finite = np.isfinite(case.found) & np.isfinite(case.expected)
    return finite if case.compared is None else finite & case.compared


def numbers(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: all values are multiplied by a number, or logits are capped."""
    if case.plan.head[0].name in case.rows:
        yield capped(case, "logits")
    negated = ("negated", "your values have the wrong sign")
    kind = case.row.kind
    scaled = isinstance(kind, Scores | Rotation) or (isinstance(kind, Lookup) and kind.by == "tokens")
    if scaled or not case.expected.ndim:
        yield Hypothesis(*negated, lambda own, e: -e)  # hypotheses in other modules test other factors
        return
    yield Family(
        "times", lambda factor: lambda own, e: e * factor,
        "your values are the right values multiplied by {}".format, own=1.0, usual=(0.5, 2.0),
        special={-1.0: negated},
        low=-math.inf, pivot=None, silent=(0.0,),
    )  # fmt: skip


def _shifted(step: int, case: Case, expected: Array) -> Array:
    """Shift the rows one position later or earlier. Fill the missing row from the dump."""
    shifted, missing = np.roll(expected, step, axis=0), 0 if step == 1 else -1
    shifted[missing] = case.found[missing]
    return shifted


def _rounded(precision: str, case: Case, expected: Array) -> Array:
    return PRECISIONS[precision].round(expected.astype(np.float32))


def heads(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that each head of the dump is the most similar right head."""
    if case.heads_axis is None or case.positions is not None:
        return
    heads, right = (
        np.nan_to_num(case.by_head(np.where(_comparable(case), of, 0).astype(np.float64)))
        for of in (case.found, case.expected)
    )
    distances = np.square(right).sum(axis=1) - 2 * heads @ right.T
    order = distances.argmin(axis=1).tolist()
    if order != [*range(len(order))] and len(set(order)) > 1:
        claim = f"your heads, in order, are the right heads [{first_of(order, 16)}]"

        def ordered(own: Case, e: Array) -> Array:
            return np.take(e.reshape(own.in_heads), order, own.heads_axis).reshape(e.shape)

        yield Hypothesis("heads-permuted", claim, ordered)


def places(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: only a few positions, heads, channels or elements of the event are wrong."""
    if case.expected.ndim < 2 or _clip_limit(case) is not None:
        return
    channel = "key position" if case.expected.ndim == 3 else "channel"
    yield from _exceptions(case, "one-position", "position", case.found.shape, -2)
    yield from _exceptions(case, "one-channel", channel, case.found.shape, -1)
    if case.heads_axis is not None:
        yield from _exceptions(case, "one-head", "head", case.in_heads, case.heads_axis)
    yield from _elements(case)


def _exceptions(case: Case, id: str, words: str, shape: tuple[int, ...], axis: int) -> Iterator[Hypothesis]:
    """Yield the hypothesis that only a few positions, heads or channels are wrong. `shape` is the shape of
    the values, with an axis for the heads if necessary. The exceptions are along `axis`."""
    errors = np.abs(_errors(case)).reshape(shape)
    axis %= errors.ndim
    largest = errors.max(axis=tuple(i for i in range(errors.ndim) if i != axis))
    wrong = np.flatnonzero(largest > _limit(case))
    if not len(wrong) or len(wrong) == len(largest) or (len(wrong) > 1 and len(wrong) * SHARE > len(largest)):
        return
    numbers = wrong if words != "position" or case.positions is None else np.array(case.positions)[wrong]
    which = f"{words} {numbers[0]} is" if len(wrong) == 1 else f"{words}s {first_of(numbers, 6)} are"
    mask = np.zeros(errors.shape, bool)
    np.moveaxis(mask, axis, 0)[wrong] = True
    mask = mask.reshape(case.found.shape)
    look = _describe(case, mask) if len(wrong) == 1 else ""
    yield _right_except(id, f"only {which} wrong{look}; all others are right", mask, COMBINED)


def _right_except(id: str, claim: str, wrong: Array, rank: int) -> Hypothesis:
    """Return the hypothesis that all values are right, except the values marked in `wrong`."""

    def transform(other: Case, e: Array) -> Array:
        return np.where(wrong, other.found, e) if e.shape == wrong.shape else e

    return Hypothesis(id, claim, transform, rank=rank, copies=True)


def _errors(case: Case) -> Array:
    return np.where(_comparable(case), case.found - case.expected, 0)


def _limit(case: Case) -> float:
    """Return the limit of the error of a right element. The limit is 8 times the rounding error, or 1e-4 of
    the largest error if that is larger."""
    size = np.sqrt(np.mean(np.square(np.where(_comparable(case), case.expected, 0))))
    floor = 8 * case.judge.plain.chain_floor(case.name)
    return max(floor * float(size), 1e-4 * float(np.abs(_errors(case)).max(initial=0)))


def _describe(case: Case, wrong: Array) -> str:
    """Describe the values of a wrong position, channel or head, or return an empty text."""
    counted = wrong & _comparable(case)
    found, expected = case.found[counted].astype(np.float64), case.expected[counted].astype(np.float64)
    if not found.any():
        return " (all 0)"
    factor = float(found @ expected / (expected @ expected)) if expected.any() else math.nan
    if math.isfinite(factor) and np.linalg.norm(found - factor * expected) < 1e-3 * np.linalg.norm(found):
        return f" (values are {factor:.5g} times the right values)"
    if case.expected.ndim == 2 and len(found) == case.expected.shape[1]:
        distances = np.linalg.norm(case.expected - found, axis=1)
        row = int(np.where(np.isnan(distances), np.inf, distances).argmin())
        if distances[row] < 1e-3 * np.linalg.norm(found):
            at = row if case.positions is None else case.positions[row]
            return f" (its values belong to position {at})"
    return ""


def _elements(case: Case) -> Iterator[Hypothesis]:
    errors = np.abs(_errors(case))
    wrong = errors > _limit(case)
    count = int(np.count_nonzero(wrong))
    if not 0 < count <= max(1, errors.size // 64):
        return
    at = np.unravel_index(int(errors.argmax()), errors.shape)
    place = [int(i) for i in at]
    if case.positions is not None:
        place[0] = case.positions[place[0]]
    many = f"only {count} of {errors.size} elements are wrong; the largest error is at {place}"
    claim = many if count > 1 else f"only the element {place} is wrong"
    claim += f" (value {case.found[at]:.6g}, computed from its inputs {case.expected[at]:.6g})"
    id, rank = ("one-element", PLAIN) if count == 1 else ("few-elements", DESCRIBED)
    yield _right_except(id, claim, wrong, rank)
