"""Mistakes of norms: what they divide by, their eps, their gain, what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...architecture.operations.by_kind import reference
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.kinds import Kind, Linear, Norm, Rotation
from ...architecture.plans.plan import Operation, Plan, kind_of, layer_of
from ...arrays.stats import Array
from ..case import Case, Change
from ..hypothesis import Family, Hypothesis
from .changes import Compute, computed, of_kind, reading, with_attributes, with_instead

USUAL_EPS = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)
POWERS = (0.25, 2.0)  # of the mean square, 0.5 being right
EXPONENTS = (1.0, 1.5, 3.0, 4.0, 8.0)  # of the mean, 2 being right
Size = Callable[[Array, float], Array]  # from rows and eps what divides each row
LATE = "the norm of q and k comes after RoPE, not before"
UNBIASED = "the sum of squares is divided by one less than there are (an unbiased variance)"


def norms(case: Case) -> Iterator[Hypothesis | Family]:
    """Norms without a mean square, with a mean or a sum, their gain missing or changed."""
    kinds = case.kinds(Norm)
    if not kinds:
        return
    yield from _gains(case)
    every, biases = {kind_of(kind.gain) for kind in case.plan.kinds(Norm) if kind.gain}, case.biases(Norm)
    without = case.changed(every, np.ones_like) | case.changed(biases, np.zeros_like)
    kept = _divided(with_attributes(case.plan, Norm, centred=False), _mean_of(power=0.0))
    what, centred = "gain and bias" if biases else "gain", kinds[0].centred
    yield Hypothesis("norm-missing", f"the norm is skipped, its {what} too", with_instead(kept, without))
    words = "not subtracted (RMSNorm, not LayerNorm)" if centred else "subtracted (LayerNorm, not RMSNorm)"
    other = with_attributes(case.plan, Norm, centred=not centred)
    yield Hypothesis("layernorm", f"the mean is {words}", other)

    def divided(id: str, claim: str, size: Size, per_head: bool = True) -> Hypothesis:
        return Hypothesis(id, claim, _divided(case.plan, size, per_head))

    if centred:
        yield Hypothesis("norm-skipped", f"the norm is skipped, its {what} kept", kept)
        yield divided("norm-unbiased", UNBIASED, _sum_over(lambda n: max(1, n - 1)))
    yield divided("norm-summed", "the squares are summed, their mean is not taken", _sum_over(lambda n: 1))
    if any(kind.head_dim for kind in kinds):
        claim = "the norm goes over the whole row, not over each head"
        yield divided("norm-of-row", claim, _mean_of(), per_head=False)
    claim = f"eps {kinds[0].eps:g} is added outside the root"
    yield divided("eps-outside", claim, lambda x, eps: _mean_of()(x, 0.0) + eps)


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
    skipped = ("norm-skipped", "the norm is skipped, its gain kept")
    skipped = ("norm-power", "the mean is subtracted, nothing divides") if kind.centred else skipped
    rootless = ("norm-power", "the root is missing: the mean square itself divides")
    yield Family(
        "norm-power", lambda power: _divided(case.plan, _mean_of(power=power)),
        "the mean square (with eps) is raised to {}, not to 0.5 (the root)".format,
        own=0.5, starts=POWERS, usual=POWERS, special={0.0: skipped, 1.0: rootless},
        low=-8.0, high=8.0, pivot=None, unit=1.0,
    )  # fmt: skip
    yield Family(
        "norm-exponent", lambda exponent: _divided(case.plan, _mean_of(exponent, 1 / exponent)),
        "the norm has exponent {}, not 2: mean(|x|^p)^(1/p)".format,
        own=2.0, starts=EXPONENTS, usual=EXPONENTS, low=0.5, high=8.0,
    )  # fmt: skip


def _gains(case: Case) -> Iterator[Hypothesis | Family]:
    """The gain missing (the bias too), with a number added, or squared."""
    own, biases = [norm.weight for norm in case.parameters(Norm)], case.biases(Norm)
    if not own:
        return
    for chosen in [own] if len(own) == 1 else [own, *([gain] for gain in own)]:
        yield from _changed_gains(case, chosen)
    if biases:
        without = case.changed(own, np.ones_like) | case.changed(biases, np.zeros_like)
        claim = f"the norm's gain and bias ({', '.join((*own, *biases))}) are missing"
        yield Hypothesis("gain-missing", claim, with_instead(case.plan, without))


def _changed_gains(case: Case, chosen: Sequence[str]) -> Iterator[Hypothesis | Family]:
    words = f"the norm's gain ({', '.join(chosen)})"

    def gains(change: Change) -> Plan:
        return with_instead(case.plan, case.changed(chosen, change))

    yield Hypothesis("gain-missing", f"{words} is missing", gains(np.ones_like))
    yield Hypothesis("gain-twice", f"{words} is applied twice", gains(np.square))
    yield Family(
        "gain-plus", lambda added: gains(lambda gain: gain + added), f"{words} has {{}} added to it".format,
        special={1.0: ("gain-plus-one", f"{words} has 1 added to it (as Gemma does)")},
        own=0.0, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def skipped_norms(case: Case) -> Iterator[Hypothesis]:
    """Products that read the stream instead of its norm, q and k whose norm is left out or comes late."""
    plan, past = case.plan, dict[str, str]()
    for norm in (plan[row.inputs[0]] for row in case.of(Linear)):
        if isinstance(norm.kind, Norm) and not norm.kind.head_dim:
            past.setdefault(kind_of(norm.name).partition(".")[0], norm.name)
    for stage, name in past.items():
        words = "the stream goes in without its norm"
        words = words if layer_of(name) is not None else "the final norm is missing"
        yield Hypothesis(f"{stage}-norm-missing", words, _past(plan, kind_of(name)))
    if any(_of_head_norm(plan, row) for row in case.of(Rotation)):
        bare = reading(plan, of_kind(Rotation), lambda row: (plan.source(row.name),))
        yield Hypothesis("qk-norm-missing", "the norm of q and k is missing", bare)
        yield Hypothesis("qk-norm-late", LATE, bare.changed(lambda row: _normed_late(plan, row)))
    if any(kind.head_dim for kind in case.kinds(Norm)):
        yield Hypothesis("qk-norm-late", LATE, plan.changed(lambda row: _turned_early(plan, row)))


def _past(plan: Plan, norm: str) -> Plan:
    """The plan where products read what goes into the norms of that name."""

    def change(row: Operation) -> tuple[str, ...]:
        return tuple(plan[name].inputs[0] if kind_of(name) == norm else name for name in row.inputs)

    return reading(plan, of_kind(Linear), change)


def _of_head_norm(plan: Plan, row: Operation) -> Norm | None:
    """The norm of heads that a rotation reads."""
    norm = plan[row.inputs[0]].kind if isinstance(row.kind, Rotation) else None
    return norm if isinstance(norm, Norm) and norm.head_dim else None


def _normed_late(plan: Plan, row: Operation) -> Operation:
    """A rotation with the norm after it that was before it."""
    norm = _of_head_norm(plan, plan[row.name])
    return row if norm is None else replace(row, otherwise=_in_turn(row.kind, norm))


def _turned_early(plan: Plan, row: Operation) -> Operation:
    """A norm of heads of what is turned already, and a rotation that passes it on."""
    if _of_head_norm(plan, row):
        return replace(row, otherwise=lambda row, given, x: x)
    turned = (plan[name] for name in plan.readers[row.name])
    rotation = next((reader.kind for reader in turned if _of_head_norm(plan, reader)), None)
    return row if rotation is None else replace(row, otherwise=_in_turn(rotation, row.kind))


def _in_turn(*kinds: Kind) -> Compute:
    """Computes what one kind gives of what the other gives."""

    def compute(row: Operation, given: ReferenceInputs, x: Array) -> Array:
        for kind in kinds:
            x = reference(replace(row, kind=kind, otherwise=None), given, x)
        return x

    return compute
