"""Mistakes of norms, activations and sums: what takes no matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..graph import kind_of
from ..stats import Array
from .formulas import ACTIVATIONS
from .hypotheses import Case, Hypothesis
from .rules import Rules

GAINS = {
    "attn.norm": "attn_norm", "mlp.norm": "mlp_norm", "final.norm": "final_norm",
    "attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm",
}  # fmt: skip
USUAL_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
LATE = "the norm of q and k comes after RoPE, not before"
ALIKE = 1e-4  # factors of a sum's parts no farther apart are one factor of the whole


def norms(case: Case) -> Iterator[Hypothesis]:
    """Norms without a mean square, with a mean, with another eps."""
    rules = case.rules
    if not any(kind.endswith("norm") for kind in case.kinds):
        return
    yield from _gains(case)
    yield Hypothesis("norm-skipped", "the norm is skipped, its gain kept", replace(rules, normalised=False))
    skipped = replace(rules, normalised=False).with_instead(_of_own(case, GAINS.values(), np.ones_like))
    yield Hypothesis("norm-missing", "the norm is skipped, its gain too", skipped)
    yield Hypothesis(
        "layernorm", "the mean is subtracted (LayerNorm, not RMSNorm)", replace(rules, centred=True)
    )
    if case.kinds & {"attn.q_norm", "attn.k_norm"}:
        claim = "the norm goes over the whole row, not over each head"
        yield Hypothesis("norm-of-row", claim, replace(rules, per_head=False))
    yield from _eps(case)


def _of_own(
    case: Case, kinds: Iterable[str], change: Callable[[Array], Array]
) -> dict[str, Callable[[str], Array]]:
    """What stands in the place of those parameters that the model has: a function of their own values."""
    known = {kind_of(name) for name in case.weights.shapes}
    return {kind: lambda name: change(case.weights.array(name)) for kind in kinds if kind in known}


def _gains(case: Case) -> Iterator[Hypothesis]:
    """The gain missing, with 1 added, squared, or that of another norm."""
    own = [gain for kind, gain in GAINS.items() if kind in case.kinds and case.has(gain)]
    if not own:
        return

    changes: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
        ("gain-missing", "is missing", np.ones_like),
        ("gain-plus-one", "has 1 added to it (as Gemma does)", lambda g: g + 1),
        ("gain-twice", "is applied twice", np.square),
    )
    for chosen in [own] if len(own) == 1 else [own, *([gain] for gain in own)]:
        words = f"the norm's gain ({', '.join(chosen)})"
        for id, what, change in changes:
            rules = case.rules.with_instead(_of_own(case, chosen, change))
            yield Hypothesis(id, f"{words} {what}", rules)
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


def _eps(case: Case) -> Iterator[Hypothesis]:
    """Another eps, measured where the dump has the norm's input, or outside the root."""
    rules = case.rules
    outside = replace(rules, eps_outside=True)
    yield Hypothesis("eps-outside", f"eps {rules.eps:g} is added outside the root", outside)
    if not (case.alone and case.kind.endswith("norm")):
        for eps in USUAL_EPS:
            if eps != rules.eps:
                yield Hypothesis("eps", _eps_claim(eps, rules), replace(rules, eps=eps))
        return
    measured = measured_eps(case)
    if not math.isfinite(measured):
        return
    near = [e for e in USUAL_EPS if math.isclose(e, measured, rel_tol=0.2)] if measured > 0 else [0.0]
    rounded = [float(f"{measured:.0e}")] if measured > 0 else []
    for eps in dict.fromkeys([*near, *rounded]):
        yield Hypothesis("eps", _eps_claim(eps, rules), replace(rules, eps=eps))
    if measured > 0:
        claim = _eps_claim(measured, rules) + " (measured)"
        yield Hypothesis("eps", claim, replace(rules, eps=measured), None, True)


def _eps_claim(eps: float, rules: Rules) -> str:
    return f"eps is {eps:.3g}, the model says {rules.eps:.3g}" if eps else f"eps {rules.eps:.3g} is missing"


def measured_eps(case: Case) -> float:
    """The eps of the row in which it matters most: 1 / factor^2 - mean square."""
    x, found = case.inputs[0], case.found.astype(np.float64)
    gain = GAINS.get(case.kind)
    own = case.weights.array(case.prefix + gain) if gain and case.has(gain) else np.ones(1)
    width = x.shape[1] if len(own) == 1 else len(own)
    x, found = x.reshape(-1, width), found.reshape(-1, width)
    usable = np.isfinite(x).all(axis=1) & np.isfinite(found).all(axis=1) & x.any(axis=1)
    x, scaled, found = x[usable], (x * own)[usable], found[usable]
    if not len(x):
        return math.nan
    squares = np.square(x).mean(axis=1)
    row = int(squares.argmin())
    factor = found[row] @ scaled[row] / (scaled[row] @ scaled[row])
    return float(1 / factor**2 - squares[row])


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


def activations(case: Case) -> Iterator[Hypothesis]:
    """Another activation function."""
    if "mlp.act" in case.kinds:
        for name in ACTIVATIONS:
            if name != case.rules.activation:
                claim = f"the activation is {name}, not {case.rules.activation}".replace(
                    "is no activation, not", "is missing, not"
                )
                yield Hypothesis("activation", claim, replace(case.rules, activation=name))


