"""Mistakes in attention: scale, keys and values of other heads, mask, window, softmax, order of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial as bind
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.reference_inputs import ReferenceInputs
from ...operations.softmax import visible
from ...plans.kinds import Cap, Context, Rotation, Scores, Softmax, first_key, window_words
from ...plans.plan import Operation, Plan
from ..case import Case, first_of
from ..hypothesis import Family, Hypothesis
from .changes import after, called, computed, fed, of_kind, reading, with_attributes
from .elementwise_faults import CAPS

TIMES = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)  # start values for the factor of the scores
UNMASKED = 0.05  # scores before the mask are this near to q @ k.T, as a share of the largest score


def scale(case: Case) -> Iterator[Family]:
    """Yield hypotheses: scores are capped, not scaled, or scaled by a wrong factor."""
    kind = case.kind(Scores)
    if kind is None:
        return
    dim, width = kind.head_dim, case.given.shapes[case.plan.streams[0]][1]
    whole = sum(row.kind.head_dim for row in case.plan.of_kind(Scores) if row.layer == case.row.layer)
    usual = {
        1 / math.sqrt(dim): f"your scores are multiplied by 1/sqrt({dim})",
        1 / math.sqrt(whole or dim): f"your scores are multiplied by 1/sqrt({whole})",
        math.sqrt(dim): f"your scores are multiplied by sqrt({dim})",
        1 / math.sqrt(width): f"your scores are multiplied by 1/sqrt({width}), from the model's width",
        1 / dim: f"your scores are multiplied by 1/{dim} (scaled twice)",
        1.0: "your scores are not scaled",
    }
    own = f"1/sqrt({dim})" if kind.scale == 1 / math.sqrt(dim) else f"{kind.scale:.6g}"
    yield Family(
        "scale", lambda scale: with_attributes(case.plan, Scores, scale=scale),
        f"your scores are multiplied by {{}}, not by {own}".format,
        own=kind.scale, pivot=None, unit=kind.scale, usual=(0.5, 0.25, 0.125, 0.0625),
        special={
            scale: ("scale-missing" if scale == 1 else "scale", f"{words}, not multiplied by {own}")
            for scale, words in usual.items() if scale != kind.scale
        },
    )  # fmt: skip
    yield capped(case, "scores")


def capped(case: Case, words: str) -> Family:
    """Return the family of mistakes that cap scores or logits with a tanh."""
    which = of_kind(Scores) if words == "scores" else called(case.plan.head[0].name)
    most = float(np.max(np.abs(case.found), where=np.isfinite(case.found), initial=0.0))
    starts = sorted({cap for cap in (*CAPS, 2 * most, 4 * most) if 0 < cap < math.inf})
    return Family(
        f"{words}-capped", lambda cap: after(case.plan, which, lambda x: cap * np.tanh(x / cap)),
        f"your {words} are capped by c * tanh({words} / c) with c = {{}}".format,
        own=math.inf, starts=starts, usual=CAPS,
    )  # fmt: skip


def scores_before_rope(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: scores are computed from q or k before RoPE (and before the norm, if any)."""
    if not isinstance(case.row.kind, Scores) or not case.plan.of_kind(Rotation):
        return
    source = case.plan.source
    for id, words, inputs in (
        ("scores-of-unturned", "q and k before RoPE", lambda q, k: (source(q), source(k))),
        ("scores-of-unturned-q", "q before RoPE", lambda q, k: (source(q), k)),
        ("scores-of-unturned-k", "k before RoPE", lambda q, k: (q, source(k))),
    ):
        plan = reading(case.plan, of_kind(Scores), lambda row, of=inputs: of(*row.inputs))  # type: ignore[misc]
        yield Hypothesis(id, f"your scores are computed from {words}", plan)


