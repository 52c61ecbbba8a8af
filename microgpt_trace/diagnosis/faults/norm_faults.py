"""Mistakes in norms: a wrong divisor, eps or gain, and norms that are missing or computed late."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial as bind

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.reference_inputs import ReferenceInputs
from ...plans.kinds import Kind, Linear, Norm, Rotation
from ...plans.plan import Operation, Plan, kind_of, layer_of, prefix_of
from ..case import Case, Change
from ..hypothesis import Family, Hypothesis
from .changes import Compute, called, computed, of_kind, reading, with_attributes, with_instead

USUAL_EPS = (1e-3, 1e-4, 1e-5, 1e-6, 0.0)
POWERS = (0.25, 2.0)  # wrong powers of the mean square; 0.5 is right
EXPONENTS = (1.0, 1.5, 3.0, 4.0, 8.0)  # wrong powers of the elements in the mean; 2 is right
Size = Callable[[Array, float], Array]  # (rows, eps) -> the divisor of each row
Width = Callable[[Operation[Norm]], "int | None"]
LATE = "the norm of q and k is computed after RoPE, not before RoPE"
HEADS: dict[str, Change] = {  # ways to confuse the gains of heads, [H, D]
    "all heads have the gain of head 0": lambda gain: np.broadcast_to(gain[:1], gain.shape),
    "head h has the gain of head h + 1": lambda gain: np.roll(gain, -1, axis=0),
    "head h has the gain of head h - 1": lambda gain: np.roll(gain, 1, axis=0),
    "the heads are in reverse order": lambda gain: gain[::-1],
    "the gains of the heads alternate": lambda gain: gain.T.reshape(gain.shape),
}
UNBIASED = "the sum of squares is divided by n - 1, not by n (an unbiased variance)"


def norms(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a norm is skipped, has another gain or divisor, or treats the mean wrongly."""
    kinds = case.rows.kinds(Norm)
    if not kinds:
        return
    yield from _gains(case)
    every, biases = {kind_of(kind.gain) for kind in case.plan.kinds(Norm) if kind.gain}, case.biases(Norm)
    without = case.changed(every, np.ones_like) | case.changed(biases, np.zeros_like)
    kept = _divided(with_attributes(case.plan, Norm, centred=False), _mean_of(power=0.0))
    what, centred = "gain and bias" if biases else "gain", kinds[0].centred
    claim = "the norm is skipped" + f", including its {what}" * any(kind.names for kind in kinds)
    yield Hypothesis("norm-missing", claim, with_instead(kept, without))
    words = "not subtracted (RMSNorm, not LayerNorm)" if centred else "subtracted (LayerNorm, not RMSNorm)"
    other = with_attributes(case.plan, Norm, centred=not centred)
    yield Hypothesis("layernorm", f"the mean is {words}", other)

    def divided(id: str, claim: str, size: Size, *width: Width) -> Hypothesis:
        return Hypothesis(id, claim, _divided(case.plan, size, *width))

    if centred:
        yield Hypothesis("norm-skipped", f"the norm applies only its {what}", kept)
        yield divided("norm-unbiased", UNBIASED, _sum_over(lambda n: max(1, n - 1)))
    claim = "the norm divides by the root of the sum of squares, not of the mean of squares"
    yield divided("norm-summed", claim, _sum_over(lambda n: 1))
    if any(kind.head_dim for kind in kinds):
        claim = "the norm is computed over the whole row, not over each head"
        yield divided("norm-of-row", claim, _mean_of(), lambda row: None)
    heads = {name: own.dim for name, own in case.plan.heads.items()}
    of_heads = any(row.name in heads for row in case.rows.of_kind(Norm))
    if of_heads and None in [kind.head_dim for kind in kinds]:
        claim = "the norm is computed over each head, not over the whole row"
        yield divided("norm-of-head", claim, _mean_of(), lambda row: heads.get(row.name))
    claim = f"eps {kinds[0].eps:g} is added outside the square root"
    yield divided("eps-outside", claim, lambda x, eps: _mean_of()(x, 0.0) + eps)