def gates(case: Case) -> Iterator[Hypothesis]:
    """Gate and up the wrong way round, the activation or one of the factors left out."""
    rules = case.rules
    if "mlp.hidden" not in rules.inputs:
        return
    if case.kinds & {"mlp.act", "mlp.hidden"}:
        swapped = rules.reading(mlp_act=("mlp.up",), mlp_hidden=("mlp.act", "mlp.gate"))
        if "mlp.act" in case.kinds:
            yield Hypothesis("gate-up-swapped", f"{rules.activation} is applied to up, not to gate", swapped)
        yield Hypothesis(
            "hidden-without-activation", "gate is multiplied with up without its activation",
            rules.reading(mlp_hidden=("mlp.gate", "mlp.up")),
        )  # fmt: skip
    if case.kind == "mlp.hidden":
        claim = f"your values are gate * {rules.activation}(up)"
        yield Hypothesis("gate-up-swapped", claim, None, _gate_times_act_of_up)
        yield Hypothesis(
            "act-times-gate", "the activation is multiplied with gate, not with up", None, _act_times_gate
        )
        yield Hypothesis("act-plus-up", "activation and up are added, not multiplied", None, _act_plus_up)
        yield Hypothesis("hidden-activation-missing-up", "up is not multiplied in", None, _act_alone)
    if "mlp.down" in case.kinds:
        yield Hypothesis("down-of-act", "up is not multiplied in", rules.reading(mlp_down=("mlp.act",)))
        yield Hypothesis("down-of-up", "the gate is not multiplied in", rules.reading(mlp_down=("mlp.up",)))


def _gate_times_act_of_up(case: Case, expected: Array) -> Array:
    return case.value("mlp.gate") * ACTIVATIONS[case.rules.activation](case.value("mlp.up"))


def _act_times_gate(case: Case, expected: Array) -> Array:
    return case.value("mlp.act") * case.value("mlp.gate")


def _act_plus_up(case: Case, expected: Array) -> Array:
    return case.value("mlp.act") + case.value("mlp.up")


def _act_alone(case: Case, expected: Array) -> Array:
    return case.value("mlp.act")


SUMS = {
    "embed.sum": ("token embedding", "position embedding"),
    "attn.residual": ("stream", "attention output"),
    "mlp.residual": ("stream", "MLP output"),
}


def sums(case: Case) -> Iterator[Hypothesis]:
    """Parts of a residual sum that are missing, doubled, or not the stream."""
    rules = case.rules
    for kind in SUMS.keys() & case.kinds:
        a, b = SUMS[kind]
        for id, factors, words in (
            ("part-missing", (0.0, 1.0), f"the {a} is missing from the residual sum"),
            ("part-missing", (1.0, 0.0), f"the {b} is missing from the residual sum"),
            ("part-twice", (1.0, 2.0), f"the {b} is added twice (residual)"),
            ("part-twice", (2.0, 1.0), f"the {a} is added twice (residual)"),
            ("part-negated", (1.0, -1.0), f"the {b} is subtracted"),
        ):
            yield Hypothesis(id, words, replace(rules, parts={**rules.parts, kind: factors}))
    if "attn.residual" in case.kinds:
        other = rules.reading(attn_residual=("attn.norm", "attn.out"))
        yield Hypothesis("sum-of-norm", "the norm of the stream is added, not the stream", other)
    if "mlp.residual" in case.kinds:
        other = rules.reading(mlp_residual=("mlp.norm", "mlp.down"))
        yield Hypothesis("sum-of-norm", "the norm of the stream is added, not the stream", other)
        other = rules.reading(mlp_residual=("stream", "mlp.down"))
        yield Hypothesis(
            "sum-of-earlier-stream", "the layer's input is added, not the stream after attention", other
        )
    if case.kind == "attn.residual" and case.layer == 0 and "embed.sum" in rules.inputs:
        other = rules.reading(attn_residual=("embed.sum", "attn.out"))
        yield Hypothesis("sum-of-unnormed", "the embedding before its norm is added", other)
    if case.kind in SUMS and case.alone:
        measured = measured_factors(case)
        if measured is not None and abs(measured[0] - measured[1]) > ALIKE * max(map(abs, measured)):
            words = " and ".join(
                f"{f:.5g} times the {part}" for f, part in zip(measured, SUMS[case.kind], strict=True)
            )
            rules = replace(rules, parts={**rules.parts, case.kind: measured})
            yield Hypothesis("part-scaled", f"the sum is of {words}", rules, None, True)


def measured_factors(case: Case) -> tuple[float, float] | None:
    """The factors of both parts, by least squares."""
    parts = np.stack([value.ravel() for value in case.inputs], axis=1)
    known = np.isfinite(parts).all(axis=1) & np.isfinite(case.found.ravel())
    if np.count_nonzero(known) < 2:
        return None
    first, second = np.linalg.lstsq(parts[known], case.found.ravel()[known].astype(np.float64), rcond=None)[0]
    return float(first), float(second)
