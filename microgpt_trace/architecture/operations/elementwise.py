"""Activation, Multiply and Add: what is done to each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Activation, Add, Kind, Multiply
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread


@dataclass(frozen=True, eq=False, repr=False)
class FaultyActivation(Activation):
    """A function that no model names."""

    of: Callable[[Array], Array] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class FaultyAdd(Add):
    """Each part times a number."""

    factors: tuple[float, float] = (1.0, 1.0)


def reference(row: Operation, given: Given, *inputs: Array) -> Array:
    """The function, product or sum of each element: [...] -> [...]"""
    if isinstance(row.kind, Activation):
        (x,) = inputs
        of = row.kind.of if isinstance(row.kind, FaultyActivation) else None
        return (of or ACTIVATIONS[row.kind.function])(x)
    a, b = inputs
    if isinstance(row.kind, Multiply):
        return a * b
    first, second = row.kind.factors if isinstance(row.kind, FaultyAdd) else (1, 1)
    return a * first + b * second


def _sigmoid(x: Array) -> Array:
    """e^x / (1 + e^x), of which neither is large"""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "SiLU": lambda x: x * _sigmoid(x),
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "GELU by tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "squared ReLU": lambda x: np.square(np.maximum(x, 0)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "no activation": lambda x: x,
}


def leaky(slope: float) -> Callable[[Array], Array]:
    """ReLU that multiplies what is below 0 by a slope."""
    return lambda x: np.where(x > 0, x, slope * x)


def swish(slope: float) -> Callable[[Array], Array]:
    """x * sigmoid(slope * x): SiLU with 1, a quick GELU with 1.702."""
    return lambda x: x * _sigmoid(slope * x)


def spread(kind: Kind, sizes: Sizes) -> Spread:
    return Spread()


def size(row: Operation, given: Given, value: Array, *inputs: Array) -> Array:
    """Nothing cancels that is not in the value, or in its parts."""
    return np.abs(value)
