"""Activation, Multiply, Add, Scale, Shift, Cap and Clip, which compute each element separately."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, Over, ResultOf, Setting, StepOf, TermOf, one_step
from ..formulas.steps import ABOVE_ZERO, RELU, SIGMOID, Function, X, element_name
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Activation, Add, Cap, Clip, Kind, Multiply, Scale, Shift
from ..plans.plan import Operation
from . import xielu
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import masked


def forward(row: Operation, run: PassState, *inputs: Array) -> Array:
    """Compute the function, product or sum of each element: [...] -> [...]"""
    kind, (x, *others) = row.kind, inputs
    if isinstance(kind, Activation):
        return FORWARD[kind.function](x, *map(run.model.parameter, kind.learned))
    if isinstance(kind, Cap):
        return np.tanh(x / kind.limit) * kind.limit
    if isinstance(kind, Scale):
        return x * kind.factor
    if isinstance(kind, Clip):
        return np.clip(x, kind.low, kind.high) + x.dtype.type(kind.plus)
    if isinstance(kind, Shift):
        return x + run.model.parameter(kind.bias)
    return x * others[0] if isinstance(kind, Multiply) else x + others[0]


def backward(row: Operation, run: PassState, dy: Array, y: Array, *inputs: Array) -> Gradients:
    """Multiply dy by the slope of the function, by the other factor, or by 1: [...] -> [...]"""
    kind, (x, *others) = row.kind, inputs
    if isinstance(kind, Activation):
        learned = [run.model.parameter(name) for name in kind.learned]
        own = xielu.gradients(dy, x, *learned) if run.wanted.intersection(kind.learned) else ()
        parameters = dict(zip(kind.learned, own, strict=False))
        return Gradients((dy * SLOPES[kind.function](x, *learned),), parameters)
    if isinstance(kind, Cap):
        return Gradients((dy * cap_slope(x / kind.limit),))
    if isinstance(kind, Scale):
        return Gradients((dy * kind.factor,))
    if isinstance(kind, Clip):
        return Gradients((dy * ((x >= kind.low) & (x <= kind.high)),))
    if isinstance(kind, Shift):
        return Gradients((dy,), {kind.bias: dy.sum(axis=0)} if kind.bias in run.wanted else {})
    return Gradients((dy * others[0], dy * x) if isinstance(kind, Multiply) else (dy, dy))


def cap_slope(u: Array) -> Array:
    """Return the slope of tanh, 1 / cosh(u)^2, computed so that exp cannot overflow."""
    e = np.exp(-2 * np.abs(u))
    return 4 * e / np.square(1 + e)


def silu(x: Array) -> Array:
    """Return x * sigmoid(x) = x / (1 + exp(-x)), with the memory of one array."""
    y = np.negative(x, out=np.empty_like(x))
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def silu_slope(x: Array) -> Array:
    """Return the slope of SiLU: s + x s (1 - s), where s is the sigmoid of x."""
    s = 1 / (1 + np.exp(-x))
    return s * (1 + x * (1 - s))


def sigmoid_slope(x: Array) -> Array:
    """Return the slope of the sigmoid s of x: s (1 - s)."""
    return 1 / ((1 + np.exp(-x)) * (1 + np.exp(x)))


def normal_cdf(x: Array) -> Array:
    """Return the cumulative normal distribution at x, computed in float64, in the dtype of x."""
    return (erfc(x / -math.sqrt(2)) / 2).astype(x.dtype, copy=False)


def erfc(x: Array) -> Array:
    """Return 1 - erf(x) in float64, computed by math.erfc.

    To save memory, only one row at a time is converted to Python numbers of 24 bytes.
    """
    rows = np.asarray(x, np.float64).reshape(-1, *(x.shape[-1:] or (1,)))
    numbers = chain.from_iterable(map(np.ndarray.tolist, rows))
    return np.fromiter(map(math.erfc, numbers), np.float64, x.size).reshape(x.shape)


def gelu_slope(x: Array) -> Array:
    """Return the slope of GELU: normal_cdf(x) + x times the normal density at x."""
    return normal_cdf(x) + x * np.exp(np.square(x) / -2) / math.sqrt(2 * math.pi)


FLAT = 1e3  # for larger |x|, the slope is 0 or 1. x is clipped because x^2 may overflow


def tanh_argument(x: Array) -> Array:
    """Return the argument of tanh in GELU's approximation."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))


def gelu_by_tanh_slope(x: Array) -> Array:
    """Return the slope (1 + t) / 2 + x (1 - t^2) / 2 * du/dx, where t = tanh(u) and u = tanh_argument(x)."""
    x = np.clip(x, -FLAT, FLAT)
    t = np.tanh(tanh_argument(x))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * np.square(x))
    return (1 + t + x * (1 - np.square(t)) * slope) / 2


