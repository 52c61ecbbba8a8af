"""Mistakes in element-wise operations: activations, gates, sums, factors, caps and clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial as bind
from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.elementwise import ACTIVATIONS
from ...operations.reference_inputs import ReferenceInputs
from ...plans.event_words import words_of_kind
from ...plans.kinds import Activation, Add, Cap, Clip, Experts, Linear, Multiply, Norm, Scale
from ...plans.plan import Operation, Plan, kind_of, prefix_of
from ..case import Case
from ..hypothesis import COMBINED, Family, Hypothesis, multiplied
from .changes import Which, called, computed, fed, of_kind, reading, with_attributes

ALIKE = 1e-4  # factors of the parts of a sum are equal below this relative difference
STEEP = 20.0  # with this slope, x * sigmoid(slope * x) is almost a ReLU
CAPS = (50.0, 30.0, 20.0)  # caps that models use


def activations(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: the activation is another function."""
    kind = case.kind(Activation)
    if kind is None:
        return
    plan, own = case.plan, kind.function
    for name, function in ACTIVATIONS.items():
        if name != own:
            yield Hypothesis("activation", f"the activation is {name}, not {own}", _activated(plan, function))
    yield Hypothesis("activation", f"the activation ({own}) is missing", _activated(plan, lambda x: x))
    if kind.learned:
        claim = "the two learned numbers, for inputs above 0 and below 0, are exchanged"
        yield Hypothesis("alphas-exchanged", claim, plan.changed(_with_alphas_exchanged))
    yield Family(
        "activation", lambda slope: _activated(plan, lambda x: np.where(x > 0, x, slope * x)),
        f"the activation is leaky ReLU with slope {{}}, not {own}".format,
        starts=(0.01, 0.1), usual=(0.01, 0.1, 0.2), low=-1.0, high=1.0, pivot=None, unit=0.05,
        silent=(0.0, 1.0),
    )  # fmt: skip
    quick = f"the activation is QuickGELU, x * sigmoid(1.702 x), not {own}"
    yield Family(
        "activation", lambda slope: _activated(plan, lambda x: x * ACTIVATIONS["sigmoid"](slope * x)),
        f"the activation is x * sigmoid({{}} x), not {own}".format,
        own=1.0 if own == "SiLU" else None, starts=(0.25, 0.5, 3.0, 6.0),
        special={1.702: ("activation", quick)}, high=STEEP, silent=(1.0, STEEP),
    )  # fmt: skip


def _with_alphas_exchanged(row: Operation) -> Operation:
    if not isinstance(kind := row.kind, Activation):
        return row
    return replace(row, kind=replace(kind, learned=kind.learned[::-1]))


def _activated(plan: Plan, function: Callable[[Array], Array]) -> Plan:
    return computed(plan, of_kind(Activation), lambda row, given, x: function(x))


class Gated(NamedTuple):
    """The rows of a gated MLP: act = function(gate), hidden = act * up."""

    hidden: Operation
    act: str
    gate: str
    up: str
    function: str


def gated(case: Case, hidden: Operation) -> Gated | None:
    """Return the gated MLP of a row that computes act * up, or None for any other row."""
    for act, up in (hidden.inputs, hidden.inputs[::-1]) if isinstance(hidden.kind, Multiply) else ():
        row = case.plan[act]
        if isinstance(row.kind, Activation):
            return Gated(hidden, act, row.inputs[0], up, row.kind.function)
    return None


