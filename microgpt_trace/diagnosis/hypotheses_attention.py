"""Mistakes of attention: scale, heads' keys and values, mask, window, softmax, the order of channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..arrays.stats import Array
from .fitting import Family
from .hypotheses import Case, Hypothesis
from .operations import apply, visible_to
from .rules import Rules

LARGEST_EXPONENT = 700.0  # of e in a float
CAPS = (50.0, 30.0, 20.0)  # usual ones


def scale(case: Case) -> Iterator[Family]:
    """Scores without 1/sqrt(D), with another factor, or capped."""
    if "attn.scores" not in case.kinds:
        return
    rules, dim = case.rules, case.weights.head_dim
    special, right = _scales(case), f"not multiplied by 1/sqrt({dim})"
    measured = [_factor(case) * rules.scale] if case.alone else []
    yield Family(
        "scale", lambda scale: replace(rules, scale=scale),
        f"your scores are multiplied by {{}}, {right}".replace("not multiplied", "not").format,
        own=rules.scale, starts=[m for m in measured if 0 < m < math.inf],
        special={v: (id, f"{words}, {right}") for v, (id, words) in special.items()},
        usual=(0.5, 0.25, 0.125, 0.0625),
    )  # fmt: skip
    yield capped(case, "attn.scores", "scores")


def _scales(case: Case) -> dict[float, tuple[str, str]]:
    dim, width = case.weights.head_dim, case.weights.shapes["wte"][1]
    return {
        math.sqrt(dim): ("scale", f"your scores are multiplied by sqrt({dim})"),
        1 / math.sqrt(width): ("scale", f"your scores are multiplied by 1/sqrt({width}), the width"),
        1 / dim: ("scale", f"your scores are multiplied by 1/{dim} (scaled twice)"),
        1.0: ("scale-missing", "your scores are not scaled"),
    }


def capped(case: Case, kind: str, words: str) -> Family:
    """Values that a tanh keeps below a cap."""
    most = float(np.nanmax(np.abs(np.where(np.isfinite(case.found), case.found, np.nan)), initial=0.0))
    starts = sorted({cap for cap in (*CAPS, 2 * most, 4 * most) if 0 < cap < math.inf})
    return Family(
        f"{words}-capped", lambda cap: replace(case.rules, caps={**case.rules.caps, kind: cap}),
        f"your {words} are capped: c * tanh({words} / c) with c = {{}}".format,
        own=math.inf, starts=starts, usual=CAPS,
    )  # fmt: skip


def _factor(case: Case) -> float:
    """The number that the right scores are multiplied by, by least squares."""
    shown = np.broadcast_to(visible_to(case.rules, case.name, len(case.found[0])), case.found.shape)
    shown = shown & np.isfinite(case.found) & np.isfinite(case.expected)
    found, expected = case.found[shown].astype(np.float64), case.expected[shown].astype(np.float64)
    return float(found @ expected / (expected @ expected))


def unturned(case: Case) -> Iterator[Hypothesis]:
    """Scores of q or k as they were before RoPE or before their norm."""
    if case.kind != "attn.scores" or case.rules.rotation is None:
        return
    turned = ("attn.q_rope", "attn.k_rope")
    for id, q, k, words in (
        ("scores-of-unturned", "attn.q", "attn.k", "q and k before RoPE"),
        ("scores-of-unturned-q", "attn.q", turned[1], "q before RoPE"),
        ("scores-of-unturned-k", turned[0], "attn.k", "k before RoPE"),
    ):
        yield Hypothesis(id, f"your scores are those of {words}", case.rules.reading(attn_scores=(q, k)))


def grouping(case: Case) -> Iterator[Hypothesis]:
    """Query heads with the keys or values of other heads."""
    heads = case.rules.group
    count = max(heads) + 1
    for kind, what in (("attn.scores", "keys"), ("attn.context", "values")):
        if kind not in case.kinds:
            continue
        if count < len(heads) and count > 1:
            wrapped = tuple(h % count for h in range(len(heads)))
            claim = f"head h has the {what} of head h % {count}, not of h // {len(heads) // count}"
            yield Hypothesis(f"grouping-{what}", claim, _grouped(case.rules, what, wrapped))
        if case.kind == kind and case.alone and count > 1:
            measured = nearest_groups(case, what, count)
            if measured not in (heads, tuple(h % count for h in range(len(heads)))):
                claim = f"heads have the {what} of heads {_listed(measured)}, not of {_listed(heads)}"
                yield Hypothesis(f"other-{what}", claim, _grouped(case.rules, what, measured))
    if {"attn.scores", "attn.context"} <= case.kinds and 1 < count < len(heads):
        wrapped = tuple(h % count for h in range(len(heads)))
        claim = f"head h has keys and values of head h % {count}, not of h // {len(heads) // count}"
        yield Hypothesis("grouping", claim, replace(case.rules, group=wrapped, group_of_values=wrapped))


def _listed(numbers: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, numbers[:16])) + (", ...]" if len(numbers) > 16 else "]")


def _grouped(rules: Rules, what: str, group: tuple[int, ...]) -> Rules:
    if what == "values":
        return replace(rules, group_of_values=group)
    return replace(rules, group=group, group_of_values=rules.group_of_values or rules.group)


def nearest_groups(case: Case, what: str, count: int) -> tuple[int, ...]:
    """Whose keys or values the dump's heads are nearest to."""
    heads, errors = len(case.rules.group), []
    for g in range(count):
        value = apply(case.weights, _grouped(case.rules, what, (g,) * heads), case.name, case.inputs)
        apart = np.abs(case.found - value)
        if what == "keys":
            apart = np.where(visible_to(case.rules, case.name, len(apart[0])), apart, 0).reshape(heads, -1)
        else:
            apart = apart.reshape(len(apart), heads, -1).swapaxes(0, 1).reshape(heads, -1)
        errors.append(np.nan_to_num(apart).sum(axis=1))
    return tuple(int(g) for g in np.argmin(errors, axis=0))


