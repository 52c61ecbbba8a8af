"""Experts: y = x @ W[e].T + b[e] for each chosen expert e. Other experts are not unpacked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, PlaceAlong, Setting, TermOf, one_step
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Experts
from ..plans.plan import Operation
from .choice import expert_at, numbers, unmoved
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread

OVER = 3  # an element has the axes position, place among the chosen experts, and channel of the expert


def forward(row: Operation[Experts], run: PassState, x: Array, chosen: Array) -> Array:
    """y = x @ W[e].T + b[e] for each chosen expert e: [N, in], [N, k] -> [N, k*out]"""
    kind, y = row.kind, np.empty((*chosen.shape, row.kind.width), x.dtype)
    bias = None if kind.bias is None else run.model.parameter(kind.bias)
    for e, at, rows in _by_expert(kind, x, chosen):
        product = run.model.product(rows, kind.weight, e)
        y[at] = product if bias is None else product + bias[e]
    return y.reshape(len(x), -1)


def _by_expert(kind: Experts, x: Array, chosen: Array) -> Iterator[tuple[int, tuple[Array, ...], Array]]:
    """Yield each chosen expert e, the positions and places where e was chosen, and the rows that e reads."""
    ids = numbers(chosen, kind.experts)
    for e in np.unique(ids).tolist():
        at = np.nonzero(ids == e)
        yield e, at, x.reshape(*chosen.shape, -1)[at] if kind.beside else x[at[0]]


def backward(
    row: Operation[Experts], run: PassState, dy: Array, y: Array, x: Array, chosen: Array
) -> Gradients:
    """dx = sum of dy @ W[e] over the chosen experts. dW[e] = dy.T @ x and db[e] = sum(dy) over the positions
    where e was chosen: [N, k*out] -> [N, in]"""
    kind, dx, of_parts = row.kind, np.zeros_like(x), dy.reshape(*chosen.shape, -1)
    into = dx.reshape(*chosen.shape, -1) if kind.beside else dx
    shapes = kind.parameters((x.shape, chosen.shape)).items()
    parameters = {name: np.zeros(shape, dy.dtype) for name, shape in shapes if name in run.wanted}
    for e, at, rows in _by_expert(kind, x, chosen):
        d = of_parts[at]
        np.add.at(into, at if kind.beside else at[0], run.model.product_backward(d, kind.weight, e))
        if kind.weight in parameters:
            parameters[kind.weight][e] = d.T @ rows
        if kind.bias in parameters:
            parameters[str(kind.bias)][e] = d.sum(axis=0)
    return Gradients((dx, np.zeros_like(chosen)), parameters)


def reference(row: Operation[Experts], ref: ReferenceInputs, x: Array, chosen: Array) -> Array:
    """Multiply each position by the matrices of its experts: [T, in], [T, k] -> [T, k*out]"""
    kind, y = row.kind, np.empty((*chosen.shape, row.kind.width))
    for e, at, rows in _by_expert(kind, x, chosen):
        (matrix,) = ref.parameter(row, kind.weight, np.array([e]))
        bias = 0.0 if kind.bias is None else ref.parameter(row, kind.bias, np.array([e]))[0]
        y[at] = rows @ matrix.astype(np.float64).T + bias
    return y.reshape(len(x), -1)


def spread(row: Operation[Experts], ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the inputs of an expert."""
    (_, width), (_, count) = (ref.shapes[name] for name in row.inputs)
    return Spread(width // count if row.kind.beside else width)


def size(row: Operation[Experts], ref: ReferenceInputs, value: Array, x: Array, chosen: Array) -> Array:
    """Return |x| |w| + |y| with L2 norms, because terms of the sum may cancel."""
    kind, sizes = row.kind, np.empty((*chosen.shape, row.kind.width))
    for e, at, rows in _by_expert(kind, x, chosen):
        (matrix,) = ref.parameter(row, kind.weight, np.array([e]))
        norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
        sizes[at] = np.linalg.norm(rows, axis=1, keepdims=True) * norms
    return sizes.reshape(len(x), -1) + np.abs(value)


def formula(row: Operation[Experts], setting: Setting) -> Formula:
    """Describe an element as a sum of products with a row of the expert's matrix, plus the bias."""
    kind, (source, chosen) = row.kind, row.inputs
    (length, wide), (_, count) = (setting.shapes[name] for name in row.inputs)
    width = wide // count if kind.beside else wide
    expert = expert_at(chosen, count, 0, 1)
    x = ElementAt(source, (0, PlaceAlong(((1, width), (OVER, 1))) if kind.beside else OVER))
    terms = [TermOf((x, ElementAt(kind.weight, (expert, 2, OVER))), (Over(width),))]
    terms += [TermOf((ElementAt(kind.bias, (expert, 2)),))] if kind.bias else []
    return one_step((length, count, kind.width), *terms)


def gradient_formula(name: str, reader: Operation[Experts], setting: Setting) -> Formula:
    """Describe an element of dx = dy @ W[e], summed over the chosen experts e if all experts read x."""
    kind, chosen = reader.kind, reader.inputs[1]
    (length, wide), (_, count) = (setting.shapes[name] for name in reader.inputs)
    if name == chosen:
        return unmoved(setting.shapes[name])
    place, channel = (1, 2) if kind.beside else (2, 1)
    gradient = ElementAt(reader.name, (0, PlaceAlong(((place, kind.width), (OVER, 1)))), "backward")
    weight = ElementAt(kind.weight, (expert_at(chosen, count, 0, place), OVER, channel))
    if kind.beside:
        return one_step((length, count, wide // count), TermOf((gradient, weight), (Over(kind.width),)))
    return one_step((length, wide), TermOf((gradient, weight), (Over(count), Over(kind.width))))


def parameter_formula(name: str, row: Operation[Experts], setting: Setting) -> Formula:
    """Describe an element of dW[e] = dy.T @ x or db[e] = sum(dy), over the positions where e was chosen."""
    kind, (source, chosen) = row.kind, row.inputs
    (length, wide), (_, count) = (setting.shapes[name] for name in row.inputs)
    sizes = kind.parameters(((length, wide), (length, count)))[name]
    position, place = len(sizes), len(sizes) + 1  # ranges
    factors = [ElementAt(row.name, (position, PlaceAlong(((place, kind.width), (1, 1)))), "backward")]
    if name == kind.weight:
        column = PlaceAlong(((place, sizes[2]), (2, 1))) if kind.beside else 2
        factors.append(ElementAt(source, (position, column)))
    own = (expert_at(chosen, count, position, place), 0)
    return one_step(sizes, TermOf(tuple(factors), (Over(length), Over(count)), same=own))


def notes(at: TracedElement[Experts]) -> tuple[str, ...]:
    """Return a note that names the expert."""
    (position, channel), width = at.index, at.row.kind.width
    expert = at.numbers.value(at.row.inputs[1], (position, channel // width))
    return (f"channel {channel % width} of expert {expert:.0f}, choice {channel // width} of this position",)
