"""Mistakes of activations, gates and sums: what takes no matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial as bind
from typing import NamedTuple

import numpy as np

from ...architecture.operations.by_kind import reference
from ...architecture.operations.elementwise import ACTIVATIONS
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.event_words import words_of_kind
from ...architecture.plans.kinds import Activation, Add, Linear, Multiply, Norm
from ...architecture.plans.plan import Operation, Plan, kind_of, prefix_of
from ...arrays.stats import Array
from ..fitting import COMBINED, Family
from ..hypothesis import Case, Hypothesis
from .changes import beside, called, computed, of_kind, reading

ALIKE = 1e-4  # factors of a sum's parts no farther apart are one factor of the whole
STEEP = 20.0  # a swish of that slope is a ReLU


def activations(case: Case) -> Iterator[Hypothesis | Family]:
    """Another activation function."""
    kind = case.kind(Activation)
    if kind is None:
        return
    plan, own = case.plan, kind.function
    for name, function in ACTIVATIONS.items():
        if name != own:
            claim = f"the activation is {name}, not {own}"
            yield Hypothesis("activation", claim, _activated(plan, function))
    yield Hypothesis("activation", f"the activation is missing, not {own}", _activated(plan, lambda x: x))
    yield Family(
        "activation", lambda slope: _activated(plan, lambda x: np.where(x > 0, x, slope * x)),
        f"the activation is leaky ReLU ({{}}), not {own}".format,
        starts=(0.01, 0.1), usual=(0.01, 0.1, 0.2), low=-1.0, high=1.0, pivot=None, unit=0.05,
        silent=(0.0, 1.0),
    )  # fmt: skip
    quick = f"the activation is GELU by 1.702 (the quick one), not {own}"
    yield Family(
        "activation", lambda slope: _activated(plan, lambda x: x * ACTIVATIONS["sigmoid"](slope * x)),
        f"the activation is x * sigmoid({{}} x), not {own}".format,
        own=1.0 if own == "SiLU" else None, starts=(0.25, 0.5, 3.0, 6.0),
        special={1.702: ("activation", quick)}, high=STEEP, silent=(1.0, STEEP),
    )  # fmt: skip


def _activated(plan: Plan, of: Callable[[Array], Array]) -> Plan:
    return computed(plan, of_kind(Activation), lambda row, given, x: of(x))


class Gated(NamedTuple):
    """The rows of a gated MLP: act is of gate, and hidden act times up."""

    hidden: Operation
    act: str
    gate: str
    up: str


def gated(case: Case, hidden: Operation) -> Gated | None:
    """The MLP whose act and up a row multiplies; None of another row."""
    if not isinstance(hidden.kind, Multiply):
        return None
    act = next((name for name in hidden.inputs if isinstance(case.plan[name].kind, Activation)), None)
    up = next((name for name in hidden.inputs if name != act), None)
    if act is None or up is None:
        return None
    return Gated(hidden, act, case.plan[act].inputs[0], up)


def gates(case: Case) -> Iterator[Hypothesis]:
    """Gate and up the wrong way round, the activation or one of the factors left out."""
    for mlp in filter(None, (gated(case, row) for row in _multiplied(case))):
        function = case.plan[mlp.act].kind
        assert isinstance(function, Activation)
        gate, up = (words_of_kind(kind_of(name)) for name in (mlp.gate, mlp.up))
        names, hidden = {row.name for row in case.rows}, called(mlp.hidden.name)
        if {mlp.act, mlp.hidden.name} & names:
            if mlp.act in names:
                of_up = reading(case.plan, called(mlp.act), beside(mlp.up))
                swapped = reading(of_up, hidden, beside(mlp.act, mlp.gate))
                claim = f"{function.function} is applied to {up}, not to {gate}"
                yield Hypothesis("gate-up-swapped", claim, swapped)
            bare = reading(case.plan, hidden, beside(mlp.gate, mlp.up))
            claim = f"{gate} is multiplied with {up} without its activation"
            yield Hypothesis("hidden-without-activation", claim, bare)
        if case.row is mlp.hidden:
            yield from _hidden(case, mlp, function.function, gate, up)
        if any(mlp.hidden.name in row.inputs for row in case.of(Linear)):
            down = next(row.name for row in case.of(Linear) if mlp.hidden.name in row.inputs)
            of_act = reading(case.plan, called(down), beside(mlp.act))
            yield Hypothesis("down-of-act", f"{up} is not multiplied in", of_act)
            of_up = reading(case.plan, called(down), beside(mlp.up))
            yield Hypothesis("down-of-up", f"the {gate} is not multiplied in", of_up)


def _multiplied(case: Case) -> list[Operation]:
    """The products of two events that take part, or that what takes part goes into or comes from."""
    near = {name for row in case.rows for name in (*row.inputs, *case.plan.readers[row.name])}
    names = {row.name for row in case.rows} | near
    return list({kind_of(row.name): row for row in case.plan.of_kind(Multiply) if row.name in names}.values())


def _hidden(case: Case, mlp: Gated, function: str, gate: str, up: str) -> Iterator[Hypothesis]:
    """What else may stand in the place of act times up."""
    hidden = called(mlp.hidden.name)
    of_both = reading(case.plan, hidden, beside(mlp.gate, mlp.up))
    swapped = computed(of_both, hidden, lambda row, given, gate, up: gate * ACTIVATIONS[function](up))
    yield Hypothesis("gate-up-swapped", f"your values are {gate} * {function}({up})", swapped)
    claim = f"the activation is multiplied with {gate}, not with {up}"
    by_gate = reading(case.plan, hidden, beside(mlp.act, mlp.gate))
    yield Hypothesis("act-times-gate", claim, by_gate)
    added = computed(case.plan, hidden, lambda row, given, a, b: a + b)
    yield Hypothesis("act-plus-up", f"activation and {up} are added, not multiplied", added)
    of_act = reading(case.plan, hidden, beside(mlp.act))
    alone = computed(of_act, hidden, lambda row, given, act: act)
    yield Hypothesis("hidden-activation-missing-up", f"{up} is not multiplied in", alone)


def _parts(case: Case, row: Operation) -> tuple[str, str]:
    """What a sum adds up, in words: "stream" is what goes on through the layers."""
    stream, _ = case.plan.residuals.get(row.name, ("", ""))
    first, second = ("stream" if n == stream else words_of_kind(kind_of(n)) for n in row.inputs)
    return first, second


def sums(case: Case) -> Iterator[Hypothesis | Family]:
    """Parts of a residual sum that are missing, doubled, or not the stream."""
    rows = {kind_of(row.name): row for row in case.of(Add)}
    for row in rows.values():
        yield from _scaled_parts(case, row)
    yield from _post_norms(case)
    for row in rows.values():
        yield from _other_streams(case, row)
    if isinstance(case.row.kind, Add) and case.alone:
        measured = measured_factors(case)
        if measured is not None and abs(measured[0] - measured[1]) > ALIKE * max(map(abs, measured)):
            parts = _parts(case, case.row)
            words = " and ".join(f"{f:.5g} times the {part}" for f, part in zip(measured, parts, strict=True))
            plan = _scaled(case, case.row, measured)
            yield Hypothesis("parts-scaled", f"the sum is of {words}", plan, rank=COMBINED)


def _other_streams(case: Case, row: Operation) -> Iterator[Hypothesis]:
    """The norm of the stream in its place, the layer's input, or what had not been normed."""
    if row.layer is None or row.name not in case.plan.residuals:
        return
    stream, branch = case.plan.residuals[row.name]
    read_by = [case.plan[name] for name in case.plan.readers[stream]]
    norms = [own for own in read_by if isinstance(own.kind, Norm) and own.layer == row.layer]
    for norm in norms[:1]:
        claim = "the norm of the stream is added, not the stream"
        plan = reading(case.plan, called(row.name), beside(norm.name, branch))
        yield Hypothesis("sum-of-norm", claim, plan)
    entering = case.plan.streams[row.layer]
    if stream != entering:

        def of_entering(own: Operation) -> tuple[str, ...]:
            assert own.layer is not None
            return (case.plan.streams[own.layer], case.plan.residuals[own.name][1])

        plan = reading(case.plan, called(row.name), of_entering)
        claim = "the layer's input is added, not the stream after attention"
        yield Hypothesis("sum-of-earlier-stream", claim, plan)
    elif row is case.row and isinstance(case.plan[stream].kind, Norm):
        unnormed = case.plan[stream].inputs[0]
        plan = reading(case.plan, lambda own: own is case.row, lambda own: (unnormed, branch))
        yield Hypothesis("sum-of-unnormed", "the embedding before its norm is added", plan)