def grouping(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: query heads read the keys or values of other heads."""
    both, count_wrong = case.plan, 0
    kinds: Sequence[Scores | Context]
    for of, what in ((Scores, "keys"), (Context, "values")):
        kinds = case.rows.kinds(of)
        if not kinds:
            continue
        heads, count = kinds[-1].group, max(kinds[-1].group) + 1
        wrapped = tuple(h % count for h in range(len(heads)))
        usual = f"of head h % {count}, not of head h // {len(heads) // count}"
        if 1 < count < len(heads):
            plan, both = (with_attributes(plan, of, group=wrapped) for plan in (case.plan, both))
            yield Hypothesis(f"grouping-{what}", f"head h reads the {what} {usual}", plan)
            count_wrong += 1
        if isinstance(case.row.kind, of) and case.alone and count > 1:
            nearest = nearest_groups(case, of, count)
            if nearest not in (heads, wrapped):
                yours, right = (f"[{first_of(group, 16)}]" for group in (nearest, heads))
                claim = f"your heads read the {what} of heads {yours}, not of heads {right}"
                yield Hypothesis(f"other-{what}", claim, with_attributes(case.plan, of, group=nearest))
    if count_wrong == 2:
        yield Hypothesis("grouping", f"head h reads keys and values {usual}", both)


def nearest_groups(case: Case, kind: type[Scores] | type[Context], count: int) -> tuple[int, ...]:
    """Return for each head of the dump the group whose keys or values lead to the most similar output."""
    heads, errors, compared = len(case.by_head(case.found)), [], case.compared
    for g in range(count):
        row = with_attributes(case.plan, kind, group=(g,) * heads)[case.name]
        difference = np.abs(case.found - reference(row, case.given, *case.inputs))
        difference = difference if compared is None else np.where(compared, difference, 0)
        errors.append(case.by_head(np.nan_to_num(difference)).sum(axis=1))
    return tuple(int(g) for g in np.argmin(errors, axis=0))


def mask(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the causal mask, or the sliding window or the chunks, are missing or wrong."""
    if not case.rows.of_kind(Softmax):
        return
    length, other = len(case.given.tokens), bind(_other_softmax, case)
    own = next(row.kind.window for row in case.plan.layers[case.layer or 0] if isinstance(row.kind, Softmax))
    windows = {kind.window for kind in case.plan.kinds(Softmax) if kind.window is not None}
    yield other("mask-missing", "there is no causal mask", ahead=length)
    if windows:
        claim = f"there is neither a causal mask nor {'chunks' if min(windows) < 0 else 'a sliding window'}"
        yield other("mask-missing", claim, ahead=length, window=None)
    yield other("mask-shifted", "every query also sees the next position", ahead=1)
    yield other("mask-shifted", "no query sees its own position", ahead=-1)
    if own is not None:
        what = f"sliding window of {own} positions is" if own > 0 else f"chunks of {-own} positions are"
        yield other("window-missing", f"the {what} missing", window=None)
    for window in _windows(case, own, windows):
        what = f"the sliding window has {window}" if window > 0 else f"the chunks have {-window}"
        said = f"{abs(own or 0)}" if window * (own or 0) > 0 else window_words(own or 0)
        right = f"the model says {said}" if own else "but this layer of the model has no window"
        yield other("window", f"{what} positions, {right}", window=window)


def late_cap(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that the cap of the scores is applied after the mask."""
    for weights in case.rows.of_kind(Softmax)[:1]:
        cap = case.plan[weights.inputs[0]].kind
        if isinstance(cap, Cap):
            late = computed(case.plan, of_kind(Softmax), bind(_with_hidden, -cap.limit))
            claim = f"the cap is applied after the mask, so hidden keys have the score -{cap.limit:.6g}"
            yield Hypothesis("cap-after-mask", claim, late)


def _with_hidden(score: float, row: Operation[Softmax], given: ReferenceInputs, scores: Array) -> Array:
    """Compute the softmax over all keys, where every hidden key has the same score."""
    return _shares(np.where(visible(row.kind, scores.shape[-1]), scores, score))


def _shares(scores: Array, axis: int = -1) -> Array:
    exp = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def _softmax(
    case: Case, shares: Callable[[Array], Array] = _shares, times: float = 1.0, ahead: int = 0,
    **attributes: Any,
) -> Plan:  # fmt: skip
    """Return the plan with another softmax. The function `shares` replaces softmax, and `times` multiplies
    the scores. A query sees `ahead` later positions. If `ahead` is -1, a query does not see its own position.
    `attributes` replace attributes of the kind Softmax. If a query sees keys that the model hides, their
    scores are computed from q and k, unless the dump contains the scores before the mask."""

    def compute(row: Operation[Softmax], given: ReferenceInputs, scores: Array, *before: Array) -> Array:
        own = case.plan[row.name].kind
        if before and isinstance(own, Softmax):
            sources, read = _rows_of_scores(case.plan, row)
            known = dict(zip(read, before, strict=True))
            for source in sources:
                known[source.name] = reference(source, given, *(known[name] for name in source.inputs))
            hidden, again = ~visible(own, scores.shape[-1]), known[row.inputs[0]]
            near = np.abs(scores - again) <= UNMASKED * np.abs(again).max()
            scores = scores if near[:, hidden].all() else np.where(hidden, again, scores)
        at = np.arange(scores.shape[-1])
        seen = (at <= at[:, None] + ahead) & (at >= first_key(at, row.kind.window)[:, None])
        masked = np.where(seen, scores * times, -np.inf)
        if row.kind.sinks is None:
            return shares(masked)
        sinks = given.parameter(row, row.kind.sinks)[:, None, None] + np.zeros((*scores.shape[:2], 1))
        return shares(np.concatenate([masked, sinks], axis=-1))[..., : scores.shape[-1]]

    plan = with_attributes(case.plan, Softmax, **attributes)
    if ahead > 0 or "window" in attributes:
        plan = reading(plan, of_kind(Softmax), lambda row: row.inputs + _rows_of_scores(case.plan, row)[1])
    return computed(plan, of_kind(Softmax), compute)


def _rows_of_scores(plan: Plan, weights: Operation) -> tuple[list[Operation], tuple[str, ...]]:
    """Return the rows that compute the input of a softmax from q and k, such as the scores and their cap, and
    the events that these rows read."""
    rows, read = [plan[weights.inputs[0]]], list[str]()
    for row in rows:
        rows += [plan[name] for name in row.inputs if plan[name].causal]
        read += [name for name in row.inputs if not plan[name].causal]
    return rows[::-1], tuple(dict.fromkeys(read))


def _windows(case: Case, own: int | None, others: set[int]) -> list[int]:
    """Return the windows to try: the model's own window +-1 (for chunks, also a window of this size), the
    windows of other layers, and the window that the zeros in the dump show."""
    near = {own - 1, own + 1, abs(own)} if own else set()
    if isinstance(case.row.kind, Softmax) and case.positions is None:
        near.add(int((case.found[:, -1] != 0).any(axis=0).sum()))
    return sorted(w for w in (others | near) - {own} if 0 < abs(w) < len(case.given.tokens))


def _other_softmax(case: Case, id: str, claim: str, **how: Any) -> Hypothesis:
    return Hypothesis(id, claim, _softmax(case, **how))


def softmax(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: softmax uses another base, axis or temperature, or another divisor."""
    if not case.rows.of_kind(Softmax):
        return
    other, alone = bind(_other_softmax, case), isinstance(case.row.kind, Softmax) and case.alone
    if any(kind.sinks for kind in case.rows.kinds(Softmax)):
        claim = "the softmax has no sinks, so that a row of weights sums to 1"
        yield other("sinks-missing", claim, sinks=None)
    yield other("softmax-axis", "softmax sums over queries, not over keys", shares=bind(_shares, axis=-2))
    yield other("softmax-axis", "softmax sums over heads, not over keys", shares=bind(_shares, axis=0))
    yield Family(
        "softmax-scaled", lambda times: _softmax(case, times=times),
        f"your weights are the softmax of {'your own' if alone else 'the'} scores multiplied by {{}}".format,
        own=1.0, starts=TIMES, usual=(0.5, 2.0),
        special={math.log(2): ("softmax-base", "softmax uses base 2, not e")},
    )  # fmt: skip
    if alone:
        yield other("softmax-unnormalised", "exp(scores) is not divided by the sum of its row", shares=np.exp)
        claim = "exp(scores - max) is not divided by the sum of its row"
        yield other("softmax-unnormalised", claim, shares=lambda x: np.exp(x - x.max(axis=-1, keepdims=True)))
        claim = "1 is added to the sum of every row (softmax off by one)"
        yield other("softmax-plus-one", claim, shares=_off_by_one)


def _off_by_one(scores: Array) -> Array:
    return np.exp(scores) / (1 + np.exp(scores).sum(axis=-1, keepdims=True))


def context(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: heads are concatenated wrongly, weights are transposed, or k or q replaces v."""
    if not isinstance(case.row.kind, Context) or case.positions is not None:
        return
    yield Hypothesis("heads-not-transposed", "heads [H, T, D] are read as [T, H*D]", bind(_swapped, 0))
    claim = "channels are ordered as [D, H], not as [H, D]"
    yield Hypothesis("head-channels-first", claim, bind(_swapped, 2))
    if case.alone:
        yield Hypothesis("weights-transposed", "your context is weights.T @ v, not weights @ v", _transposed)
        q, k = next(row for row in case.plan.layers[case.layer or 0] if isinstance(row.kind, Scores)).inputs
        for name in dict.fromkeys((case.plan.source(k), k, case.plan.source(q), q)):
            if case.judge.plain.value(name).shape == case.inputs[1].shape:
                claim = f"your context is computed from {name.rpartition('.')[2]}, not from v"
                yield Hypothesis("other-values", claim, fed(case.plan, case.name, case.row.inputs[0], name))


def _swapped(axis: int, case: Case, expected: Array) -> Array:
    return expected.reshape(case.in_heads).swapaxes(1, axis).reshape(expected.shape)


def _transposed(case: Case, expected: Array) -> Array:
    weights, v = case.inputs
    return reference(case.row, case.given, weights.swapaxes(1, 2), v)
