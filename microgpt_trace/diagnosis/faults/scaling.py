"""Mistakes in factors and caps: a missing or wrong factor or limit, and a cap after the mask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial as bind

import numpy as np

from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.operations.softmax import visible
from ...architecture.plans.event_words import words_of_kind
from ...architecture.plans.kinds import Cap, Scale, Softmax
from ...architecture.plans.plan import Operation, kind_of
from ...arrays.stats import Array
from ..case import Case
from ..hypothesis import Family, Hypothesis
from .changes import called, computed, of_kind, with_attributes

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


def _with_hidden(score: float, row: Operation[Softmax], given: ReferenceInputs, scores: Array) -> Array:
    """Compute the softmax over all keys, where every hidden key has the same score."""
    exp = np.exp(np.where(visible(row.kind, scores.shape[-1]), scores, score))
    return exp / exp.sum(axis=-1, keepdims=True)
