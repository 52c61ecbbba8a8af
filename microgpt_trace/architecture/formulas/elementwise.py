"""Activation, product and sum of each element as formulas. Axes: those of the event."""

from __future__ import annotations

from ..kinds import Activation, Add, Multiply, Shape
from ..operations.elementwise import FORMS
from ..plan import Operation
from .formula import ElementAt, Formula, ResultOf, StepOf, TermOf, one_step


def forward(row: Operation, shapes: dict[str, Shape]) -> Formula:
    """The function, product or sum of the element of each input."""
    sizes = shapes[row.name]
    own = tuple(range(len(sizes)))
    inputs = tuple(ElementAt(name, own) for name in row.inputs)
    if isinstance(row.kind, Activation):
        return one_step(sizes, TermOf(inputs, function=FORMS[row.kind.function].function))
    if isinstance(row.kind, Multiply):
        return one_step(sizes, TermOf(inputs))
    return one_step(sizes, *(TermOf((element,)) for element in inputs))


def backward(name: str, reader: Operation, shapes: dict[str, Shape]) -> Formula:
    """A sum hands its gradient on, a product times the other factor, a function times its slope."""
    sizes = shapes[name]
    own = tuple(range(len(sizes)))
    gradient = ElementAt(reader.name, own, "backward")
    if isinstance(reader.kind, Add):
        return one_step(sizes, TermOf((gradient,)))
    if isinstance(reader.kind, Multiply):
        (other,) = (read for read in reader.inputs if read != name)
        return one_step(sizes, TermOf((gradient, ElementAt(other, own))))
    assert isinstance(reader.kind, Activation)
    slope = TermOf((ElementAt(name, own),), function=FORMS[reader.kind.function].slope)
    return Formula(sizes, (StepOf((slope,), "slope"), StepOf((TermOf((gradient, ResultOf(0))),))))
