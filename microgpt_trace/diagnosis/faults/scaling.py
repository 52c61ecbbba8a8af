"""Mistakes in factors, caps and clips: a missing or wrong factor or limit, and a cap after the mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial as bind

import numpy as np

from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.operations.softmax import visible
from ...architecture.plans.event_words import words_of_kind
from ...architecture.plans.kinds import Activation, Cap, Clip, Scale, Softmax
from ...architecture.plans.plan import Operation, Plan, kind_of
from ...arrays.stats import Array
from ..case import Case
from ..hypothesis import Family, Hypothesis
from .changes import Which, called, computed, of_kind, with_attributes

CAPS = (50.0, 30.0, 20.0)  # caps that models use


def factors(case: Case) -> Iterator[Family]:
    """Yield hypotheses: values are not multiplied by their factor, or by another factor."""
    for row in {kind_of(row.name): row for row in case.rows_of(Scale)}.values():
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
    """Yield hypotheses: a cap is missing, has another limit, or is applied after the mask."""
    for row in {kind_of(row.name): row for row in case.rows_of(Cap)}.values():
        own, words = row.kind.limit, words_of_kind(kind_of(row.inputs[0]))
        missing = computed(case.plan, called(row.name), lambda row, given, x: x)
        yield Hypothesis("cap-missing", f"the cap of the {words} at {own:.6g} is missing", missing)
        yield Family(
            "cap", lambda limit, row=row: with_attributes(case.plan, called(row.name), limit=limit),  # type: ignore[misc]
            f"the cap of the {words} is {{}}, not {own:.6g}".format, own=own, starts=CAPS, usual=CAPS,
            low=1e-3 * own, high=16 * own,
        )  # fmt: skip
    for weights in case.rows_of(Softmax)[:1]:
        cap = case.plan[weights.inputs[0]].kind
        if isinstance(cap, Cap):
            claim = f"the cap is applied after the mask, so hidden keys have the score -{cap.limit:.6g}"
            late = computed(case.plan, of_kind(Softmax), bind(_with_hidden, -cap.limit))
            yield Hypothesis("cap-after-mask", claim, late)


def clips(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: a clip is missing, has another limit or another side, or does not add its number."""
    rows = list({kind_of(row.name): row for row in case.rows_of(Clip)}.values())
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
    for row in case.rows_of(Activation):
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


def _with_hidden(score: float, row: Operation[Softmax], given: ReferenceInputs, scores: Array) -> Array:
    """Compute the softmax over all keys, where every hidden key has the same score."""
    exp = np.exp(np.where(visible(row.kind, scores.shape[-1]), scores, score))
    return exp / exp.sum(axis=-1, keepdims=True)
