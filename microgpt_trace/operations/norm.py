"""Norm: RMSNorm or LayerNorm of each row, or of each head of a row.

Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import (
    ElementAt,
    Formula,
    Over,
    PlaceAlong,
    ResultOf,
    Setting,
    StepOf,
    TermOf,
    one_step,
)
from ..formulas.steps import Function, mean_of
from ..plans.kinds import Norm, Shape
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Norm], run: PassState, x: Array) -> Array:
    """Compute x / sqrt(mean(x^2) + eps) * gain + bias for each row or head: [N, C] -> [N, C]"""
    kind = row.kind
    heads = x if kind.head_dim is None else x.reshape(len(x), -1, kind.head_dim)
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    y = rmsnorm(heads, None if kind.gain is None else run.model.parameter(kind.gain), kind.eps)
    return (y if kind.bias is None else y + run.model.parameter(kind.bias)).reshape(x.shape)


def backward(row: Operation[Norm], run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """dx = (g - u * mean(g * u)) / rms, where u = x / rms and g = dy * gain: [N, C] -> [N, C]. For LayerNorm,
    mean(g) is also subtracted inside the parentheses. dgain = sum(dy * u), dbias = sum(dy)."""
    kind = row.kind
    heads, dheads = x, dy
    if kind.head_dim is not None:
        heads, dheads = (a.reshape(len(x), -1, kind.head_dim) for a in (x, dy))
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    rms = root_mean_square(heads, kind.eps)
    unit = heads / rms
    g = dheads if kind.gain is None else dheads * run.model.parameter(kind.gain)
    dx = g - unit * (g * unit).mean(axis=-1, keepdims=True)
    if kind.centred:
        dx -= g.mean(axis=-1, keepdims=True)
    rows = (0,) if kind.by_head else tuple(range(heads.ndim - 1))
    parameters = {kind.gain: (dheads * unit).sum(axis=rows)} if kind.gain in run.wanted else {}
    if kind.bias in run.wanted:
        parameters[kind.bias] = dheads.sum(axis=rows)
    return Gradients(((dx / rms).reshape(x.shape),), {str(name): value for name, value in parameters.items()})


def rmsnorm(x: Array, gain: Array | None, eps: float) -> Array:
    """Compute x / sqrt(mean(x^2) + eps) * gain, row by row: [..., C] -> [..., C]"""
    y = x / root_mean_square(x, eps)
    return y if gain is None else y * gain


def root_mean_square(x: Array, eps: float) -> Array:
    """Return sqrt(mean(x^2) + eps): [..., C] -> [..., 1]"""
    rms: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    return rms


def reference(row: Operation[Norm], ref: ReferenceInputs, x: Array) -> Array:
    """Compute x / sqrt(mean(x^2) + eps) * gain + bias, row by row: [..., C] -> [..., C]"""
    kind = row.kind
    heads = x.reshape(len(x), -1, kind.head_dim or x.shape[-1])
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    mean = np.einsum("...c,...c->...", heads, heads)[..., None] / heads.shape[-1]
    gain = 1.0 if kind.gain is None else ref.parameter(row, kind.gain)
    bias = 0.0 if kind.bias is None else ref.parameter(row, kind.bias)
    return (heads * gain * (mean + kind.eps) ** -0.5 + bias).reshape(x.shape)


def spread(row: Operation, ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum of squares. The square root halves the relative error of the sum."""
    return Spread(ref.shapes[row.inputs[0]][-1] // 4, factor=True)


def size(row: Operation[Norm], ref: ReferenceInputs, value: Array, x: Array) -> Array:
    """Return |y|. If a mean is subtracted or a bias is added, terms may cancel: also add the absolute values
    of the terms. The rounding error of the mean is proportional to the mean of |x|."""
    kind = row.kind
    if not kind.centred and kind.bias is None:
        return np.abs(value)
    heads = x.reshape(*x.shape[:-1], -1, kind.head_dim or x.shape[-1])
    mean = heads.mean(axis=-1, keepdims=True) if kind.centred else np.zeros(1)
    scale = np.sqrt(np.square(heads - mean).mean(axis=-1, keepdims=True) + kind.eps)
    gain = np.ones(1) if kind.gain is None else np.abs(ref.parameter(row, kind.gain))
    summed = np.abs(heads).mean(axis=-1, keepdims=True) if kind.centred else np.zeros(1)
    normed = ((np.abs(heads) + summed) / scale * gain).reshape(x.shape)
    return normed + np.abs(value)


def frozen(kind: Norm, along: Array, x: Array, gain: Array | None) -> Array:
    """Return the gradient of the dot product `along` . y for the input x of a norm. Treat the scale of each
    row or head as a constant. Shapes: `along` [n, K, C], `x` [n, C] -> [n, K, C]"""
    heads = x.astype(np.float64).reshape(len(x), 1, -1, kind.head_dim or x.shape[1])
    heads = heads - heads.mean(axis=-1, keepdims=True) if kind.centred else heads
    parts = along.reshape(*along.shape[:2], *heads.shape[2:])
    parts = (parts if gain is None else parts * gain) / root_mean_square(heads, kind.eps)
    parts = parts - parts.mean(axis=-1, keepdims=True) if kind.centred else parts
    return parts.reshape(along.shape)


class _Places(NamedTuple):
    """Sizes of a formula's axes. `one` indexes an element, and `each` indexes all elements of a row or
    head."""

    sizes: Shape
    one: tuple[int | PlaceAlong, ...]
    each: tuple[int | PlaceAlong, ...]
    one_gain: tuple[int, ...]  # the index of the gain of `one`
    each_gain: tuple[int, ...]


def _places(kind: Norm, shape: Shape) -> _Places:
    """Return axes and indices: [position, channel], or [position, head, channel] if heads are normalised."""
    length, width = shape
    if kind.head_dim is None:
        return _Places((length, width), (0, 1), (0, 2), (1,), (2,))
    dim = kind.head_dim
    one, each = PlaceAlong(((1, dim), (2, 1))), PlaceAlong(((1, dim), (3, 1)))
    gains = ((1, 2), (1, 3)) if kind.by_head else ((2,), (3,))
    return _Places((length, width // dim, dim), (0, one), (0, each), *gains)


def formula(row: Operation[Norm], setting: Setting) -> Formula:
    """Describe y = x / sqrt(mean(x^2) + eps) * gain + bias. In LayerNorm, x means x - mean(x)."""
    kind, (source,) = row.kind, row.inputs
    at = _places(kind, setting.shapes[source])
    steps = _root(kind, ElementAt(source, at.each), at.sizes[-1])
    root, x = ResultOf(len(steps) - 1, "1/"), ElementAt(source, at.one)
    factors: list[ElementAt | ResultOf] = [x, root]
    if kind.centred:
        steps.append(StepOf((TermOf((x,)), TermOf((ResultOf(0, "-"),))), "(x - mean)"))
        factors[0] = ResultOf(len(steps) - 1)
    if kind.gain:
        factors.append(ElementAt(kind.gain, at.one_gain))
    terms = [TermOf(tuple(factors))]
    if kind.bias:
        terms.append(TermOf((ElementAt(kind.bias, at.one_gain),)))
    return Formula(at.sizes, (*steps, StepOf(tuple(terms))))


def _root(kind: Norm, x: ElementAt, n: int, along: tuple[Over, ...] = ()) -> list[StepOf]:
    """Return the steps that compute the root mean square. For LayerNorm the first step is the mean. If
    `along` lists ranges, each step has a result for every row."""
    steps, less, over = list[StepOf](), None, (*along, Over(n))
    square = Function(f"x*x/{n}", lambda x: x * x / n, f"x^2/{n}")
    if kind.centred:
        steps.append(StepOf((TermOf((x,), over, mean_of(n)),), "mean", along=along))
        square, less = Function(f"x**2/{n}", lambda x: x**2 / n, f"x^2/{n}"), 0
    steps.append(StepOf((TermOf((x,), over, square, less),), "mean square", along=along))
    root = Function(f"sqrt(x + {kind.eps:.6g})", lambda x: np.sqrt(x + kind.eps))
    steps.append(StepOf((TermOf((ResultOf(len(steps) - 1),), along, root),), "rms", along=along))
    return steps


def gradient_formula(name: str, reader: Operation[Norm], setting: Setting) -> Formula:
    """Describe an element of dx = (dy * g - x * mean(dy * g * x) / rms^2) / rms, where y = x / rms * g. In
    LayerNorm, x means x - mean(x), and mean(dy * g) is also subtracted inside the parentheses."""
    kind, y = reader.kind, reader.name
    at = _places(kind, setting.shapes[name])
    n, less = at.sizes[-1], 0 if kind.centred else None
    steps, over = _root(kind, ElementAt(name, at.each), n), (Over(n),)
    root = ResultOf(len(steps) - 1, "1/")
    each, one = [ElementAt(y, at.each, "backward")], [ElementAt(y, at.one, "backward")]
    if not kind.names and not kind.centred:  # here x / rms equals y
        steps.append(StepOf((TermOf((*each, ElementAt(y, at.each)), over, mean_of(n)),), "mean of dy × y"))
        last = TermOf((ElementAt(y, at.one), ResultOf(len(steps) - 1, "-"), root))
        return Formula(at.sizes, (*steps, StepOf((TermOf((*one, root)), last))))
    if kind.gain:
        each.append(ElementAt(kind.gain, at.each_gain))
        one.append(ElementAt(kind.gain, at.one_gain))
    x, g = ElementAt(name, at.each, less=less), " × g" * bool(kind.gain)
    steps.append(StepOf((TermOf((*each, x), over, mean_of(n)),), f"mean of dy{g} × x"))
    minus, x = ResultOf(len(steps) - 1, "-"), ElementAt(name, at.one, less=less)
    terms = [TermOf((*one, root)), TermOf((x, minus, root, root, root))]
    if kind.centred:
        steps.append(StepOf((TermOf(tuple(each), over, mean_of(n)),), f"mean of dy{g}"))
        terms.append(TermOf((ResultOf(len(steps) - 1, "-"), root)))
    return Formula(at.sizes, (*steps, StepOf(tuple(terms))))


def parameter_formula(name: str, row: Operation[Norm], setting: Setting) -> Formula:
    """Describe a gradient: the sum of dy * x / rms for a gain, and the sum of dy for a bias."""
    kind, (source,) = row.kind, row.inputs
    length, width = setting.shapes[source]
    dim = kind.head_dim or width
    rows: tuple[Over, ...] = (Over(length),)
    shape = kind.parameters([(length, width)])[name]
    one, each = PlaceAlong(((0, 1),)), PlaceAlong(((2, 1),))  # axis: channel; ranges: positions, (heads,) row
    at = len(shape)  # the axis of the positions
    if kind.by_head:  # axes: head, channel; ranges: positions, row
        one, each = PlaceAlong(((0, dim), (1, 1))), PlaceAlong(((0, dim), (3, 1)))
    elif kind.head_dim:
        rows = (*rows, Over(width // dim))
        one, each = PlaceAlong(((2, dim), (0, 1))), PlaceAlong(((2, dim), (3, 1)))
    gradient = ElementAt(row.name, (at, one), "backward")
    if name == kind.bias:
        return one_step(shape, TermOf((gradient,), rows))
    steps = _root(kind, ElementAt(source, (at, each)), dim, rows)
    x = ElementAt(source, (at, one), less=0 if kind.centred else None)
    last = TermOf((gradient, x, ResultOf(len(steps) - 1, "1/")), rows)
    return Formula(shape, (*steps, StepOf((last,))))
