"""Mistakes of attention: scale, heads' keys and values, mask, window, softmax, the order of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial as bind
from typing import Any

import numpy as np

from ...architecture.operations.by_kind import reference
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.kinds import Context, Rotation, Scores, Softmax
from ...architecture.plans.plan import Operation, Plan
from ...arrays.stats import Array
from ..fitting import Family
from ..hypothesis import Case, Hypothesis, first_of
from .changes import after, beside, called, computed, of_kind, reading, with_attributes

CAPS = (50.0, 30.0, 20.0)  # usual ones
TIMES = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)  # of scores


def scale(case: Case) -> Iterator[Family]:
    """Scores without 1/sqrt(D), with another factor, or capped."""
    kind = case.kind(Scores)
    if kind is None:
        return
    usual = 1 / math.sqrt(kind.head_dim)
    own = f"1/sqrt({kind.head_dim})" if kind.scale == usual else f"{kind.scale:.6g}"
    special, right = _scales(case, kind), f"not multiplied by {own}"
    yield Family(
        "scale", lambda scale: with_attributes(case.plan, Scores, scale=scale),
        f"your scores are multiplied by {{}}, {right}".replace("not multiplied", "not").format,
        own=kind.scale, pivot=None, unit=kind.scale,
        special={v: (id, f"{words}, {right}") for v, (id, words) in special.items()},
        usual=(0.5, 0.25, 0.125, 0.0625),
    )  # fmt: skip
    yield capped(case, "scores")


def _scales(case: Case, kind: Scores) -> dict[float, tuple[str, str]]:
    """What scores are often multiplied by, but for the model's own."""
    dim, width = kind.head_dim, case.given.shapes[case.plan.streams[0]][1]
    found = {
        1 / math.sqrt(dim): ("scale", f"your scores are multiplied by 1/sqrt({dim})"),
        math.sqrt(dim): ("scale", f"your scores are multiplied by sqrt({dim})"),
        1 / math.sqrt(width): ("scale", f"your scores are multiplied by 1/sqrt({width}), the width"),
        1 / dim: ("scale", f"your scores are multiplied by 1/{dim} (scaled twice)"),
        1.0: ("scale-missing", "your scores are not scaled"),
    }
    return {scale: words for scale, words in found.items() if scale != kind.scale}


def capped(case: Case, words: str) -> Family:
    """Values that a tanh keeps below a cap: scores or logits."""
    which = of_kind(Scores) if words == "scores" else called("logits")
    most = float(np.nanmax(np.abs(np.where(np.isfinite(case.found), case.found, np.nan)), initial=0.0))
    starts = sorted({cap for cap in (*CAPS, 2 * most, 4 * most) if 0 < cap < math.inf})
    return Family(
        f"{words}-capped", lambda cap: after(case.plan, which, lambda x: cap * np.tanh(x / cap)),
        f"your {words} are capped: c * tanh({words} / c) with c = {{}}".format,
        own=math.inf, starts=starts, usual=CAPS,
    )  # fmt: skip


def unturned(case: Case) -> Iterator[Hypothesis]:
    """Scores of q or k as they were before RoPE or before their norm."""
    if not isinstance(case.row.kind, Scores) or not case.plan.of_kind(Rotation):
        return
    for id, chosen, words in (
        ("scores-of-unturned", (0, 1), "q and k before RoPE"),
        ("scores-of-unturned-q", (0,), "q before RoPE"),
        ("scores-of-unturned-k", (1,), "k before RoPE"),
    ):

        def inputs(row: Operation, chosen: tuple[int, ...] = chosen) -> tuple[str, ...]:
            sides = enumerate(row.inputs)
            return tuple(case.plan.source(name) if side in chosen else name for side, name in sides)

        plan = reading(case.plan, of_kind(Scores), inputs)
        yield Hypothesis(id, f"your scores are those of {words}", plan)


