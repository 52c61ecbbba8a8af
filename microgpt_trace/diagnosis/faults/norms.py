"""Mistakes of norms: what they divide by, their eps, their gain, what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...architecture.operations.by_kind import reference
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.kinds import Kind, Linear, Norm, Rotation
from ...architecture.plans.plan import Operation, Plan, kind_of
from ...arrays.stats import Array
from ..fitting import Family
from ..hypothesis import Case, Hypothesis
from .changes import Compute, computed, of_kind, reading, with_attributes, with_instead

USUAL_EPS = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)
POWERS = (0.25, 2.0)  # of the mean square, 0.5 being right
EXPONENTS = (1.0, 1.5, 3.0, 4.0, 8.0)  # of the mean, 2 being right
Size = Callable[[Array, float], Array]  # from rows and eps what divides each row
LATE = "the norm of q and k comes after RoPE, not before"


def norms(case: Case) -> Iterator[Hypothesis | Family]:
    """Norms without a mean square, with a mean or a sum, their gain missing or changed."""
    kinds = case.kinds(Norm)
    if not kinds:
        return
    yield from _gains(case)
    every, biases = {kind_of(kind.gain) for kind in case.plan.kinds(Norm) if kind.gain}, case.biases(Norm)
    without = case.changed(every, np.ones_like) | case.changed(biases, np.zeros_like)
    kept = _divided(with_attributes(case.plan, Norm, centred=False), _mean_of(power=0.0))
    what = "gain and bias" if biases else "gain"
    yield Hypothesis("norm-missing", f"the norm is skipped, its {what} too", with_instead(kept, without))
    centred = not kinds[0].centred
    words = "the mean is subtracted (LayerNorm, not RMSNorm)"
    words = words if centred else "the mean is not subtracted (RMSNorm, not LayerNorm)"
    yield Hypothesis("layernorm", words, with_attributes(case.plan, Norm, centred=centred))
    if not centred:  # it is centred
        yield Hypothesis("norm-skipped", f"the norm is skipped, its {what} kept", kept)
        claim = "the sum of squares is divided by one less than there are (an unbiased variance)"
        yield Hypothesis("norm-unbiased", claim, _divided(case.plan, _sum_over(lambda n: max(1, n - 1))))
    claim = "the squares are summed, their mean is not taken"
    yield Hypothesis("norm-summed", claim, _divided(case.plan, _sum_over(lambda n: 1)))
    if any(kind.head_dim for kind in kinds):
        claim = "the norm goes over the whole row, not over each head"
        yield Hypothesis("norm-of-row", claim, _divided(case.plan, _mean_of(), per_head=False))
    outside = _divided(case.plan, lambda x, eps: _mean_of()(x, 0.0) + eps)
    yield Hypothesis("eps-outside", f"eps {kinds[0].eps:g} is added outside the root", outside)


def _divided(plan: Plan, size: Size, per_head: bool = True) -> Plan:
    """The plan where every norm divides by something else, or the rows of heads as a whole, with a head's
    gain along all of the row."""

    def compute(row: Operation[Norm], given: ReferenceInputs, x: Array) -> Array:
        kind, gain = row.kind, np.ones(1)
        heads = x.reshape(len(x), -1, (per_head and kind.head_dim) or x.shape[1])
        if kind.centred:
            heads = heads - heads.mean(axis=-1, keepdims=True)
        if kind.gain is not None:
            gain = given.parameter(row, kind.gain)
            gain = np.tile(gain, heads.shape[-1] // len(gain))
        y = heads / size(heads, kind.eps) * gain
        return (y if kind.bias is None else y + given.parameter(row, kind.bias)).reshape(x.shape)

    return computed(plan, of_kind(Norm), compute)


def _mean_of(exponent: float = 2.0, power: float = 0.5) -> Size:
    """The mean of a power of |x|, with eps, to another power."""
    return lambda x, eps: ((np.abs(x) ** exponent).mean(axis=-1, keepdims=True) + eps) ** power


def _sum_over(size: Callable[[int], int]) -> Size:
    """The root of the sum of squares over a number that follows from how many there are."""
    return lambda x, eps: np.sqrt(np.square(x).sum(axis=-1, keepdims=True) / size(x.shape[-1]) + eps)


def numbers(case: Case) -> Iterator[Family]:
    """Another eps, power of the mean square or exponent of the mean."""
    kind = case.kind(Norm)
    if kind is None:
        return
    yield Family(
        "eps", lambda eps: with_attributes(case.plan, Norm, eps=eps),
        f"eps is {{}}, the model says {kind.eps:.3g}".format,
        own=kind.eps, starts=USUAL_EPS, usual=USUAL_EPS, pivot=kind.eps,
    )  # fmt: skip
    claim = "the mean square (with eps) is raised to {}, not to 0.5 (the root)".format
    yield Family(
        "norm-power", lambda power: _divided(case.plan, _mean_of(power=power)), claim,
        own=0.5, starts=POWERS, usual=POWERS,
        special={
            0.0: ("norm-power", "the mean is subtracted, nothing divides")
            if kind.centred
            else ("norm-skipped", "the norm is skipped, its gain kept"),
            1.0: ("norm-power", "the root is missing: the mean square itself divides"),
        },
        low=-8.0, high=8.0, pivot=None, unit=1.0,
    )  # fmt: skip
    claim = "the norm has exponent {}, not 2: mean(|x|^p)^(1/p)".format
    yield Family(
        "norm-exponent", lambda exponent: _divided(case.plan, _mean_of(exponent, 1 / exponent)), claim,
        own=2.0, starts=EXPONENTS, usual=EXPONENTS, low=0.5, high=8.0,
    )  # fmt: skip


def _gain_plus(case: Case, chosen: Sequence[str], words: str) -> Family:
    def at(added: float) -> Plan:
        return with_instead(case.plan, case.changed(chosen, lambda gain: gain + added))

    special = {1.0: ("gain-plus-one", f"{words} has 1 added to it (as Gemma does)")}
    return Family(
        "gain-plus", at, f"{words} has {{}} added to it".format,
        own=0.0, special=special, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _gains(case: Case) -> Iterator[Hypothesis | Family]:
    """The gain missing (the bias too), with 1 added, or squared."""
    own, biases = [norm.weight for norm in case.parameters(Norm)], case.biases(Norm)
    if not own:
        return
    changes: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
        ("gain-missing", "is missing", np.ones_like),
        ("gain-twice", "is applied twice", np.square),
    )
    for chosen in [own] if len(own) == 1 else [own, *([gain] for gain in own)]:
        words = f"the norm's gain ({', '.join(chosen)})"
        for id, what, change in changes:
            plan = with_instead(case.plan, case.changed(chosen, change))
            yield Hypothesis(id, f"{words} {what}", plan)
        yield _gain_plus(case, chosen, words)
    if biases:
        without = case.changed(own, np.ones_like) | case.changed(biases, np.zeros_like)
        claim = f"the norm's gain and bias ({', '.join((*own, *biases))}) are missing"
        yield Hypothesis("gain-missing", claim, with_instead(case.plan, without))


def skipped_norms(case: Case) -> Iterator[Hypothesis]:
    """Products that read the stream instead of its norm, q and k whose norm is left out or comes late."""
    seen = set[str]()
    for row in case.of(Linear):
        norm = case.plan[row.inputs[0]]
        stage = kind_of(norm.name).partition(".")[0]
        if isinstance(norm.kind, Norm) and not norm.kind.head_dim and stage not in seen:
            seen.add(stage)
            words = "the stream goes in without its norm"
            words = words if norm.layer is not None else "the final norm is missing"
            yield Hypothesis(f"{stage}-norm-missing", words, _past(case, kind_of(norm.name), Linear))
    turned = [row for row in case.of(Rotation) if _of_head_norm(case.plan, row)]
    if turned:
        bare = reading(case.plan, of_kind(Rotation), lambda row: (case.plan.source(row.name),))
        yield Hypothesis("qk-norm-missing", "the norm of q and k is missing", bare)
        yield Hypothesis("qk-norm-late", LATE, bare.changed(lambda row: _normed_late(case.plan, row)))
    if any(isinstance(row.kind, Norm) and row.kind.head_dim for row in case.rows):
        yield Hypothesis("qk-norm-late", LATE, case.plan.changed(lambda row: _turned_early(case.plan, row)))


def _past(case: Case, norm: str, *kinds: type[Kind]) -> Plan:
    """The plan where rows of these kinds read what goes into the norms of that name."""

    def change(row: Operation) -> tuple[str, ...]:
        return tuple(case.plan[n].inputs[0] if kind_of(n) == norm else n for n in row.inputs)

    return reading(case.plan, of_kind(*kinds), change)


def _of_head_norm(plan: Plan, row: Operation) -> Operation | None:
    """The norm of heads that a rotation reads."""
    norm = plan[row.inputs[0]]
    return norm if isinstance(norm.kind, Norm) and norm.kind.head_dim else None


def _normed_late(plan: Plan, row: Operation) -> Operation:
    """A rotation with the norm after it that was before it."""
    norm = _of_head_norm(plan, plan[row.name]) if isinstance(row.kind, Rotation) else None
    return row if norm is None else replace(row, otherwise=_in_turn(row.kind, norm.kind))


def _turned_early(plan: Plan, row: Operation) -> Operation:
    """A norm of heads of what is turned already, and a rotation that passes it on."""
    if isinstance(row.kind, Rotation) and _of_head_norm(plan, row):
        return replace(row, otherwise=lambda row, given, x: x)
    rotation = next((plan[n] for n in plan.readers[row.name] if isinstance(plan[n].kind, Rotation)), None)
    if not (isinstance(row.kind, Norm) and row.kind.head_dim and rotation):
        return row
    return replace(row, otherwise=_in_turn(rotation.kind, row.kind))


def _in_turn(*kinds: Kind) -> Compute:
    """Computes what one kind gives of what the other gives."""

    def compute(row: Operation, given: ReferenceInputs, x: Array) -> Array:
        for kind in kinds:
            x = reference(replace(row, kind=kind, otherwise=None), given, x)
        return x

    return compute
