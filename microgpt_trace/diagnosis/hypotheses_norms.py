"""Mistakes of norms: what they divide by, their eps, their gain, what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..architecture.plan import kind_of
from ..arrays.stats import Array
from .fitting import Family
from .hypotheses import Case, Hypothesis
from .rules import Rules

GAINS = {
    "attn.norm": "attn_norm", "mlp.norm": "mlp_norm", "final.norm": "final_norm",
    "attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm",
}  # fmt: skip
USUAL_EPS = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)
POWERS = (0.25, 2.0)  # of the mean square, 0.5 being right
EXPONENTS = (1.0, 1.5, 3.0, 4.0, 8.0)  # of the mean, 2 being right
LATE = "the norm of q and k comes after RoPE, not before"


def norms(case: Case) -> Iterator[Hypothesis | Family]:
    """Norms without a mean square, with a mean or a sum, their gain missing or another."""
    rules = case.rules
    if not any(kind.endswith("norm") for kind in case.kinds):
        return
    yield from _gains(case)
    skipped = replace(rules, norm_power=0.0).with_instead(_of_own(case, GAINS.values(), np.ones_like))
    yield Hypothesis("norm-missing", "the norm is skipped, its gain too", skipped)
    yield Hypothesis(
        "layernorm", "the mean is subtracted (LayerNorm, not RMSNorm)", replace(rules, centred=True)
    )
    claim = "the squares are summed, their mean is not taken"
    yield Hypothesis("norm-summed", claim, replace(rules, norm_summed=True))
    if case.kinds & {"attn.q_norm", "attn.k_norm"}:
        claim = "the norm goes over the whole row, not over each head"
        yield Hypothesis("norm-of-row", claim, replace(rules, per_head=False))
    outside = replace(rules, eps_outside=True)
    yield Hypothesis("eps-outside", f"eps {rules.eps:g} is added outside the root", outside)


def numbers(case: Case) -> Iterator[Family]:
    """Another eps, power of the mean square or exponent of the mean."""
    rules = case.rules
    if not any(kind.endswith("norm") for kind in case.kinds):
        return
    rows = _rows(case) if case.alone and case.kind.endswith("norm") else None
    starts = [eps for eps in USUAL_EPS if eps != rules.eps]
    starts += [max(_eps_of(*rows), 0.0)] if rows else []
    yield Family(
        "eps", lambda eps: replace(rules, eps=eps), f"eps is {{}}, the model says {rules.eps:.3g}".format,
        own=rules.eps, starts=starts, usual=USUAL_EPS, pivot=float(rows[0].min()) if rows else rules.eps,
    )  # fmt: skip
    claim = "the mean square (with eps) is raised to {}, not to 0.5 (the root)".format
    yield Family(
        "norm-power", lambda power: replace(rules, norm_power=power), claim,
        own=0.5, starts=(*POWERS, *([_power_of(*rows)] if rows else [])), usual=POWERS,
        special={
            0.0: ("norm-skipped", "the norm is skipped, its gain kept"),
            1.0: ("norm-power", "the root is missing: the mean square itself divides"),
        },
        low=-8.0, high=8.0, pivot=None, unit=1.0,
    )  # fmt: skip
    claim = "the norm has exponent {}, not 2: mean(|x|^p)^(1/p)".format
    yield Family(
        "norm-exponent", lambda exponent: replace(rules, norm_exponent=exponent), claim,
        own=2.0, starts=EXPONENTS, usual=EXPONENTS, low=0.5, high=8.0,
    )  # fmt: skip


def _rows(case: Case) -> tuple[Array, Array] | None:
    """Mean square and factor of every row of a norm, from its input and output; None where none is told."""
    x, found = case.inputs[0], case.found.astype(np.float64)
    gain = GAINS.get(case.kind)
    own = case.weights.array(case.prefix + gain) if gain and case.has(gain) else np.ones(1)
    width = x.shape[1] if len(own) == 1 else len(own)
    x, found = x.reshape(-1, width), found.reshape(-1, width)
    scaled = x * own
    usable = np.isfinite(x).all(axis=1) & np.isfinite(found).all(axis=1) & scaled.any(axis=1)
    x, scaled, found = x[usable], scaled[usable], found[usable]
    if not len(x):
        return None
    return np.square(x).mean(axis=1), (found * scaled).sum(axis=1) / np.square(scaled).sum(axis=1)


def _eps_of(squares: Array, factors: Array) -> float:
    """The eps of the row in which it matters most: 1 / factor^2 - mean square."""
    row = int(squares.argmin())
    eps = float(1 / factors[row] ** 2 - squares[row])
    return eps if math.isfinite(eps) else 0.0


def _power_of(squares: Array, factors: Array) -> float:
    """What the mean squares are raised to, by least squares of the logarithms."""
    told = (factors > 0) & (squares > 0)
    logs = np.log(squares[told])
    power = float(-(np.log(factors[told]) @ logs) / (logs @ logs)) if logs.any() else 0.0
    return min(max(power, -4.0), 4.0)


def _of_own(
    case: Case, kinds: Iterable[str], change: Callable[[Array], Array]
) -> dict[str, Callable[[str], Array]]:
    """What stands in the place of those parameters that the model has: a function of their own values."""
    known = {kind_of(name) for name in case.weights.shapes}
    return {kind: lambda name: change(case.weights.array(name)) for kind in kinds if kind in known}


def _gain_plus(case: Case, chosen: Sequence[str], words: str) -> Family:
    def at(added: float) -> Rules:
        return case.rules.with_instead(_of_own(case, chosen, lambda gain: gain + added))

    special = {1.0: ("gain-plus-one", f"{words} has 1 added to it (as Gemma does)")}
    return Family(
        "gain-plus", at, f"{words} has {{}} added to it".format,
        own=0.0, special=special, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _gains(case: Case) -> Iterator[Hypothesis | Family]:
    """The gain missing, with 1 added, squared, or that of another norm."""
    own = [gain for kind, gain in GAINS.items() if kind in case.kinds and case.has(gain)]
    if not own:
        return

    changes: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
        ("gain-missing", "is missing", np.ones_like),
        ("gain-twice", "is applied twice", np.square),
    )
    for chosen in [own] if len(own) == 1 else [own, *([gain] for gain in own)]:
        words = f"the norm's gain ({', '.join(chosen)})"
        for id, what, change in changes:
            rules = case.rules.with_instead(_of_own(case, chosen, change))
            yield Hypothesis(id, f"{words} {what}", rules)
        yield _gain_plus(case, chosen, words)
    for gain in own:
        for other, name in _other_gains(case, gain):
            rules = case.rules.with_instead({gain: other})
            yield Hypothesis("gain-of-another-norm", f"the gain is {name}, not {gain}", rules)


def _other_gains(case: Case, gain: str) -> Iterator[tuple[Callable[[str], Array], str]]:
    """Gains of the same length, of this layer and the final one."""
    weights = case.weights
    of_layer = ("attn_norm", "mlp_norm", "attn_q_norm", "attn_k_norm", "final_norm")
    for other in of_layer if gain != "final_norm" else ():
        own, name = case.whole_name(gain), case.whole_name(other) if other != "final_norm" else other
        if other == gain or name not in weights or weights.shapes[name] != weights.shapes[own]:
            continue

        def instead(name: str, other: str = other) -> Array:
            layer = name.rpartition(".")[0]
            return case.weights.array(other if other == "final_norm" or not layer else f"{layer}.{other}")

        yield instead, other
    last = f"layer{len(case.rules.windows) - 1}."
    for other in ("attn_norm", "mlp_norm") if gain == "final_norm" else ():
        yield (lambda name, other=other: weights.array(last + other)), last + other  # type: ignore[misc]


def skipped_norms(case: Case) -> Iterator[Hypothesis]:
    """Products that read the stream instead of its norm, q and k whose norm is left out or comes late."""
    rules, inputs = case.rules, case.rules.inputs
    reads = {
        "attn": {f"attn_{n}": ("stream",) for n in "qkv"},
        "mlp": {f"mlp_{n}": ("attn.residual",) for n in ("gate", "up") if f"mlp.{n}" in inputs},
        "final": {"logits": ("last",)},
    }
    for stage, read in reads.items():
        kinds = {kind.replace("_", ".", 1) for kind in read} & case.kinds
        if kinds and any(
            inputs[kind] != own for kind, own in zip(sorted(kinds), read.values(), strict=False)
        ):
            words = "the final norm is missing" if stage == "final" else "the stream goes in without its norm"
            yield Hypothesis(f"{stage}-norm-missing", f"{words}", rules.reading(**read))
    if case.kinds & {"attn.q_rope", "attn.k_rope"} and "attn.q_norm" in inputs:
        bare = rules.reading(attn_q_rope=("attn.q",), attn_k_rope=("attn.k",))
        yield Hypothesis("qk-norm-missing", "the norm of q and k is missing", bare)
        late = replace(bare, norm_after_rotation=True)
        yield Hypothesis("qk-norm-late", LATE, late)
    if case.kinds & {"attn.q_norm", "attn.k_norm"}:
        yield Hypothesis("qk-norm-late", LATE, replace(rules, rotation_before_norm=True))