def _divided(plan: Plan, size: Size, width: Width = lambda row: row.kind.head_dim) -> Plan:
    """Return the plan in which all norms divide by `size`. `width` returns the width of a normed head, or
    None for the whole row. A gain or bias that is narrower than a row is repeated."""

    def compute(row: Operation[Norm], given: ReferenceInputs, x: Array) -> Array:
        kind, heads = row.kind, x.reshape(len(x), -1, width(row) or x.shape[1])

        def along_row(name: str) -> Array:
            vector = given.parameter(row, name).ravel()
            return np.tile(vector, x.shape[1] // len(vector)).reshape(heads.shape[1:])

        if kind.centred:
            heads = heads - heads.mean(axis=-1, keepdims=True)
        y = heads / size(heads, kind.eps) * (1 if kind.gain is None else along_row(kind.gain))
        return (y if kind.bias is None else y + along_row(kind.bias)).reshape(x.shape)

    return computed(plan, of_kind(Norm), compute)


def _mean_of(exponent: float = 2.0, power: float = 0.5) -> Size:
    """Return a function that computes the divisor (mean(|x|^exponent) + eps)^power."""
    return lambda x, eps: ((np.abs(x) ** exponent).mean(axis=-1, keepdims=True) + eps) ** power


def _sum_over(count: Callable[[int], int]) -> Size:
    """Return a function that computes the divisor sqrt(sum(x^2) / count(n) + eps) of rows of n elements."""
    return lambda x, eps: np.sqrt(np.square(x).sum(axis=-1, keepdims=True) / count(x.shape[-1]) + eps)


def numbers(case: Case) -> Iterator[Family]:
    """Yield hypotheses: a norm uses another eps, power or exponent."""
    kind = case.kind(Norm)
    if kind is None:
        return
    yield Family(
        "eps", lambda eps: with_attributes(case.plan, Norm, eps=eps),
        f"eps is {{}}, the model says {kind.eps:.3g}".format,
        own=kind.eps, starts=USUAL_EPS, usual=USUAL_EPS, pivot=kind.eps,
    )  # fmt: skip
    skipped = ("norm-skipped", "the norm applies only its gain")
    if not kind.names:
        skipped = ("norm-missing", "the norm is skipped")
    if kind.centred:
        skipped = ("norm-power", "the norm only subtracts the mean, and does not divide")
    rootless = ("norm-power", "the norm divides by the mean square, without a square root")
    yield Family(
        "norm-power", lambda power: _divided(case.plan, _mean_of(power=power)),
        "the mean square (with eps) is raised to the power {}, not 0.5 (square root)".format,
        own=0.5, starts=POWERS, usual=POWERS, special={0.0: skipped, 1.0: rootless},
        low=-8.0, high=8.0, pivot=None, unit=1.0,
    )  # fmt: skip
    yield Family(
        "norm-exponent", lambda exponent: _divided(case.plan, _mean_of(exponent, 1 / exponent)),
        "the norm has exponent {}, not 2: mean(|x|^p)^(1/p)".format,
        own=2.0, starts=EXPONENTS, usual=EXPONENTS, low=0.5, high=8.0,
    )  # fmt: skip


def _gains(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a gain is missing, applied twice or increased, or gain and bias are missing."""
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
    for claim, change in HEADS.items() if any(kind.by_head for kind in case.rows.kinds(Norm)) else ():
        yield Hypothesis("gain-of-head", f"{words} is that of another head: {claim}", gains(change))
    yield Family(
        "gain-plus", lambda added: gains(lambda gain: gain + added), f"{{}} is added to {words}".format,
        special={
            1.0: ("gain-plus-one", f"1 is added to {words} (as in Gemma)"),
            -1.0: ("gain-minus-one", f"1 is subtracted from {words} (files of Gemma store the gain less 1)"),
        },
        own=0.0, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def other_streams(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the norm before the MLP reads the layer's input instead of the stream after
    attention, or the reverse. Parallel branches may read one norm."""
    plan, row = case.plan, case.row
    if row.layer is None or row.stage != "mlp":
        return
    norm = row if isinstance(row.kind, Norm) else plan[row.inputs[0]]
    if not isinstance(norm.kind, Norm) or (norm is not row and norm.stage == "mlp"):
        return
    if row.inputs[0] in plan.residuals:
        first = reading(plan, called(row.name), lambda own: (plan.streams[own.layer or 0],))
        claim = "the norm reads the layer's input, not the stream after attention (parallel branches)"
        yield Hypothesis("norm-of-layer-input", claim, first)
    earlier = [own.name for own in plan.layers[row.layer] if plan.order[own.name] < plan.order[row.name]]
    for branch in [name for name in earlier if plan.branches.get(name) == norm.inputs[0]][:1]:
        claim = "the norm reads the stream after attention, not the layer's input (sequential branches)"
        yield Hypothesis("norm-after-attention", claim, plan.changed(bind(_after_branch, case, branch)))


def _after_branch(case: Case, branch: str, row: Operation) -> Operation:
    """Return the row of a norm before the MLP, or a row that reads a norm, with the branch of attention added
    to the layer's input."""
    stream = case.plan.streams[row.layer or 0]
    norm = row if row.inputs == (stream,) else case.plan[row.inputs[0]] if row.inputs else row
    if not called(case.name)(row) or norm.inputs != (stream,):
        return row

    def compute(_: Operation, given: ReferenceInputs, stream: Array, added: Array) -> Array:
        normed = reference(norm, given, stream + added)
        return normed if norm is row else reference(row, given, normed)

    return replace(row, inputs=(stream, prefix_of(row.name) + kind_of(branch)), otherwise=compute)


def skipped_norms(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a norm of the residual stream is missing, or a norm of q and k is missing or late."""
    plan, norms_read = case.plan, dict[str, str]()
    for norm in (plan[row.inputs[0]] for row in case.rows.of_kind(Linear)):
        of_stream = norm.inputs and norm.inputs[0] in {*plan.streams, *plan.residuals}
        if isinstance(norm.kind, Norm) and of_stream:
            norms_read.setdefault(kind_of(norm.name).partition(".")[0], norm.name)
    for stage, name in norms_read.items():
        final = layer_of(name) is None
        claim = "the final norm is missing" if final else "the norm of the residual stream is missing"
        yield Hypothesis(f"{stage}-norm-missing", claim, _without_norm(plan, kind_of(name)))
    if any(_head_norm(plan, row) for row in case.rows.of_kind(Rotation)):
        bare = reading(plan, of_kind(Rotation), lambda row: (plan.source(row.name),))
        yield Hypothesis("qk-norm-missing", "the norm of q and k is missing", bare)
        yield Hypothesis("qk-norm-late", LATE, bare.changed(lambda row: _normed_late(plan, row)))
    if any(kind.head_dim for kind in case.rows.kinds(Norm)):
        yield Hypothesis("qk-norm-late", LATE, plan.changed(lambda row: _rotated_early(plan, row)))


def _without_norm(plan: Plan, norm: str) -> Plan:
    """Return the plan without the norms of this name: products read the input of the norms."""

    def change(row: Operation) -> tuple[str, ...]:
        return tuple(plan[name].inputs[0] if kind_of(name) == norm else name for name in row.inputs)

    return reading(plan, of_kind(Linear), change)


def _head_norm(plan: Plan, row: Operation) -> Norm | None:
    """Return the norm of heads that is the input of a rotation, or None."""
    norm = plan[row.inputs[0]].kind if isinstance(row.kind, Rotation) else None
    return norm if isinstance(norm, Norm) and norm.head_dim else None


def _normed_late(plan: Plan, row: Operation) -> Operation:
    """Compute a norm of heads after a rotation instead of before the rotation."""
    norm = _head_norm(plan, plan[row.name])
    return row if norm is None else replace(row, otherwise=_in_sequence(row.kind, norm))


def _rotated_early(plan: Plan, row: Operation) -> Operation:
    """Compute a rotation before a norm of heads, and let the row of the rotation return its input."""
    if _head_norm(plan, row):
        return replace(row, otherwise=lambda row, given, x: x)
    readers = (plan[name] for name in plan.readers[row.name])
    rotation = next((reader.kind for reader in readers if _head_norm(plan, reader)), None)
    return row if rotation is None else replace(row, otherwise=_in_sequence(rotation, row.kind))


def _in_sequence(*kinds: Kind) -> Compute:
    """Return a function that computes operations of these kinds one after another."""

    def compute(row: Operation, given: ReferenceInputs, x: Array) -> Array:
        for kind in kinds:
            x = reference(replace(row, kind=kind, otherwise=None), given, x)
        return x

    return compute
