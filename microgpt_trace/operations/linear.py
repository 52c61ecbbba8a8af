"""Linear: y = x @ W.T + b, or the same product over selected columns of x and W."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, PlaceAlong, Setting, TermOf, one_step
from ..formulas.steps import element_name
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Linear
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread

OVER = 2  # the two axes of an output or a parameter are 0 and 1; the range of a sum is 2


def forward(row: Operation[Linear], run: PassState, x: Array) -> Array:
    """y = x @ W.T + b: [N, in] -> [N, out]"""
    kind = row.kind
    if kind.columns is None:
        y = run.model.product(x, kind.weight)
        return y if kind.bias is None else y + run.model.parameter(kind.bias)
    return columns_forward(x, run.matrix(kind.weight), slice(*kind.columns))


def backward(row: Operation[Linear], run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """dx = dy @ W, dW = dy.T @ x, db = sum(dy): [N, out] -> [N, in]"""
    kind = row.kind
    parameters: dict[str, Array] = {}
    if kind.bias in run.wanted:
        parameters[str(kind.bias)] = dy.sum(axis=0)
    if kind.columns is None:
        if kind.weight in run.wanted:
            parameters[kind.weight] = dy.T @ x
        return Gradients((run.model.product_backward(dy, kind.weight),), parameters)
    columns, dx = slice(*kind.columns), np.zeros_like(x)
    dx[:, columns] = dy @ run.matrix(kind.weight)[:, columns]
    if kind.weight in run.wanted:
        parameters[kind.weight] = np.zeros((kind.width, x.shape[1]), dy.dtype)
        parameters[kind.weight][:, columns] = dy.T @ x[:, columns]
    return Gradients((dx,), parameters)


def columns_forward(x: Array, weight: Array, columns: slice) -> Array:
    """Compute the product of the selected columns of x and W: [N, in], [out, in] -> [N, out]"""
    return x[:, columns] @ weight[:, columns].T


def reference(row: Operation[Linear], ref: ReferenceInputs, x: Array) -> Array:
    """y = x @ W.T + b in float64: [T, in] -> [T, out]"""
    kind = row.kind
    if kind.columns is not None:
        columns = slice(*kind.columns)
        return x[:, columns] @ ref.parameter(row, kind.weight)[:, columns].T.astype(np.float64)
    y = ref.product(row, x, kind.weight)
    return y if kind.bias is None else y + ref.parameter(row, kind.bias)


def spread(row: Operation[Linear], ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the width of the input."""
    first, end = row.kind.columns or (0, ref.shapes[row.inputs[0]][-1])
    return Spread(end - first)


def size(row: Operation[Linear], ref: ReferenceInputs, value: Array, x: Array) -> Array:
    """Return |x| |w| with L2 norms, because terms of the sum may cancel. Without `columns`, add |y|."""
    kind = row.kind
    if kind.columns is None:
        norms = ref.norms[kind.weight]
        return np.linalg.norm(x, axis=-1, keepdims=True) * norms + np.abs(value)
    columns = slice(*kind.columns)
    norms = np.linalg.norm(ref.parameter(row, kind.weight)[:, columns].astype(np.float64), axis=1)
    return np.linalg.norm(x[:, columns], axis=1, keepdims=True) * norms


def formula(row: Operation[Linear], setting: Setting) -> Formula:
    """Describe an element as a sum of products plus the bias. If a hook replaced one of the row's parts, the
    formula is the sum of the parts plus the bias."""
    if any(map(setting.is_cut, row.parts)):
        return formula_of_parts(row, setting)
    kind, (source,) = row.kind, row.inputs
    length, width = setting.shapes[source]
    first, end = kind.columns or (0, width)
    column = PlaceAlong(((OVER, 1),), first) if first else OVER
    x, weight = ElementAt(source, (0, column)), ElementAt(kind.weight, (1, column))
    return one_step((length, kind.width), TermOf((x, weight), (Over(end - first),)), *_bias_terms(kind))


def formula_of_parts(row: Operation[Any], setting: Setting) -> Formula:
    """Describe an element as the sum of the row's parts plus the bias."""
    kind = row.kind
    parts = (TermOf((ElementAt(part, (0, 1)),)) for part in row.parts)
    return one_step(setting.shapes[row.name], *parts, *_bias_terms(kind))


def _bias_terms(kind: Linear) -> list[TermOf]:
    return [TermOf((ElementAt(kind.bias, (1,)),))] if kind.bias and not kind.columns else []


def gradient_formula(name: str, reader: Operation[Linear], setting: Setting) -> Formula:
    """Describe an element of dx = dy @ W. The gradient of a part is the gradient of the sum."""
    kind, shape = reader.kind, setting.shapes[name]
    if name in reader.parts:
        return one_step(shape, TermOf((ElementAt(reader.name, (0, 1), "backward"),)))
    gradient = ElementAt(reader.name, (0, OVER), "backward")
    return one_step(shape, TermOf((gradient, ElementAt(kind.weight, (OVER, 1))), (Over(kind.width),)))


def parameter_formula(name: str, row: Operation[Linear], setting: Setting) -> Formula:
    """Describe an element of dW = dy.T @ x or db = sum(dy)."""
    kind, (source,) = row.kind, row.inputs
    length, width = setting.shapes[source]
    if name == kind.bias:
        gradient = ElementAt(row.name, (1, 0), "backward")
        return one_step((kind.width,), TermOf((gradient,), (Over(length),)))
    gradient = ElementAt(row.name, (OVER, 0), "backward")
    return one_step((kind.width, width), TermOf((gradient, ElementAt(source, (OVER, 1))), (Over(length),)))


def notes(at: TracedElement[Linear]) -> tuple[str, ...]:
    """Return a note that the element equals the sum of the parts. If a hook replaced a part, the note says
    that the element was computed as this sum."""
    kind, parts = at.row.kind, at.row.parts
    if any(("forward", part) in at.numbers.replaced for part in parts):
        return ("computed as the sum of the heads, because a hook replaced some heads",)
    if not parts or (len(parts) == 1 and not kind.bias):
        return ()
    first, last = (element_name(parts[i], at.index) for i in (0, -1))
    return (f"{first} to {last}{' and the bias' * bool(kind.bias)} add up to this element",)