FORWARD: dict[str, Callable[..., Array]] = {
    "SiLU": silu,
    "ReLU": lambda x: np.maximum(x, 0),
    # GELU and its approximation: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).
    "GELU": lambda x: x * normal_cdf(x),
    "GELU by tanh": lambda x: x * (1 + np.tanh(tanh_argument(x))) / 2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "xIELU": lambda x, *learned: xielu.mixed(xielu.PARTS, x, *learned) + x / 2,
}
SLOPES: dict[str, Callable[..., Array]] = {
    "SiLU": silu_slope,
    "ReLU": lambda x: (x > 0).astype(x.dtype),
    "GELU": gelu_slope,
    "GELU by tanh": gelu_by_tanh_slope,
    "sigmoid": sigmoid_slope,
    "xIELU": lambda x, *learned: xielu.mixed(xielu.SLOPES, x, *learned) + x.dtype.type(0.5),
}


def reference(row: Operation, ref: ReferenceInputs, *inputs: Array) -> Array:
    """Compute the function, product or sum of each element: [...] -> [...]"""
    kind, (x, *others) = row.kind, inputs
    if isinstance(kind, Activation) and kind.learned:
        return xielu.reference(x, *(ref.parameter(row, name) for name in kind.learned))
    if isinstance(kind, Activation):
        return ACTIVATIONS[kind.function](x)
    if isinstance(kind, Cap):
        return capped(x, kind.limit)
    if isinstance(kind, Scale):
        return kind.factor * x
    if isinstance(kind, Clip):
        return np.minimum(np.maximum(x, kind.low), kind.high) + kind.plus
    if isinstance(kind, Shift):
        return x + ref.parameter(row, kind.bias)
    return x * others[0] if isinstance(kind, Multiply) else x + others[0]


def capped(x: Array, limit: float) -> Array:
    """Return limit * tanh(x / limit), where tanh(u) = (1 - e^-2u) / (1 + e^-2u)."""
    power = -2 / limit * np.abs(x)
    return np.sign(x) * limit * -np.expm1(power) / (1 + np.exp(power))


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of each element's rounding. An engine may round the number of a Scale or a Cap."""
    return Spread(factor=isinstance(row.kind, Scale | Cap))


def _sigmoid(x: Array) -> Array:
    """Return e^x / (1 + e^x), computed so that exp cannot overflow."""
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


def size(row: Operation, ref: ReferenceInputs, value: Array, *inputs: Array) -> Array:
    """Return |x| or |value|, whichever is larger, for functions whose parts may cancel (GELU and xIELU), and
    |value| for all other rows."""
    if isinstance(row.kind, Activation) and row.kind.function.startswith(("GELU", "xIELU")):
        return np.maximum(np.abs(inputs[0]), np.abs(value))
    return np.abs(value)


class Form(NamedTuple):
    """An activation in formulas: a function of x, and the slope of the activation. If `gate` is not empty,
    the function's result is called `gate`, and the activation is x times this result."""

    function: Function
    slope: Function
    gate: str = ""


_U = "sqrt(2/pi)*(x + 0.044715*x**3)"
_ONE_AND_X = Function("1 + max(x, -x)", lambda x: 1 + np.abs(x))  # 1 + erf cancels if erf is near -1
FORMS = {
    "ReLU": Form(RELU, ABOVE_ZERO),
    "SiLU": Form(SIGMOID, Function("(1 + x/(1 + exp(x)))/(1 + exp(-x))", silu_slope), gate="sigmoid"),
    "GELU": Form(
        Function("x*(1 + erf(x/sqrt(2)))/2", ACTIVATIONS["GELU"], beside=X),
        Function("(1 + erf(x/sqrt(2)))/2 + x*exp(-x*x/2)/sqrt(2*pi)", gelu_slope, beside=_ONE_AND_X),
    ),
    "GELU by tanh": Form(
        Function(f"x*(1 + tanh({_U}))/2", ACTIVATIONS["GELU by tanh"], beside=X),
        Function(
            f"(1 + tanh({_U}))/2 + x*(1 - tanh({_U})**2)/2*sqrt(2/pi)*(1 + 0.134145*x**2)",
            gelu_by_tanh_slope,
            beside=_ONE_AND_X,
        ),
    ),
    "sigmoid": Form(SIGMOID, Function("1/((1 + exp(-x))*(1 + exp(x)))", sigmoid_slope)),
}