def _post_norms(case: Case) -> Iterator[Hypothesis]:
    """A norm after the sum, or of what is added: architectures that norm later."""
    if not isinstance(case.row.kind, Add) or not case.alone:
        return
    branch, sums = _parts(case, case.row)[1], called(case.name)
    norms = [row.kind for row in case.plan.of_kind(Norm) if row.layer == case.layer is not None]
    kinds = [kind for kind in norms if isinstance(kind, Norm) and kind.gain and not kind.head_dim]
    for norm in (replace(case.plan.kinds(Norm)[0], gain=None, bias=None), *kinds):
        words = "without a gain" if norm.gain is None else f"with the gain {kind_of(norm.gain)}"
        claim = f"the sum is normed, {words} (post-norm)"
        normed = bind(_normed, norm)
        plan = computed(case.plan, sums, lambda row, given, a, b, of=normed: of(row, given, a + b))
        yield Hypothesis("post-norm", claim, plan)
        claim = f"the {branch} is normed before it is added, {words}"
        plan = computed(case.plan, sums, lambda row, given, a, b, of=normed: a + of(row, given, b))
        yield Hypothesis("branch-normed", claim, plan)


def _normed(norm: Norm, row: Operation, given: ReferenceInputs, x: Array) -> Array:
    """A norm of values, with the parameters of those names in the row's own layer."""
    names = {"gain": norm.gain, "bias": norm.bias}
    own = {of: prefix_of(row.name) + kind_of(name) for of, name in names.items() if name}
    return reference(replace(row, kind=replace(norm, **own), otherwise=None), given, x)  # type: ignore[arg-type]


def _scaled(case: Case, row: Operation, factors: tuple[float, float]) -> Plan:
    """The plan where the parts of a sum are multiplied by numbers."""
    first, second = factors
    return computed(case.plan, called(row.name), lambda row, given, a, b: a * first + b * second)


def _scaled_parts(case: Case, row: Operation) -> Iterator[Family]:
    """One of the parts times a number."""
    for place, part in enumerate(_parts(case, row)):

        def at(factor: float, place: int = place) -> Plan:
            return _scaled(case, row, (factor, 1.0) if place == 0 else (1.0, factor))

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
