"""Probabilities and Loss: what the logits predict, and how surprising what follows is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Kind, Loss, Probabilities
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread
from .softmax import of_softmax


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLoss(Loss):
    """Of other tokens."""

    tokens: Array | None = None


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
