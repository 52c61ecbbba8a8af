"""Probabilities and Loss: what the logits predict, and how surprising what follows is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...arrays.logits import losses_of, softmax
from ...arrays.stats import Array
from ..kinds import Kind, Loss, Probabilities
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread
from .shared import Shared
from .softmax import of_softmax


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLoss(Loss):
    """Of other tokens."""

    tokens: Array | None = None


def forward(row: Operation, run: Shared, logits: Array) -> Array:
    """The softmax over the tokens: [T, V] -> [T, V]; or the mean of -log P(target) over the positions whose
    next token is known: [T, V] -> []"""
    if isinstance(row.kind, Probabilities):
        return softmax(logits)
    rows, targets = known_targets(run.targets)
    return np.asarray(losses_of(logits[rows], targets).mean(), logits.dtype)


def known_targets(targets: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """The positions whose next token is known, and which it is."""
    known = [(at, target) for at, target in enumerate(targets) if target is not None]
    return [at for at, _ in known], [target for _, target in known]


def reference(row: Operation, given: Given, logits: Array) -> Array:
    """The softmax over the tokens: [T, V] -> [T, V]; or the mean of log(sum(exp(logits))) - logits[target]
    over the positions whose next token is known: [T, V] -> []"""
    if isinstance(row.kind, Probabilities):
        exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exp / exp.sum(axis=-1, keepdims=True)
    targets = given.targets
    if isinstance(row.kind, FaultyLoss) and row.kind.tokens is not None:
        targets = Given(given.model, row.kind.tokens).targets
    logits = logits[: len(targets)] - logits[: len(targets)].max(axis=1, keepdims=True)
    own = logits[np.arange(len(targets)), targets]
    return np.asarray((np.log(np.exp(logits).sum(axis=1)) - own).mean())


def spread(kind: Kind, sizes: Sizes) -> Spread:
    """A sum over the tokens."""
    return Spread(sizes.input, peaked=isinstance(kind, Probabilities))


def size(row: Operation, given: Given, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to."""
    return of_softmax(value) if isinstance(row.kind, Probabilities) else np.abs(value)
