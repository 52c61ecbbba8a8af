"""Mistakes of a schedule: a prefill with decoding steps, chunks, and batches. They concern keys and values of
earlier passes, positions after the first pass, padding, and other texts of the batch."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial as bind
from typing import cast

import numpy as np

from ...arrays.rounding import to_q8
from ...arrays.stats import Array
from ...plans.kinds import Context, Lookup, Rotation, Scores
from ...rounding.evaluation import Evaluation
from ...rounding.precision import PRECISIONS
from ..case import Case, OtherRun
from ..hypothesis import Hypothesis
from .input_faults import at_positions
from .rope_faults import turning_by

MOST_PASSES = 64  # mistakes that differ from pass to pass are tried on this many passes at most
CACHE_TYPES: Mapping[str, Callable[[Array], Array]] = {
    "float16": PRECISIONS["f16"].round,
    "bfloat16": PRECISIONS["bf16"].round,
    "8-bit blocks (q8_0)": bind(to_q8, block=32),
}
# (values [T, W], positions to read [n], positions of the pass) -> the values that are read [n, W]
Cache = Callable[[Array, Array, range], Array]


def positions(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: RoPE, or a table of positions, gets wrong positions in some passes."""
    length = len(case.given.tokens)
    learned = any(kind.by == "positions" for kind in case.rows.kinds(Lookup))
    if case.kind(Rotation) is None and not learned:
        return
    for offset, claim in case.schedule.offsets(length):
        own = np.arange(length) + offset.astype(int)
        plan = at_positions(case, own) if learned else turning_by(case, offset=offset)
        yield Hypothesis("pass-positions", claim, plan)


def keys_and_values(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: passes after the first read wrong keys or values of earlier passes."""
    if not case.schedule.passes(len(case.given.tokens)):
        return
    for words, names in _caches(case):
        for id, how, of_earlier, cache in _mistakes():

            def change(
                name: str, values: Array, at: range, last: bool = of_earlier, read: Cache = cache
            ) -> Array:
                end = at.start if last else at.stop
                return np.concatenate([read(values, np.arange(end), at), values[end:]])

            claim = f"passes after the first read {words}{' of earlier passes' * of_earlier} {how}"
            yield Hypothesis(id, claim, bind(_read_by_later, names, change))


def _caches(case: Case) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what a cache holds that this operation reads: the events of keys, of values, and of both."""
    keys = [row.inputs[1] for row in case.rows.of_kind(Scores)]
    values = [row.inputs[1] for row in case.rows.of_kind(Context)]
    yield from [("keys", tuple(keys))] * bool(keys)
    yield from [("values", tuple(values))] * bool(values)
    yield from [("keys and values", (*keys, *values))] * bool(keys and values)


def _mistakes() -> Iterator[tuple[str, str, bool, Cache]]:
    """Yield the id and the claim of each mistake, True if it only concerns earlier passes, and the cache."""

    def shifted(by: int, values: Array, index: Array, at: range) -> Array:
        return values[(index - by).clip(0, at.stop - 1)]

    def stale(values: Array, index: Array, at: range) -> Array:
        return values[np.where(index < at.start, index, index - len(at))]

    def empty(values: Array, index: Array, at: range) -> Array:
        return np.where((index < at.start)[:, None], values[index], 0.0)

    for by, which in (
        (1, "earlier (position i-1 in place of i)"),
        (-1, "later (position i+1 in place of i)"),
    ):
        for of_earlier in (False, True):
            yield "cache-shifted", f"of one position {which}", of_earlier, bind(shifted, by)
    yield "cache-stale", "of the positions before their own (the cache is not updated)", False, stale
    yield "cache-empty", "as zeros", True, lambda values, index, at: np.zeros_like(values[index])
    yield "cache-not-written", "of their own positions as zeros", False, empty
    for words, round in CACHE_TYPES.items():
        for of_earlier in (True, False):
            cache = bind(lambda round, values, index, at: round(values[index]), round)
            yield "cache-rounded", f"rounded to {words}", of_earlier, cache


def _read_by_later(
    names: Sequence[str], change: Callable[[str, Array, range], Array], case: Case, right: Array
) -> Array:
    """Return the values if passes after the first, or the only pass, read other values of events."""
    plain, predicted, length = case.judge.plain, right.copy(), len(case.given.tokens)
    at = list(range(predicted.shape[-2])) if case.positions is None else list(case.positions)
    for own in case.schedule.passes(length)[:MOST_PASSES] or [range(length)]:
        other = with_values(plain, {name: change(name, plain.value(name), own) for name in names})
        rows = [row for row, position in enumerate(at) if position in own]
        predicted[..., rows, :] = other.output(case.name)[..., [at[row] for row in rows], :]
    return predicted


def with_values(evaluation: Evaluation, values: Mapping[str, Array]) -> Evaluation:
    """Return an evaluation that reads these values in place of the dump's."""
    other = copy(evaluation)
    other.values, other._recomputed = ChainMap(dict(values), cast(dict[str, Array], evaluation.values)), {}
    return other


# --- Batches ----------------------------------------------------------------------------------------


def padding(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that attention reads rows of padding."""
    padded = case.schedule.padded
    if padded is not None and (case.kind(Scores) or case.kind(Context)):
        yield Hypothesis(
            "padding-read",
            "attention reads the rows of padding as if they were text",
            bind(_of_other, padded),
        )


def other_texts(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypotheses that the operation, or attention, reads another text of the batch."""

    def cached(open_other: Callable[[], OtherRun], names: Sequence[str], case: Case, right: Array) -> Array:
        run, rows = open_other()
        return _read_by_later(names, lambda name, *_: run.plain.value(name)[rows], case, right)

    for number, open_other in case.schedule.others.items():
        claim = f"your values are those of text {number} of the batch"
        yield Hypothesis("another-text", claim, bind(_of_other, open_other))
        for words, names in _caches(case):
            claim = f"attention reads the {words} of text {number} of the batch"
            yield Hypothesis("another-text", claim, bind(cached, open_other, names))


def _of_other(open_other: Callable[[], OtherRun], case: Case, right: Array) -> Array:
    """Return the values that follow from other rows of the dump, at the positions of the case. Of scores and
    weights, return only the keys of the text."""
    run, rows = open_other()
    values = run.plain.output(case.name)
    values = values[..., rows] if values.ndim == 3 else values
    return values[..., rows if case.positions is None else rows[list(case.positions)], :]