def gates(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a gated MLP exchanges gate and up, or the activation or a factor is missing."""
    for mlp in filter(None, (gated(case, row) for row in _products(case))):
        plan, hidden = case.plan, mlp.hidden.name
        gate, up = (words_of_kind(kind_of(name)) for name in (mlp.gate, mlp.up))
        if mlp.act in case.rows:
            swapped = fed(fed(plan, mlp.act, mlp.up), hidden, mlp.act, mlp.gate)
            claim = f"{mlp.function} is applied to {up}, not to {gate}"
            yield Hypothesis("gate-up-swapped", claim, swapped)
        if {mlp.act, hidden} & case.rows.keys():
            claim = f"{gate} is multiplied by {up} without an activation"
            yield Hypothesis("hidden-without-activation", claim, fed(plan, hidden, mlp.gate, mlp.up))
        if case.row is mlp.hidden:
            yield from _hidden(case, mlp, gate, up)
        for down in [row for row in case.rows.of_kind(Linear, Experts) if hidden in row.inputs]:
            for left, source, missing in (("act", mlp.act, up), ("up", mlp.up, gate)):
                claim = f"the multiplication by {missing} is missing"
                yield Hypothesis(f"down-of-{left}", claim, fed(plan, down.name, source, *down.inputs[1:]))


def _products(case: Case) -> list[Operation]:
    """Return the element-wise products among the case's rows, the rows' inputs, and the rows' readers."""
    rows, plan = case.rows.values(), case.plan
    near = {name for row in rows for name in (row.name, *row.inputs, *plan.readers[row.name])}
    return list({kind_of(row.name): row for row in plan.of_kind(Multiply) if row.name in near}.values())


def _hidden(case: Case, mlp: Gated, gate: str, up: str) -> Iterator[Hypothesis]:
    """Yield hypotheses: a gated MLP computes something else than act * up."""
    function, name = ACTIVATIONS[mlp.function], mlp.hidden.name

    def instead(id: str, claim: str, of: Callable[..., Array], *inputs: str) -> Hypothesis:
        plan = fed(case.plan, name, *inputs)
        return Hypothesis(id, claim, computed(plan, called(name), lambda row, given, *x: of(*x)))

    claim = f"your values are {gate} * {mlp.function}({up})"
    yield instead("gate-up-swapped", claim, lambda gate, up: gate * function(up), mlp.gate, mlp.up)
    claim = f"the activation is multiplied by {gate}, not by {up}"
    yield instead("act-times-gate", claim, np.multiply, mlp.act, mlp.gate)
    claim = f"the activation and {up} are added, not multiplied"
    yield instead("act-plus-up", claim, np.add, mlp.act, mlp.up)
    claim = f"the multiplication by {up} is missing"
    yield instead("hidden-activation-missing-up", claim, np.positive, mlp.act)


def _parts(case: Case, row: Operation) -> tuple[str, str]:
    """Name the two parts of a sum: "stream" for the residual stream, or names such as "MLP output"."""
    stream, _ = case.plan.residuals.get(row.name, ("", ""))
    first, second = ("stream" if n == stream else words_of_kind(kind_of(n)) for n in row.inputs)
    return first, second


def sums(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a part of a residual sum is missing, scaled, or replaced by another event."""
    rows = list({kind_of(row.name): row for row in case.rows.of_kind(Add)}.values())
    alone = isinstance(case.row.kind, Add) and case.alone
    for row in rows:
        yield from _scaled_parts(case, row)
    if alone:
        yield from _post_norms(case)
    for row in rows:
        if row.name in case.plan.residuals:
            yield from _other_streams(case, row)
    measured = measured_factors(case) if alone else None
    if measured is not None and abs(measured[0] - measured[1]) > ALIKE * max(map(abs, measured)):
        parts = zip(measured, _parts(case, case.row), strict=True)
        words = " plus ".join(f"{factor:.5g} times the {part}" for factor, part in parts)
        plan = _scaled(case, case.row, *measured)
        yield Hypothesis("parts-scaled", f"the sum is {words}", plan, rank=COMBINED)


def _other_streams(case: Case, row: Operation) -> Iterator[Hypothesis]:
    """Yield hypotheses: a sum adds another event instead of the stream: the norm of the stream, the layer's
    input, or the embedding before the norm."""
    plan, (stream, branch) = case.plan, case.plan.residuals[row.name]
    read_by = [plan[name] for name in plan.readers[stream]]
    for norm in [own.name for own in read_by if isinstance(own.kind, Norm) and own.layer == row.layer][:1]:
        claim = "the norm of the stream is added, not the stream"
        yield Hypothesis("sum-of-norm", claim, fed(plan, row.name, norm, branch))
    if stream != plan.streams[row.layer or 0]:
        earlier = reading(
            plan, called(row.name), lambda own: (plan.streams[own.layer or 0], plan.residuals[own.name][1])
        )
        claim = "the layer's input is added, not the stream after attention"
        yield Hypothesis("sum-of-earlier-stream", claim, earlier)
    elif row is case.row and isinstance(plan[stream].kind, Norm):
        unnormed = reading(plan, lambda own: own is row, lambda own: (plan[stream].inputs[0], branch))
        claim = "the sum adds the embedding instead of the norm of the embedding"
        yield Hypothesis("sum-of-unnormed", claim, unnormed)


def _post_norms(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the sum or the added branch is normed, as in other architectures."""
    plan, branch, sums = case.plan, _parts(case, case.row)[1], called(case.name)
    norms = [row for row in plan.of_kind(Norm) if row.layer == case.layer is not None]
    wide = [row.kind for row in norms if case.given.shapes[row.name] == case.given.shapes[case.name]]
    gained = [kind for kind in wide if kind.gain and not kind.head_dim]
    for norm in (replace(plan.kinds(Norm)[0], gain=None, bias=None), *gained):
        words = "without a gain" if norm.gain is None else f"with the gain {kind_of(norm.gain)}"
        of = bind(_normed, norm)
        normed = computed(plan, sums, lambda row, given, a, b, of=of: of(row, given, a + b))
        yield Hypothesis("post-norm", f"the sum is normed, {words} (post-norm)", normed)
        normed = computed(plan, sums, lambda row, given, a, b, of=of: a + of(row, given, b))
        yield Hypothesis("branch-normed", f"the {branch} is normed before it is added, {words}", normed)


def _normed(norm: Norm, row: Operation, given: ReferenceInputs, x: Array) -> Array:
    """Apply `norm` to x, with the parameters of the row's layer."""
    names = {"gain": norm.gain, "bias": norm.bias}
    own = {of: prefix_of(row.name) + kind_of(name) for of, name in names.items() if name}
    return reference(replace(row, kind=replace(norm, **own), otherwise=None), given, x)  # type: ignore[arg-type]


def _scaled(case: Case, row: Operation, first: float, second: float) -> Plan:
    """Return the plan with the parts of a sum multiplied by the factors `first` and `second`."""
    return computed(case.plan, called(row.name), lambda row, given, a, b: a * first + b * second)


def _scaled_parts(case: Case, row: Operation) -> Iterator[Family]:
    """Yield hypotheses: a part of a sum is multiplied by a number."""
    where = "residual sum" if row.name in case.plan.residuals else "sum"
    ways = (lambda factor: _scaled(case, row, factor, 1.0), lambda factor: _scaled(case, row, 1.0, factor))
    for part, at in zip(_parts(case, row), ways, strict=True):
        yield multiplied(
            "part", at, f"the {part}", f"is multiplied by {{}} in the {where}",
            f"is missing from the {where}", "is added twice (residual)", "is subtracted",
            usual=(0.5, 0.25),
        )  # fmt: skip


def measured_factors(case: Case) -> tuple[float, float] | None:
    """Fit a factor for each part of a sum by least squares. Return None if fewer than two elements are
    finite."""
    parts = np.stack([value.ravel() for value in case.inputs], axis=1)
    sums = case.found.ravel().astype(np.float64)
    finite = np.isfinite(parts).all(axis=1) & np.isfinite(sums)
    if np.count_nonzero(finite) < 2:
        return None
    first, second = np.linalg.lstsq(parts[finite], sums[finite], rcond=None)[0]
    return float(first), float(second)


def factors(case: Case) -> Iterator[Family]:
    """Yield hypotheses: values are not multiplied by their factor, or by another factor."""
    for row in {kind_of(row.name): row for row in case.rows.of_kind(Scale)}.values():
        own, words = row.kind.factor, words_of_kind(kind_of(row.inputs[0]))
        special = {
            1.0: ("factor-missing", f"the {words} is not multiplied by {own:.6g}"),
            1 / own: ("factor-inverted", f"the {words} is divided by {own:.6g}, not multiplied"),
            own * own: ("factor-twice", f"the {words} is multiplied by {own:.6g} twice"),
        }
        yield Family(
            "factor", lambda by, row=row: with_attributes(case.plan, called(row.name), factor=by),  # type: ignore[misc]
            f"the {words} is multiplied by {{}}, not by {own:.6g}".format, own=own, special=special,
            low=-math.inf, pivot=None, unit=abs(own),
        )  # fmt: skip


def caps(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a cap is missing, or has another limit."""
    for row in {kind_of(row.name): row for row in case.rows.of_kind(Cap)}.values():
        own, words = row.kind.limit, words_of_kind(kind_of(row.inputs[0]))
        missing = computed(case.plan, called(row.name), lambda row, given, x: x)
        yield Hypothesis("cap-missing", f"the cap of the {words} at {own:.6g} is missing", missing)
        yield Family(
            "cap", lambda limit, row=row: with_attributes(case.plan, called(row.name), limit=limit),  # type: ignore[misc]
            f"the cap of the {words} is {{}}, not {own:.6g}".format, own=own, starts=CAPS, usual=CAPS,
            low=1e-3 * own, high=16 * own,
        )  # fmt: skip


def clips(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a clip is missing, has another limit or another side, or does not add its number."""
    rows = list({kind_of(row.name): row for row in case.rows.of_kind(Clip)}.values())
    for row in rows:
        words, kind = words_of_kind(kind_of(row.inputs[0])), row.kind
        side, low = ("not", -math.inf) if math.isfinite(kind.low) else ("also", -kind.high)
        other = with_attributes(case.plan, called(row.name), low=low)
        yield Hypothesis("clip-sides", f"{words} is {side} clipped at {-kind.high:.6g}", other)
        if kind.plus:
            without = with_attributes(case.plan, called(row.name), plus=0.0)
            yield Hypothesis("plus-missing", f"{kind.plus:.6g} is not added to {words}", without)
    for chosen in (*([row] for row in rows), *([rows] if len(rows) > 1 else [])):
        at, own = bind(_clipped, case.plan, chosen), chosen[0].kind.high
        words = " and ".join(words_of_kind(kind_of(row.inputs[0])) for row in chosen)
        are = "are" if len(chosen) > 1 else "is"
        yield Hypothesis("clip-missing", f"{words} {are} not clipped at {own:.6g}", at(math.inf))
        yield Family(
            "clip", at, f"{words} {are} clipped at {{}}, not at {own:.6g}".format,
            own=own, starts=(own / 2, 2 * own), low=1e-3 * own, high=16 * own,
        )  # fmt: skip


def _clipped(plan: Plan, rows: Sequence[Operation[Clip]], limit: float) -> Plan:
    """Return the plan with another limit of these clips, on each side that has a limit."""
    above = with_attributes(plan, called(*(row.name for row in rows)), high=limit)
    below = (row.name for row in rows if math.isfinite(row.kind.low))
    return with_attributes(above, called(*below), low=-limit)


def steepness(case: Case) -> Iterator[Family]:
    """Yield hypotheses: x * sigmoid(alpha * x), computed as SiLU(alpha * x) / alpha, has another alpha."""
    for row in case.rows.of_kind(Activation):
        before, after = case.plan[row.inputs[0]], case.plan[case.plan.readers[row.name][0]]
        if isinstance(before.kind, Scale) and isinstance(after.kind, Scale):
            own = before.kind.factor
            claim = f"the activation is x * sigmoid(x), not x * sigmoid({own:.6g} x)"
            yield Family(
                "steepness", bind(_steep, case.plan, called(before.name), called(after.name)),
                f"the activation is x * sigmoid({{}} x), not x * sigmoid({own:.6g} x)".format,
                own=own, special={1.0: ("steepness-missing", claim)}, usual=(1.702,), low=1e-2,
            )  # fmt: skip


def _steep(plan: Plan, before: Which, after: Which, alpha: float) -> Plan:
    return with_attributes(with_attributes(plan, before, factor=alpha), after, factor=1 / alpha)