def grouping(case: Case) -> Iterator[Hypothesis]:
    """Query heads with the keys or values of other heads."""
    kinds: list[Scores | Context] = []
    for of, what in ((Scores, "keys"), (Context, "values")):
        rows = case.of(of)
        if not rows:
            continue
        kind = rows[-1].kind
        assert isinstance(kind, Scores | Context)
        kinds.append(kind)
        heads, count = kind.group, max(kind.group) + 1
        wrapped = tuple(h % count for h in range(len(heads)))
        if 1 < count < len(heads):
            claim = f"head h has the {what} of head h % {count}, not of h // {len(heads) // count}"
            yield Hypothesis(f"grouping-{what}", claim, with_attributes(case.plan, of, group=wrapped))
        if isinstance(case.row.kind, of) and case.alone and count > 1:
            measured = nearest_groups(case, of, count)
            if measured not in (heads, wrapped):
                whose, right = (f"[{first_of(group, 16)}]" for group in (measured, heads))
                claim = f"heads have the {what} of heads {whose}, not of {right}"
                yield Hypothesis(f"other-{what}", claim, with_attributes(case.plan, of, group=measured))
    if len(kinds) == 2 and 1 < count < len(heads):
        claim = f"head h has keys and values of head h % {count}, not of h // {len(heads) // count}"
        of_keys = with_attributes(case.plan, Scores, group=wrapped)
        yield Hypothesis("grouping", claim, with_attributes(of_keys, Context, group=wrapped))


def nearest_groups(case: Case, kind: type[Scores] | type[Context], count: int) -> tuple[int, ...]:
    """Whose keys or values the dump's heads are nearest to."""
    own = case.row.kind
    assert isinstance(own, Scores | Context)
    heads, errors = len(own.group), []
    for g in range(count):
        row = with_attributes(case.plan, kind, group=(g,) * heads)[case.name]
        apart = np.abs(case.found - reference(row, case.given, *case.inputs))
        shown = case.judge.compared(case.name)
        apart = apart if shown is None else np.where(shown, apart, 0)
        errors.append(case.by_head(np.nan_to_num(apart)).sum(axis=1))
    return tuple(int(g) for g in np.argmin(errors, axis=0))


def mask(case: Case) -> Iterator[Hypothesis]:
    """A causal mask or window that shows other positions."""
    kind, length = case.kind(Softmax), len(case.given.tokens)
    if kind is None:
        return
    windows = {own.window for own in case.plan.kinds(Softmax) if own.window is not None}
    yield Hypothesis("mask-missing", "there is no causal mask", _softmax(case, ahead=length))
    if windows:
        plan = _softmax(case, ahead=length, window=None)
        yield Hypothesis("mask-missing", "there is no mask, neither causal nor of a window", plan)
    yield Hypothesis("mask-shifted", "every query sees one position ahead", _softmax(case, ahead=1))
    yield Hypothesis("mask-shifted", "no query sees itself", _softmax(case, ahead=-1))
    own = _own_window(case, kind)
    if own is not None:
        claim = f"the sliding window of {own} positions is missing"
        yield Hypothesis("window-missing", claim, _softmax(case, window=None))
    for window in _windows(case, own, windows):
        claim = f"the sliding window has {window} positions, " + (
            f"the model says {own}" if own else "the model has none here"
        )
        yield Hypothesis("window", claim, _softmax(case, window=window))


def _own_window(case: Case, kind: Softmax) -> int | None:
    """That of the layer."""
    of_layer = (row.kind for row in case.plan.layers[case.layer or 0])
    return next((own.window for own in of_layer if isinstance(own, Softmax)), kind.window)


def _shares(scores: Array, axis: int = -1) -> Array:
    exp = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def _softmax(
    case: Case, shares: Callable[[Array], Array] = _shares, times: float = 1.0, ahead: int = 0,
    **attributes: Any,
) -> Plan:  # fmt: skip
    """The plan where every softmax makes something else of the scores `times` a number, sees so many
    positions `ahead` (-1: not even itself), or has other attributes."""

    def compute(row: Operation[Softmax], given: ReferenceInputs, scores: Array) -> Array:
        back = np.arange(scores.shape[-1])[:, None] - np.arange(scores.shape[-1])
        seen = (back >= -ahead) & (back < (row.kind.window or len(back)))
        return shares(np.where(seen, scores * times, -np.inf))

    return computed(with_attributes(case.plan, Softmax, **attributes), of_kind(Softmax), compute)


