"""Channels: some neighbouring channels of an event."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, PlaceAlong, Setting, TermOf, one_step
from ..plans.kinds import Channels
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs


def forward(row: Operation[Channels], run: PassState, x: Array) -> Array:
    """Return the channels: [N, C] -> [N, width]"""
    return x[:, row.kind.first : row.kind.first + row.kind.width]


def backward(row: Operation[Channels], run: PassState, dy: Array, y: Array, x: Array | None) -> Gradients:
    """Return dy in these channels, and 0 in all other channels: [N, width] -> [N, C]"""
    dx = np.zeros((len(dy), run.model.plan.open_shapes[row.inputs[0]][1]), dy.dtype)
    dx[:, row.kind.first : row.kind.first + row.kind.width] = dy
    return Gradients((dx,))


def reference(row: Operation[Channels], ref: ReferenceInputs, x: Array) -> Array:
    """Return the channels: [T, C] -> [T, width]"""
    return np.take(x, np.arange(row.kind.width) + row.kind.first, axis=1)


def formula(row: Operation[Channels], setting: Setting) -> Formula:
    """Describe an element as an element of the input."""
    place = PlaceAlong(((1, 1),), offset=row.kind.first)
    return one_step(setting.shapes[row.name], TermOf((ElementAt(row.inputs[0], (0, place)),)))


def gradient_formula(name: str, reader: Operation[Channels], setting: Setting) -> Formula:
    """Describe dx as dy in these channels, and as 0 in all other channels."""
    kind, shape = reader.kind, setting.shapes[name]
    gradient = ElementAt(reader.name, (0, PlaceAlong(((1, 1),), offset=-kind.first)), "backward")
    return one_step(shape, TermOf((gradient,), within=(1, kind.first, kind.first + kind.width)))
