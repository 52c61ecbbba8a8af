"""Activation, Multiply and Add: what is done to each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, ResultOf, Setting, StepOf, TermOf, one_step
from ..formulas.steps import ABOVE_ZERO, RELU, SIGMOID, Function, X, element_name
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Activation, Add, Multiply
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs


def forward(row: Operation, run: PassState, *inputs: Array) -> Array:
    """The function, product or sum of each element: [...] -> [...]"""
    if isinstance(row.kind, Activation):
        return FORWARD[row.kind.function](*inputs)
    a, b = inputs
    return a * b if isinstance(row.kind, Multiply) else a + b


def backward(row: Operation, run: PassState, dy: Array, y: Array, *inputs: Array) -> Gradients:
    """dy times the slope, the other factor or 1: [...] -> [...]"""
    if isinstance(row.kind, Activation):
        return Gradients((dy * SLOPES[row.kind.function](*inputs),))
    a, b = inputs
    return Gradients((dy * b, dy * a) if isinstance(row.kind, Multiply) else (dy, dy))


def slope_of_silu(x: Array) -> Array:
    """s + x s (1 - s), with s the sigmoid"""
    s = 1 / (1 + np.exp(-x))
    return s * (1 + x * (1 - s))


def below(x: Array) -> Array:
    """P(a normal variable <= x), worked out in float64"""
    return (erfc(x / -math.sqrt(2)) / 2).astype(x.dtype, copy=False)


def erfc(x: Array) -> Array:
    """Return 1 - erf(x) by math.erfc: [...] -> [...] float64

    A row at a time becomes Python's numbers, of which each takes 24 bytes.
    """
    rows = np.asarray(x, np.float64).reshape(-1, *(x.shape[-1:] or (1,)))
    numbers = chain.from_iterable(map(np.ndarray.tolist, rows))
    return np.fromiter(map(math.erfc, numbers), np.float64, x.size).reshape(x.shape)


def slope_of_gelu(x: Array) -> Array:
    """P(a normal variable <= x) and x times its density"""
    return below(x) + x * np.exp(np.square(x) / -2) / math.sqrt(2 * math.pi)


FLAT = 1e3  # from there on either slope is that of 0 or x, and no square is infinite


def bent(x: Array) -> Array:
    """Of which GELU's approximation takes the tanh."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))


def slope_of_gelu_by_tanh(x: Array) -> Array:
    """(1 + t) / 2 + x (1 - t^2) / 2 * d bent / dx, with t = tanh(bent(x))"""
    x = np.clip(x, -FLAT, FLAT)
    t = np.tanh(bent(x))
    bending = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * np.square(x))
    return (1 + t + x * (1 - np.square(t)) * bending) / 2


FORWARD: dict[str, Callable[[Array], Array]] = {
    "SiLU": lambda x: x / (1 + np.exp(-x)),  # x * sigmoid(x)
    "ReLU": lambda x: np.maximum(x, 0),
    # And its approximation: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).
    "GELU": lambda x: x * below(x),
    "GELU by tanh": lambda x: x * (1 + np.tanh(bent(x))) / 2,
}
SLOPES: dict[str, Callable[[Array], Array]] = {
    "SiLU": slope_of_silu,
    "ReLU": lambda x: (x > 0).astype(x.dtype),
    "GELU": slope_of_gelu,
    "GELU by tanh": slope_of_gelu_by_tanh,
}


def reference(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
    """The function, product or sum of each element: [...] -> [...]"""
    if isinstance(row.kind, Activation):
        return ACTIVATIONS[row.kind.function](*inputs)
    a, b = inputs
    return a * b if isinstance(row.kind, Multiply) else a + b


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
}


def size(row: Operation, given: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """Nothing cancels that is not in the value, or in its parts, but in a GELU 1 and what is next to -1."""
    if isinstance(row.kind, Activation) and row.kind.function.startswith("GELU"):
        return np.abs(inputs[0])
    return np.abs(value)


class Form(NamedTuple):
    """A function of x and its slope, as they are written and worked out in one step each. With a `gate`,
    which that is called, x is multiplied by the function."""

    function: Function
    slope: Function
    gate: str = ""


_U = "sqrt(2/pi)*(x + 0.044715*x**3)"
_ONE_AND_X = Function("1 + max(x, -x)", lambda x: 1 + np.abs(x))  # 1 and nearly -1 cancel
FORMS = {
    "ReLU": Form(RELU, ABOVE_ZERO),
    "SiLU": Form(
        SIGMOID,
        Function("(1 + x/(1 + exp(x)))/(1 + exp(-x))", slope_of_silu),
        gate="sigmoid",
    ),
    "GELU": Form(
        Function("x*(1 + erf(x/sqrt(2)))/2", ACTIVATIONS["GELU"], beside=X),
        Function(
            "(1 + erf(x/sqrt(2)))/2 + x*exp(-x*x/2)/sqrt(2*pi)",
            slope_of_gelu,
            beside=_ONE_AND_X,
        ),
    ),
    "GELU by tanh": Form(
        Function(f"x*(1 + tanh({_U}))/2", ACTIVATIONS["GELU by tanh"], beside=X),
        Function(
            f"(1 + tanh({_U}))/2 + x*(1 - tanh({_U})**2)/2*sqrt(2/pi)*(1 + 0.134145*x**2)",
            slope_of_gelu_by_tanh,
            beside=_ONE_AND_X,
        ),
    ),
}


def formula(row: Operation, setting: Setting) -> Formula:
    """The function, product or sum of the element of each input."""
    kind, sizes = row.kind, setting.shapes[row.name]
    inputs = tuple(ElementAt(name, _own(sizes)) for name in row.inputs)
    if isinstance(kind, Multiply):
        return one_step(sizes, TermOf(inputs))
    if isinstance(kind, Add):
        return one_step(sizes, *(TermOf((element,)) for element in inputs))
    assert isinstance(kind, Activation)
    form = FORMS[kind.function]
    of_x = TermOf(inputs, function=form.function)
    if form.gate:
        return Formula(sizes, (StepOf((of_x,), form.gate), StepOf((TermOf((*inputs, ResultOf(0))),))))
    return one_step(sizes, of_x)


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """A sum hands its gradient on, a product times the other factor, a function times its slope."""
    kind, sizes = reader.kind, setting.shapes[name]
    gradient = ElementAt(reader.name, _own(sizes), "backward")
    if isinstance(kind, Add):
        return one_step(sizes, TermOf((gradient,)))
    if isinstance(kind, Multiply):
        return one_step(sizes, TermOf((gradient, ElementAt(_other(reader, name), _own(sizes)))))
    assert isinstance(kind, Activation)
    slope = TermOf((ElementAt(name, _own(sizes)),), function=FORMS[kind.function].slope)
    return Formula(sizes, (StepOf((slope,), "slope"), StepOf((TermOf((gradient, ResultOf(0))),))))


def _own(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The place of the same element."""
    return tuple(range(len(sizes)))


def notes(at: TracedElement) -> tuple[str, ...]:
    """Whether ReLU switched it off."""
    kind, (first, *_) = at.row.kind, at.row.inputs
    if not isinstance(kind, Activation) or kind.function != "ReLU" or at.numbers.value(first, at.index) > 0:
        return ()
    return (f"{element_name(first, at.index)} is not above 0: switched off, and no gradient passes",)


def _other(row: Operation, name: str) -> str:
    """What a product has besides one of its inputs."""
    first, second = row.inputs
    return second if name == first else first