def _windows(case: Case, own: int | None, others: set[int]) -> list[int]:
    """Windows to try: that of the dump's zeros, those next to the model's own, that of other layers."""
    near = {own - 1, own + 1} if own else set()
    if isinstance(case.row.kind, Softmax) and case.positions is None:
        near.add(int((case.found[:, -1] != 0).any(axis=0).sum()))
    return sorted(w for w in (others | near) - {own} if 0 < w < len(case.given.tokens))


def softmax(case: Case) -> Iterator[Hypothesis | Family]:
    """Another base, axis or temperature; rows that are not divided by their sums."""
    if not case.of(Softmax):
        return
    yield Hypothesis(
        "softmax-axis", "softmax sums over queries, not keys", _softmax(case, bind(_shares, axis=-2))
    )
    yield Hypothesis(
        "softmax-axis", "softmax sums over heads, not keys", _softmax(case, bind(_shares, axis=0))
    )
    alone = isinstance(case.row.kind, Softmax) and case.alone
    yield Family(
        "softmax-scaled", lambda times: _softmax(case, times=times),
        f"your weights are the softmax of {{}} times {'your own' if alone else 'the'} scores".format,
        own=1.0, starts=TIMES, usual=(0.5, 2.0),
        special={math.log(2): ("softmax-base", "softmax has base 2, not e")},
    )  # fmt: skip
    if not alone:
        return
    claim = "exp(scores) is not divided by the sum of its row"
    yield Hypothesis("softmax-unnormalised", claim, _softmax(case, np.exp))
    claim = "exp(scores - max) is not divided by the sum of its row"
    shifted = _softmax(case, lambda x: np.exp(x - x.max(axis=-1, keepdims=True)))
    yield Hypothesis("softmax-unnormalised", claim, shifted)
    claim = "1 is added to the sum of every row (softmax off by one)"
    plus_one = _softmax(case, lambda x: np.exp(x) / (1 + np.exp(x).sum(axis=-1, keepdims=True)))
    yield Hypothesis("softmax-plus-one", claim, plus_one)


def context(case: Case) -> Iterator[Hypothesis]:
    """Heads that are not side by side again, weights the wrong way round, keys for values."""
    if not isinstance(case.row.kind, Context) or case.positions is not None:
        return
    for id, claim, axis in (
        ("heads-not-transposed", "heads [H, T, D] are read as [T, H*D]", 0),
        ("head-channels-first", "channels come as [D, H] rather than [H, D]", 2),
    ):
        yield Hypothesis(id, claim, bind(_swapped, axis))
    if case.alone:
        yield Hypothesis("weights-transposed", "weights.T @ v rather than weights @ v", _transposed)
        weights = case.row.inputs[0]
        for name in _like_values(case, weights):
            claim = f"your context is that of {name.rpartition('.')[2]}, not of v"
            plan = reading(case.plan, of_kind(Context), beside(weights, name))
            yield Hypothesis("other-values", claim, plan)


def _like_values(case: Case, weights: str) -> list[str]:
    """The keys and queries of these weights, as they are made and as the scores read them, those that have
    the shape of v."""
    (scores,) = case.plan[weights].inputs
    q, k = case.plan[scores].inputs
    names = dict.fromkeys(name for side in (k, q) for name in (case.plan.source(side), side))
    return [name for name in names if case.value(name).shape == case.inputs[1].shape]


def _swapped(axis: int, case: Case, expected: Array) -> Array:
    """Two axes of [T, H, D], one of them that of the heads, the wrong way round."""
    return expected.reshape(case.in_heads).swapaxes(1, axis).reshape(expected.shape)


def _transposed(case: Case, expected: Array) -> Array:
    weights, v = case.inputs
    return reference(case.row, case.given, weights.swapaxes(1, 2), v)
