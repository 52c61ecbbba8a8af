"""Choice: the experts with the largest logits of each position."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Setting, TermOf, one_step
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Choice
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs


def forward(row: Operation[Choice], run: PassState, logits: Array) -> Array:
    """Return the numbers of the experts with the largest logits, the largest first. Among equal logits, the
    lowest number comes first: [N, E] -> [N, k]"""
    return np.argsort(-logits, axis=1, kind="stable")[:, : row.kind.count].astype(logits.dtype)


def backward(row: Operation[Choice], run: PassState, dy: Array, y: Array, logits: Array) -> Gradients:
    """Return 0, because a small change of the logits does not change the choice: [N, k] -> [N, E]"""
    return Gradients((np.zeros_like(logits),))


def numbers(chosen: Array, experts: int) -> Array:
    """Return the chosen experts as integers from 0 to `experts` - 1. Hooks may have set other values."""
    return np.clip(np.nan_to_num(np.rint(chosen)), 0, experts - 1).astype(np.intp)


def reference(row: Operation[Choice], ref: ReferenceInputs, logits: Array) -> Array:
    """Sort the experts by their logits, and return the first experts: [T, E] -> [T, k]"""
    experts, count = range(logits.shape[1]), row.kind.count
    ranked = [sorted(experts, key=lambda e: -x[e])[:count] for x in logits.tolist()]
    return np.array(ranked, np.float64).reshape(-1, count)


def formula(row: Operation[Choice], setting: Setting) -> Formula:
    """Describe an element as itself, because no sum computes a choice."""
    return one_step(setting.shapes[row.name], TermOf((ElementAt(row.name, (0, 1)),)))


def notes(at: TracedElement[Choice]) -> tuple[str, ...]:
    """Return a note that says how large the logit of the expert is."""
    position, place = at.index
    expert = int(at.numbers.value(at.name, at.index))
    logit = at.numbers.value(at.row.inputs[0], (position, expert))
    rank = f"number {place + 1} of the logits" if place else "the largest logit"
    return (f"selected, not computed: {logit:.6g}, the logit of expert {expert}, is {rank}",)
