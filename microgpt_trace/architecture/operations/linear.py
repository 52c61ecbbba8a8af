"""Linear: y = x @ W.T + b, or the share of some columns of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, PlaceAlong, Setting, TermOf, one_step
from ..formulas.steps import element_name
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Linear
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread

OVER = 2  # the range of a sum behind two axes: position and channel, of parameters row and column


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
    found: dict[str, Array] = {}
    if kind.bias in run.wanted:
        found[str(kind.bias)] = dy.sum(axis=0)
    if kind.columns is None:
        if kind.weight in run.wanted:
            found[kind.weight] = dy.T @ x
        return Gradients((dy @ run.model.parameter(kind.weight),), found)
    own, dx = slice(*kind.columns), np.zeros_like(x)
    dx[:, own] = dy @ run.matrix(kind.weight)[:, own]
    if kind.weight in run.wanted:
        found[kind.weight] = np.zeros((kind.width, x.shape[1]), dy.dtype)
        found[kind.weight][:, own] = dy.T @ x[:, own]
    return Gradients((dx,), found)


def columns_forward(x: Array, weight: Array, own: slice) -> Array:
    """The share of some columns: [N, in], [out, in] -> [N, out]"""
    return x[:, own] @ weight[:, own].T


def reference(row: Operation[Linear], given: ReferenceInputs, x: Array) -> Array:
    """y = x @ W.T + b in float64: [T, in] -> [T, out]"""
    kind = row.kind
    if kind.columns is not None:
        own = slice(*kind.columns)
        return x[:, own] @ given.parameter(row, kind.weight)[:, own].T.astype(np.float64)
    y = given.product(row, x, kind.weight)
    return y if kind.bias is None else y + given.parameter(row, kind.bias)


def spread(row: Operation[Linear], given: ReferenceInputs) -> Spread:
    """A sum over the width of the input."""
    first, end = row.kind.columns or (0, given.shapes[row.inputs[0]][-1])
    return Spread(end - first)


def size(row: Operation[Linear], given: ReferenceInputs, value: Array, x: Array) -> Array:
    """|x| |w|, of which the terms may cancel."""
    kind = row.kind
    if kind.columns is None:
        norms = given.norms[kind.weight]
        return np.linalg.norm(x, axis=-1, keepdims=True) * norms + np.abs(value)
    own = slice(*kind.columns)
    norms = np.linalg.norm(given.parameter(row, kind.weight)[:, own].astype(np.float64), axis=1)
    return np.linalg.norm(x[:, own], axis=1, keepdims=True) * norms


def formula(row: Operation[Linear], setting: Setting) -> Formula:
    """A sum of products and the bias; where a hook replaced one of the parts, the sum of the parts."""
    if any(map(setting.is_cut, row.parts)):
        return formula_of_parts(row, setting)
    kind, (source,) = row.kind, row.inputs
    length, width = setting.shapes[source]
    first, end = kind.columns or (0, width)
    column = PlaceAlong(((OVER, 1),), first) if first else OVER
    x, weight = ElementAt(source, (0, column)), ElementAt(kind.weight, (1, column))
    return one_step((length, kind.width), TermOf((x, weight), (Over(end - first),)), *_of_bias(kind))


def formula_of_parts(row: Operation[Any], setting: Setting) -> Formula:
    """The sum of the parts and the bias."""
    kind = row.kind
    parts = (TermOf((ElementAt(part, (0, 1)),)) for part in row.parts)
    return one_step(setting.shapes[row.name], *parts, *_of_bias(kind))


def _of_bias(kind: Linear) -> list[TermOf]:
    return [TermOf((ElementAt(kind.bias, (1,)),))] if kind.bias and not kind.columns else []


def gradient_formula(name: str, reader: Operation[Linear], setting: Setting) -> Formula:
    """dx = dy @ W; a part has the gradient of the sum."""
    kind, shape = reader.kind, setting.shapes[name]
    if name in reader.parts:
        return one_step(shape, TermOf((ElementAt(reader.name, (0, 1), "backward"),)))
    gradient = ElementAt(reader.name, (0, OVER), "backward")
    return one_step(shape, TermOf((gradient, ElementAt(kind.weight, (OVER, 1))), (Over(kind.width),)))


def parameter_formula(name: str, row: Operation[Linear], setting: Setting) -> Formula:
    """dW = dy.T @ x, db = sum(dy)"""
    kind, (source,) = row.kind, row.inputs
    length, width = setting.shapes[source]
    if name == kind.bias:
        gradient = ElementAt(row.name, (1, 0), "backward")
        return one_step((kind.width,), TermOf((gradient,), (Over(length),)))
    gradient = ElementAt(row.name, (OVER, 0), "backward")
    return one_step((kind.width, width), TermOf((gradient, ElementAt(source, (OVER, 1))), (Over(length),)))


def notes(at: TracedElement[Linear]) -> tuple[str, ...]:
    """What its parts are to it."""
    kind, parts = at.row.kind, at.row.parts
    if any(("forward", part) in at.numbers.replaced for part in parts):
        return ("the sum of the heads, of which a hook replaced some",)
    if not parts or (len(parts) == 1 and not kind.bias):
        return ()
    first, last = (element_name(parts[i], at.index) for i in (0, -1))
    return (f"{first} to {last}{' and the bias' * bool(kind.bias)} add up to the same",)
