"""Activation, Multiply and Add: what is done to each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...arrays.erf import erfc
from ...arrays.stats import Array
from ..kinds import Activation, Add, Kind, Multiply
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultyActivation(Activation):
    """A function that no model names."""

    of: Callable[[Array], Array] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class FaultyAdd(Add):
    """Each part times a number."""

    factors: tuple[float, float] = (1.0, 1.0)


def forward(row: Operation, run: Shared, *inputs: Array) -> Array:
    """The function, product or sum of each element: [...] -> [...]"""
    if isinstance(row.kind, Activation):
        return FORWARD[row.kind.function](*inputs)
    a, b = inputs
    return a * b if isinstance(row.kind, Multiply) else a + b


def silu(x: Array) -> Array:
    """x * sigmoid(x)"""
    return x / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return np.maximum(x, 0)


def gelu(x: Array) -> Array:
    """x * P(a normal variable <= x). Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016)."""
    return x * below(x)


def below(x: Array) -> Array:
    """P(a normal variable <= x), worked out in float64"""
    return (erfc(x / -math.sqrt(2)) / 2).astype(x.dtype, copy=False)


def gelu_by_tanh(x: Array) -> Array:
    """Its approximation by tanh, by the same authors."""
    return x * (1 + np.tanh(bent(x))) / 2


def bent(x: Array) -> Array:
    """Of which GELU's approximation takes the tanh."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))


FORWARD: dict[str, Callable[[Array], Array]] = {
    "SiLU": silu,
    "ReLU": relu,
    "GELU": gelu,
    "GELU by tanh": gelu_by_tanh,
}


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
