"""Scale and Cap, which multiply or limit each element by one number of the architecture."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, ResultOf, Setting, StepOf, TermOf, one_step
from ..formulas.steps import Function, Pass
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Cap, Scale
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs, Spread
from .softmax import masked


def forward(row: Operation[Scale | Cap], run: PassState, x: Array) -> Array:
    """Compute factor * x or limit * tanh(x / limit): [...] -> [...]"""
    kind = row.kind
    return x * kind.factor if isinstance(kind, Scale) else np.tanh(x / kind.limit) * kind.limit


def backward(row: Operation[Scale | Cap], run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """dx = factor * dy, or dx = dy / cosh(x / limit)^2: [...] -> [...]"""
    kind = row.kind
    return Gradients((dy * (kind.factor if isinstance(kind, Scale) else cap_slope(x / kind.limit)),))


def cap_slope(u: Array) -> Array:
    """Return the slope of tanh, 1 / cosh(u)^2, computed so that exp cannot overflow."""
    e = np.exp(-2 * np.abs(u))
    return 4 * e / np.square(1 + e)


def reference(row: Operation[Scale | Cap], ref: ReferenceInputs, x: Array) -> Array:
    """Compute factor * x or limit * tanh(x / limit), where tanh(u) = (1 - e^-2u) / (1 + e^-2u): [...] ->
    [...]"""
    kind = row.kind
    return kind.factor * x if isinstance(kind, Scale) else capped(x, kind.limit)


def capped(x: Array, limit: float) -> Array:
    """Return limit * tanh(x / limit), computed with exp so that exp cannot overflow."""
    power = -2 / limit * np.abs(x)
    return np.sign(x) * limit * -np.expm1(power) / (1 + np.exp(power))


def spread(row: Operation[Scale | Cap], ref: ReferenceInputs) -> Spread:
    """Return the spread of a multiplication by a number, which an engine may round."""
    return Spread(factor=True)


def formula(row: Operation[Scale | Cap], setting: Setting) -> Formula:
    """Describe an element as the factor times x, or as the cap of x."""
    kind, x = row.kind, _element(row.inputs[0], setting)
    if isinstance(kind, Scale):
        return one_step(setting.shapes[row.name], TermOf((x, _factor(kind))))
    limit = kind.limit
    words = f"{limit:.6g} × tanh(x/{limit:.6g})"
    cap = Function(f"{limit!r}*tanh(x/{limit!r})", lambda x: capped(x, limit), words)
    return one_step(setting.shapes[row.name], TermOf((x,), function=cap))


def gradient_formula(name: str, reader: Operation[Scale | Cap], setting: Setting) -> Formula:
    """Describe dx as dy times the factor, or times the slope of the cap."""
    kind, dy, shape = reader.kind, _element(reader.name, setting, "backward"), setting.shapes[name]
    if isinstance(kind, Scale):
        return one_step(shape, TermOf((dy, _factor(kind))))
    limit = kind.limit
    text = f"4/(exp(x/{limit!r}) + exp(-x/{limit!r}))**2"
    slope = Function(text, lambda x: cap_slope(x / limit), f"1/cosh(x/{limit:.6g})^2")
    of_x = TermOf((_element(name, setting),), function=slope)
    return Formula(shape, (StepOf((of_x,), "slope"), StepOf((TermOf((dy, ResultOf(0))),))))


def _element(name: str, setting: Setting, phase: Pass = "forward") -> ElementAt:
    """Return the element of an array at the same place."""
    return ElementAt(name, tuple(range(len(setting.shapes[name]))), phase)


def _factor(kind: Scale) -> Constant:
    return Constant(f"{kind.factor:.6g}", (kind.factor,))


def notes(at: TracedElement[Scale | Cap]) -> tuple[str, ...]:
    """Return a note if the element is a score that the mask hides."""
    if not at.row.causal:
        return ()
    return tuple(f"{reason}; the score is computed, but not used" for reason in masked(at))