def mask(case: Case) -> Iterator[Hypothesis]:
    """A causal mask or window that shows other positions."""
    if "attn.weights" not in case.kinds:
        return
    rules, length = case.rules, len(case.rules.tokens)
    yield Hypothesis("mask-missing", "there is no causal mask", replace(rules, ahead=length))
    if any(rules.windows):
        every = replace(rules, ahead=length, windows=(None,) * len(rules.windows))
        yield Hypothesis("mask-missing", "there is no mask, neither causal nor of a window", every)
    yield Hypothesis("mask-shifted", "every query sees one position ahead", replace(rules, ahead=1))
    yield Hypothesis("mask-shifted", "no query sees itself", replace(rules, ahead=-1))
    layers = len(rules.windows)
    own = rules.windows[case.layer or 0]
    if own is not None:
        claim = f"the sliding window of {own} positions is missing"
        yield Hypothesis("window-missing", claim, replace(rules, windows=(None,) * layers))
    for window in _windows(case, own):
        claim = f"the sliding window has {window} positions, " + (
            f"the model says {own}" if own else "the model has none here"
        )
        yield Hypothesis("window", claim, replace(rules, windows=(window,) * layers))


def _windows(case: Case, own: int | None) -> list[int]:
    """Windows to try: that of the dump's zeros, those next to the model's own, that of other layers."""
    others = {w for w in case.rules.windows if w is not None}
    near = {own - 1, own + 1} if own else set()
    if case.kind == "attn.weights" and case.positions is None:
        near.add(int((case.found[:, -1] != 0).any(axis=0).sum()))
    return sorted(w for w in (others | near) - {own} if 0 < w < len(case.rules.tokens))


