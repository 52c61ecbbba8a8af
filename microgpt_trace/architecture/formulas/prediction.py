"""Probabilities and the loss as formulas. Axes: position and token; the loss has none."""

from __future__ import annotations

from ..arithmetic import MINUS_LOG, Function
from ..kinds import Loss, Probabilities, Shape
from ..plan import Operation, Plan
from .attention import of_softmax
from .formula import (
    Constant,
    ElementAt,
    Formula,
    Over,
    PlaceAlong,
    ResultOf,
    ShareOfKnown,
    StepOf,
    TermOf,
    one_step,
)

TARGET = (0, 1)  # the axes whose token is the target of its position
Shapes = dict[str, Shape]


def probabilities(row: Operation, shapes: Shapes) -> Formula:
    """The softmax over all tokens."""
    (logits,), shape = row.inputs, shapes[row.name]
    along, own = ElementAt(logits, (0, 2)), ElementAt(logits, (0, 1))
    return Formula(shape, of_softmax(along, own, (Over(shape[1]),)))


def loss(row: Operation, plan: Plan, shapes: Shapes) -> Formula:
    """The mean of -log P(target) over the positions whose target is known."""
    target = ElementAt(_probabilities_of(plan, row), (0, PlaceAlong((), table="targets")))
    over = Over(shapes[row.inputs[0]][0], "known")
    losses = StepOf((TermOf((target,), (over,), MINUS_LOG),), "sum of losses")
    return Formula((), (losses, StepOf((TermOf((ResultOf(0), ShareOfKnown())),))))


def of_loss() -> Formula:
    """The backward pass begins with 1."""
    return one_step((), TermOf((Constant("1", (1.0,)),)))


def of_probabilities(row: Operation, shapes: Shapes) -> Formula:
    """-1/(T * P) at the target, 0 elsewhere"""
    inverse = StepOf(
        (TermOf((ElementAt(row.name, TARGET),), function=Function("1/x", lambda x: 1 / x)),), "1/P"
    )
    last = TermOf((ResultOf(0), ShareOfKnown(-1)), where=TARGET)
    return Formula(shapes[row.name], (inverse, StepOf((last,))))


def of_logits(row: Operation, plan: Plan, shapes: Shapes) -> Formula:
    """(P - 1 at the target, else P) / T"""
    chance = ElementAt(_probabilities_of(plan, row), TARGET)
    wanted = TermOf((ShareOfKnown(-1),), where=TARGET)
    return one_step(shapes[row.inputs[0]], TermOf((chance, ShareOfKnown())), wanted)


def _probabilities_of(plan: Plan, row: Operation) -> str:
    """The probabilities of the logits that a loss reads."""
    assert isinstance(row.kind, Loss)
    return next(own.name for own in plan.of_kind(Probabilities) if own.inputs == row.inputs)
