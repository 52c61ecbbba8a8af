"""Mixture: the sum of parts of equal width, each multiplied by its share."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, PlaceAlong, Setting, TermOf, one_step
from ..plans.kinds import Mixture
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread


def forward(row: Operation[Mixture], run: PassState, x: Array, shares: Array) -> Array:
    """Multiply each part by its share, and add up: [N, k*C], [N, k] -> [N, C]"""
    return np.matmul(shares[:, None], in_parts(x, shares))[:, 0]


def in_parts(x: Array, shares: Array) -> Array:
    """Return the parts one after another: [N, k*C], [N, k] -> [N, k, C]"""
    return x.reshape(*shares.shape, -1)


def backward(
    row: Operation[Mixture], run: PassState, dy: Array, y: Array, x: Array, shares: Array
) -> Gradients:
    """dx = share * dy, dshare = sum(dy * x) over the channels of a part: [N, C] -> [N, k*C], [N, k]"""
    dparts = dy[:, None] * shares[:, :, None]
    return Gradients((dparts.reshape(x.shape), (in_parts(x, shares) * dy[:, None]).sum(axis=2)))


def reference(row: Operation[Mixture], ref: ReferenceInputs, x: Array, shares: Array) -> Array:
    """Add up the parts times their shares: [T, k*C], [T, k] -> [T, C]"""
    parts = np.split(x, shares.shape[1], axis=1)
    return np.sum([part * share[:, None] for part, share in zip(parts, shares.T, strict=True)], axis=0)


def spread(row: Operation[Mixture], ref: ReferenceInputs) -> Spread:
    """Return the spread of a sum over the parts."""
    return Spread(ref.shapes[row.inputs[1]][1])


def size(row: Operation[Mixture], ref: ReferenceInputs, value: Array, x: Array, shares: Array) -> Array:
    """Return the sum of the absolute values of the terms."""
    return reference(row, ref, np.abs(x), np.abs(shares))


def formula(row: Operation[Mixture], setting: Setting) -> Formula:
    """Describe an element as a sum over the parts: share times the same channel of the part."""
    (x, shares), (length, width) = row.inputs, setting.shapes[row.name]
    part = ElementAt(x, (0, PlaceAlong(((2, width), (1, 1)))))
    over = Over(setting.shapes[shares][1])
    return one_step((length, width), TermOf((ElementAt(shares, (0, 2)), part), (over,)))


def gradient_formula(name: str, reader: Operation[Mixture], setting: Setting) -> Formula:
    """dx = share * dy, dshare = sum(dy * x) over the channels of a part"""
    (x, shares), (length, width) = reader.inputs, setting.shapes[reader.name]
    count = setting.shapes[shares][1]
    gradient = ElementAt(reader.name, (0, 2), "backward")
    if name == x:
        return one_step((length, count, width), TermOf((ElementAt(shares, (0, 1)), gradient)))
    part = ElementAt(x, (0, PlaceAlong(((1, width), (2, 1)))))
    return one_step((length, count), TermOf((gradient, part), (Over(width),)))
