"""Mistakes of activations, gates and sums: what takes no matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial as bind

import numpy as np

from ..arrays.stats import Array
from .fitting import COMBINED, Family
from .formulas import ACTIVATIONS, leaky, swish
from .hypotheses import Case, Hypothesis
from .operations import normalise
from .rules import Rules

ALIKE = 1e-4  # factors of a sum's parts no farther apart are one factor of the whole
STEEP = 20.0  # a swish of that slope is a ReLU


def activations(case: Case) -> Iterator[Hypothesis | Family]:
    """Another activation function."""
    if "mlp.act" not in case.kinds:
        return
    rules, own = case.rules, case.rules.activation
    for name in ACTIVATIONS:
        if name != own:
            claim = f"the activation is {name}, not {own}".replace("is no activation, not", "is missing, not")
            yield Hypothesis("activation", claim, replace(rules, activation=name))
    yield Family(
        "activation", lambda slope: replace(rules, act=leaky(slope)),
        f"the activation is leaky ReLU ({{}}), not {own}".format,
        starts=(0.01, 0.1), usual=(0.01, 0.1, 0.2), low=-1.0, high=1.0, pivot=None, unit=0.05,
        silent=(0.0, 1.0),
    )  # fmt: skip
    quick = f"the activation is GELU by 1.702 (the quick one), not {own}"
    yield Family(
        "activation", lambda slope: replace(rules, act=swish(slope)),
        f"the activation is x * sigmoid({{}} x), not {own}".format,
        own=1.0 if own == "SiLU" else None, starts=(0.25, 0.5, 3.0, 6.0),
        special={1.702: ("activation", quick)}, high=STEEP, silent=(1.0, STEEP),
    )  # fmt: skip


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


def sums(case: Case) -> Iterator[Hypothesis | Family]:
    """Parts of a residual sum that are missing, doubled, or not the stream."""
    rules = case.rules
    for kind in SUMS.keys() & case.kinds:
        yield from _scaled_parts(rules, kind)
    yield from _post_norms(case)
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
            yield Hypothesis("parts-scaled", f"the sum is of {words}", rules, rank=COMBINED)


def _post_norms(case: Case) -> Iterator[Hypothesis]:
    """A norm after the sum, or of what is added: architectures that norm later."""
    if case.kind not in SUMS or not case.alone:
        return
    branch = SUMS[case.kind][1]
    for gain in ("", *(own for own in ("attn_norm", "mlp_norm") if case.layer is not None and case.has(own))):
        words = f"with the gain {gain}" if gain else "without a gain"
        claim = f"the sum is normed, {words} (post-norm)"
        yield Hypothesis("post-norm", claim, None, bind(_normed_sum, gain))
        claim = f"the {branch} is normed before it is added, {words}"
        yield Hypothesis("branch-normed", claim, None, bind(_sum_of_normed, gain))


def _normed_sum(gain: str, case: Case, expected: Array) -> Array:
    return normalise(case.rules, expected, _own_gain(case, gain))


def _sum_of_normed(gain: str, case: Case, expected: Array) -> Array:
    stream, branch = case.inputs
    return stream + normalise(case.rules, branch, _own_gain(case, gain))


def _own_gain(case: Case, gain: str) -> Array | np.float64:
    return case.weights.array(case.prefix + gain) if gain else np.float64(1)


def _scaled_parts(rules: Rules, kind: str) -> Iterator[Family]:
    """One of the parts times a number."""
    for place, part in enumerate(SUMS[kind]):

        def at(factor: float, place: int = place) -> Rules:
            factors = (factor, 1.0) if place == 0 else (1.0, factor)
            return replace(rules, parts={**rules.parts, kind: factors})

        yield Family(
            "part-scaled", at, f"the {part} is multiplied by {{}} in the residual sum".format,
            own=1.0, usual=(0.5, 0.25),
            special={
                0.0: ("part-missing", f"the {part} is missing from the residual sum"),
                2.0: ("part-twice", f"the {part} is added twice (residual)"),
                -1.0: ("part-negated", f"the {part} is subtracted"),
            },
            low=-math.inf, pivot=None, unit=1.0,
        )  # fmt: skip


def measured_factors(case: Case) -> tuple[float, float] | None:
    """The factors of both parts, by least squares."""
    parts = np.stack([value.ravel() for value in case.inputs], axis=1)
    known = np.isfinite(parts).all(axis=1) & np.isfinite(case.found.ravel())
    if np.count_nonzero(known) < 2:
        return None
    first, second = np.linalg.lstsq(parts[known], case.found.ravel()[known].astype(np.float64), rcond=None)[0]
    return float(first), float(second)
