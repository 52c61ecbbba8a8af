"""Which module knows the arithmetic of a kind."""

from __future__ import annotations

from typing import Any

from .. import kinds
from ..kinds import Kind
from . import context, elementwise, linear, lookup, norm, prediction, rotation, scores, softmax

ARITHMETIC: dict[type[Kind], Any] = {  # the module of each kind
    kinds.Lookup: lookup,
    kinds.Linear: linear,
    kinds.Norm: norm,
    kinds.Rotation: rotation,
    kinds.Scores: scores,
    kinds.Softmax: softmax,
    kinds.Context: context,
    kinds.Activation: elementwise,
    kinds.Multiply: elementwise,
    kinds.Add: elementwise,
    kinds.Probabilities: prediction,
    kinds.Loss: prediction,
}


def arithmetic_of(kind: Kind) -> Any:
    """The module that knows a kind's arithmetic."""
    return ARITHMETIC[type(kind)]