def formula(row: Operation, setting: Setting) -> Formula:
    """Describe an element as the function, product or sum of the input elements with the same index."""
    kind, sizes = row.kind, setting.shapes[row.name]
    inputs = tuple(ElementAt(name, _same_place(sizes)) for name in row.inputs)
    if isinstance(kind, Multiply):
        return one_step(sizes, TermOf(inputs))
    if isinstance(kind, Add):
        return one_step(sizes, *(TermOf((element,)) for element in inputs))
    if isinstance(kind, Scale):
        return one_step(sizes, TermOf((*inputs, _factor(kind))))
    if isinstance(kind, Shift):
        return one_step(sizes, TermOf(inputs), TermOf((ElementAt(kind.bias, (len(sizes) - 1,)),)))
    if isinstance(kind, Activation) and kind.learned:
        return Formula(sizes, xielu.steps(kind, inputs[0], xielu.PARTS, inputs[0]))
    form = _form(kind)
    of_x = TermOf(inputs, function=form.function)
    if form.gate:
        return Formula(sizes, (StepOf((of_x,), form.gate), StepOf((TermOf((*inputs, ResultOf(0))),))))
    return one_step(sizes, of_x)


def _factor(kind: Scale) -> Constant:
    return Constant(f"{kind.factor:.6g}", (kind.factor,))


def _form(kind: Kind) -> Form:
    """Return the form of an activation, a cap or a clip."""
    if isinstance(kind, Activation):
        return FORMS[kind.function]
    if isinstance(kind, Clip):
        low, high, plus = kind.low, kind.high, kind.plus
        text = f"min(max(x, {low!r}), {high!r})" if math.isfinite(low) else f"min(x, {high!r})"
        clip = Function(text + f" + {plus:g}" * bool(plus), lambda x: np.clip(x, low, high) + plus)
        inside = f"({high!r} > x)" + f"*(x > {low!r})" * math.isfinite(low)
        return Form(clip, Function(inside, lambda x: np.where((x >= low) & (x <= high), 1.0, 0.0)))
    assert isinstance(kind, Cap)
    limit, u, words = kind.limit, f"x/{kind.limit!r}", f"x/{kind.limit:.6g}"
    cap = Function(f"{limit!r}*tanh({u})", lambda x: capped(x, limit), f"{limit:.6g} × tanh({words})")
    text = f"4/(exp({u}) + exp(-{u}))**2"
    return Form(cap, Function(text, lambda x: cap_slope(x / limit), f"1/cosh({words})^2"))


def gradient_formula(name: str, reader: Operation, setting: Setting) -> Formula:
    """Describe the gradient of an input. For Add, the result is dy, the gradient of the output. For Multiply,
    dy is multiplied by the other factor, and for Scale by the factor. For Activation and Cap, dy is
    multiplied by the slope."""
    kind, sizes = reader.kind, setting.shapes[name]
    gradient = ElementAt(reader.name, _same_place(sizes), "backward")
    if isinstance(kind, Add | Shift):
        return one_step(sizes, TermOf((gradient,)))
    if isinstance(kind, Multiply):
        first, second = reader.inputs
        other = second if name == first else first
        return one_step(sizes, TermOf((gradient, ElementAt(other, _same_place(sizes)))))
    if isinstance(kind, Scale):
        return one_step(sizes, TermOf((gradient, _factor(kind))))
    x, steps = ElementAt(name, _same_place(sizes)), tuple[StepOf, ...]()
    if isinstance(kind, Activation) and kind.learned:
        steps = xielu.steps(kind, x, xielu.SLOPES)
    steps = steps or (StepOf((TermOf((x,), function=_form(kind).slope),), "slope"),)
    return Formula(sizes, (*steps, StepOf((TermOf((gradient, ResultOf(len(steps) - 1))),))))


def parameter_formula(name: str, row: Operation, setting: Setting) -> Formula:
    """Describe an element of db: the sum of dy over the positions. xIELU has its own formula."""
    if isinstance(row.kind, Activation):
        return xielu.parameter_formula(name, row, row.kind, setting)
    length, width = setting.shapes[row.name]
    return one_step((width,), TermOf((ElementAt(row.name, (1, 0), "backward"),), (Over(length),)))


def _same_place(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that index the same element of another array of this shape."""
    return tuple(range(len(sizes)))


def notes(at: TracedElement) -> tuple[str, ...]:
    """Return a note if ReLU switched the element off, or if the mask hides a score."""
    kind, (first, *_) = at.row.kind, at.row.inputs
    if at.row.causal:
        return tuple(f"{reason}; the score is computed, but not used" for reason in masked(at))
    if not isinstance(kind, Activation) or kind.function != "ReLU" or at.numbers.value(first, at.index) > 0:
        return ()
    return (f"{element_name(first, at.index)} is not above 0, so ReLU returns 0 and passes no gradient",)
