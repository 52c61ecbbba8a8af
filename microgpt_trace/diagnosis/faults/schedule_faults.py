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
from ..case import Case
from ..hypothesis import Hypothesis
from ..pass_schedule import OtherRun
from .input_faults import at_positions
from .rope_faults import turning_by

MOST_PASSES = 64  # mistakes that differ from pass to pass are tried on this many passes at most
CACHE_TYPES: Mapping[str, Callable[[Array], Array]] = {
    "float16": PRECISIONS["f16"].round,
    "bfloat16": PRECISIONS["bf16"].round,
    "8-bit blocks (q8_0)": bind(to_q8, block=32),
}


def positions(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: RoPE, or a table of positions, gets wrong positions in some passes."""
    length, learned = (
        len(case.given.tokens),
        [kind for kind in case.rows.kinds(Lookup) if kind.by == "positions"],
    )
    if case.kind(Rotation) is None and not learned:
        return
    for offset, claim in case.schedule.offsets(length):
        own = np.arange(length) + offset.astype(int)
        plan = at_positions(case, own) if learned else turning_by(case, offset=offset)
        yield Hypothesis("pass-positions", claim, plan)


def keys_and_values(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: passes after the first read wrong keys or values of earlier passes."""
    later = case.schedule.passes(len(case.given.tokens))
    if not later:
        return
    for words, names in _caches(case):
        for id, claim, change in _mistakes(later):
            yield Hypothesis(id, f"{claim.format(words)}", bind(_read_by_later, names, change))


def _caches(case: Case) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what a cache holds that this operation reads: the events of keys, of values, and of both."""
    keys = [row.inputs[1] for row in case.rows.of_kind(Scores)]
    values = [row.inputs[1] for row in case.rows.of_kind(Context)]
    yield from [("keys", tuple(keys))] * bool(keys)
    yield from [("values", tuple(values))] * bool(values)
    yield from [("keys and values", (*keys, *values))] * bool(keys and values)


Cache = Callable[
    [Array, range], Array
]  # (values [T, W], positions of a pass) -> the values that the pass reads
Mistake = tuple[str, str, Cache]


def _mistakes(later: Sequence[range]) -> Iterator[Mistake]:
    """Yield the id, the claim and the cache of each mistake."""

    def shifted(by: int, own: bool, values: Array, at: range) -> Array:
        index = np.arange(len(values))
        moved = (index < at.start) | own
        return values[np.where(moved, np.clip(index - by, 0, at.stop - 1), index)]

    def stale(values: Array, at: range) -> Array:
        index = np.arange(len(values))
        return values[np.where((index >= at.start) & (index < at.stop), index - len(at), index)]

    def missing(own: bool, values: Array, at: range) -> Array:
        index = np.arange(len(values))
        gone = (index >= at.start) & (index < at.stop) if own else index < at.start
        return np.where(gone[:, None], 0.0, values)

    def rounded(round: Callable[[Array], Array], values: Array, at: range) -> Array:
        return np.concatenate([round(values[: at.start]), values[at.start :]])

    reads = "passes after the first read {}"
    for by, which in ((1, "one position earlier"), (-1, "one position later")):
        how = f"of {which} (position i{'-' if by > 0 else '+'}1 in place of i)"
        yield "cache-shifted", f"{reads} {how}", bind(shifted, by, True)
        yield "cache-shifted", f"{reads} of earlier passes {how}", bind(shifted, by, False)
    yield "cache-stale", f"{reads} of the positions before their own (the cache is not updated)", stale
    yield "cache-empty", f"{reads} of earlier passes as zeros", bind(missing, False)
    yield "cache-not-written", f"{reads} of their own positions as zeros", bind(missing, True)
    for words, round in CACHE_TYPES.items():
        yield "cache-rounded", f"{reads} of earlier passes rounded to {words}", bind(rounded, round)
        whole = bind(lambda round, values, at: round(values), round)
        yield "cache-rounded", f"{reads} rounded to {words}", whole


def _read_by_later(names: Sequence[str], change: Cache, case: Case, right: Array) -> Array:
    """Return the values if passes after the first read a wrong cache of the events `names`."""
    plain, predicted = case.judge.plain, right.copy()
    values = {name: plain.value(name) for name in names}
    for own in case.schedule.passes(len(case.given.tokens))[:MOST_PASSES]:
        other = with_values(plain, {name: change(value, own) for name, value in values.items()})
        _put(case, predicted, other.output(case.name), own)
    return predicted


def _put(case: Case, predicted: Array, values: Array, own: Sequence[int]) -> None:
    """Copy the rows at the positions `own` into the predicted rows of the case."""
    at = list(range(predicted.shape[-2])) if case.positions is None else list(case.positions)
    rows = [row for row, position in enumerate(at) if position in own]
    predicted[..., rows, :] = values[..., [at[row] for row in rows], :]


def with_values(evaluation: Evaluation, values: Mapping[str, Array]) -> Evaluation:
    """Return an evaluation that reads these values in place of the dump's."""
    other = copy(evaluation)
    other.values, other._recomputed = ChainMap(dict(values), cast(dict[str, Array], evaluation.values)), {}
    return other


# --- Batches ----------------------------------------------------------------------------------------


def padding(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that attention reads rows of padding."""
    schedule = case.schedule
    if schedule.padded is None or not (case.kind(Scores) or case.kind(Context)):
        return

    yield Hypothesis(
        "padding-read",
        "attention reads the rows of padding as if they were text",
        bind(_of_other, schedule.padded),
    )


def other_texts(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypotheses that the operation, or attention, reads another text of the batch."""

    def cached(open_other: Callable[[], OtherRun], names: Sequence[str], case: Case, right: Array) -> Array:
        run, rows = open_other()
        values = {name: run.plain.value(name)[rows] for name in names}
        later, predicted = case.schedule.passes(len(case.given.tokens)), right.copy()
        own = range(later[0].start if later else 0, len(case.given.tokens))  # a prefill reads no cache
        _put(case, predicted, with_values(case.judge.plain, values).output(case.name), own)
        return predicted

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