def softmax(case: Case) -> Iterator[Hypothesis | Family]:
    """Another base, axis or temperature; rows that are not divided by their sums."""
    if "attn.weights" not in case.kinds:
        return
    rules = case.rules
    yield Hypothesis("softmax-axis", "softmax sums over queries, not keys", replace(rules, softmax_axis=-2))
    yield Hypothesis("softmax-axis", "softmax sums over heads, not keys", replace(rules, softmax_axis=0))
    alone = case.kind == "attn.weights" and case.alone
    measured = _temperature(case) if alone else 0.0
    yield Family(
        "softmax-scaled", lambda times: replace(rules, softmax_base=math.exp(times)),
        f"your weights are the softmax of {{}} times {'your own' if alone else 'the'} scores".format,
        own=1.0, starts=[measured] if 0 < measured < LARGEST_EXPONENT else [],
        usual=(0.5, 2.0), special={math.log(2): ("softmax-base", "softmax has base 2, not e")},
        high=LARGEST_EXPONENT,
    )  # fmt: skip
    if not alone:
        return
    yield Hypothesis("softmax-unnormalised", "exp(scores) is not divided by the sum of its row", None, _exp)
    claim = "exp(scores - max) is not divided by the sum of its row"
    yield Hypothesis("softmax-unnormalised", claim, None, _shifted_exp)
    claim = "1 is added to the sum of every row (softmax off by one)"
    yield Hypothesis("softmax-plus-one", claim, None, _plus_one)


def _shown(case: Case, e: Array) -> Array:
    return np.where(np.tri(e.shape[-1], dtype=bool), e, 0)


def _exp(case: Case, expected: Array) -> Array:
    return _shown(case, np.exp(case.inputs[0]))


def _shifted_exp(case: Case, expected: Array) -> Array:
    masked = np.where(np.tri(expected.shape[-1], dtype=bool), case.inputs[0], -np.inf)
    return np.exp(masked - masked.max(axis=-1, keepdims=True))


def _plus_one(case: Case, expected: Array) -> Array:
    exp = _exp(case, expected)
    return exp / (1 + exp.sum(axis=-1, keepdims=True))


def _temperature(case: Case) -> float:
    """What the scores are multiplied by, from the logarithms of the dump's weights."""
    shown = np.tri(case.found.shape[-1], dtype=bool) & (case.found > 1e-6) & np.isfinite(case.inputs[0])
    count = np.maximum(shown.sum(axis=-1, keepdims=True), 1)

    def centred(x: Array) -> Array:
        kept = np.where(shown, x, 0)
        return np.where(shown, kept - kept.sum(axis=-1, keepdims=True) / count, 0).ravel()

    logs = centred(np.log(np.where(shown, case.found, 1).astype(np.float64)))
    scores = centred(case.inputs[0])
    return float(logs @ scores / (scores @ scores)) if scores.any() else math.nan


def context(case: Case) -> Iterator[Hypothesis]:
    """Heads that are not side by side again, weights the wrong way round, keys for values."""
    if case.kind == "attn.context" and case.positions is None:
        yield Hypothesis(
            "heads-not-transposed", "heads [H, T, D] are read as [T, H*D]", None, _not_transposed
        )
        yield Hypothesis(
            "head-channels-first", "channels come as [D, H] rather than [H, D]", None, _channels_first
        )
        if case.alone:
            yield Hypothesis("weights-transposed", "weights.T @ v rather than weights @ v", None, _transposed)
            keys = inputs_named(case, "attn.k", "attn.k_rope", "attn.q", "attn.q_rope")
            for kind in keys:
                claim = f"your context is that of {kind.removeprefix('attn.')}, not of v"
                yield Hypothesis(
                    "other-values", claim, case.rules.reading(attn_context=("attn.weights", kind))
                )


def inputs_named(case: Case, *kinds: str) -> list[str]:
    """Those of the events that have v's shape."""
    shape = case.inputs[1].shape
    known = [kind for kind in kinds if kind in case.rules.inputs]
    return [kind for kind in known if case.value(kind).shape == shape]


def _not_transposed(case: Case, expected: Array) -> Array:
    heads = expected.reshape(len(expected), -1, case.weights.head_dim)
    return heads.swapaxes(0, 1).reshape(expected.shape)


def _channels_first(case: Case, expected: Array) -> Array:
    heads = expected.reshape(len(expected), -1, case.weights.head_dim)
    return heads.swapaxes(1, 2).reshape(expected.shape)


def _transposed(case: Case, expected: Array) -> Array:
    weights, v = case.inputs
    return apply(case.weights, case.rules, case.name, (weights.swapaxes(1, 2), v))
