"""Near ties between experts, which correct engines may decide differently because of rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..architecture.operations.choice import follows, otherwise
from ..architecture.plans.kinds import Choice
from ..arrays.stats import Array
from .evaluation import CARRIED, Evaluation
from .precision import CHANCE


def with_ties(
    plain: Evaluation, draws: Sequence[Evaluation], name: str, found: Array, expected: Array,
    positions: Sequence[int] | None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the expected values of an event, and the rows where a near tie is decided as in the dump.

    In a choice of experts, these are the rows where the dump's choice follows from the logits within their
    rounding error. Without the choice in the dump, these are the rows that agree better with the dump after
    the nearest tie of the position is decided otherwise.
    """
    rows = [plain.plan[own] for own in (*plain.between(name), name)]
    choices = [row for row in rows if isinstance(row.kind, Choice) and row.otherwise is None]
    none = expected, np.empty(0, np.intp)
    if not choices or not expected.ndim:
        return none
    if choices[-1].name == name:
        at = slice(None) if positions is None else list(positions)
        right = follows(found, plain.value(choices[-1].inputs[0])[at], _within(draws, name)[at])
        tied, other = (found != expected).any(axis=1, keepdims=True) & right[:, None], found
    else:
        error = np.linalg.norm(found - expected, axis=-1, keepdims=True)
        tied = error > plain.chain_floor(name) * np.linalg.norm(expected, axis=-1, keepdims=True)
        if not tied.any():
            return none
        ties = {
            row.name: replace(row, otherwise=partial(otherwise, _within(draws, row.name))) for row in choices
        }
        other = plain.under(plain.plan.changed(lambda row: ties.get(row.name, row))).output(name, positions)
        tied &= np.linalg.norm(found - other, axis=-1, keepdims=True) < error
    return np.where(tied, other, expected), np.unique(np.nonzero(tied)[-2])


def _within(draws: Sequence[Evaluation], name: str) -> Array:
    """Return the difference between the logits of experts that rounding explains: [T, 1]"""
    moved = np.std([draw.noisy_input(name) for draw in draws], axis=0, ddof=1)
    return CHANCE * CARRIED * np.sqrt(np.square(moved).mean(axis=1, keepdims=True))
