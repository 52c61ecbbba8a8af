"""From an element to what it is worked out from and what it goes into, by the rows of the plan. Knows no
kind's arithmetic."""

from __future__ import annotations

from ..architecture.arithmetic import result, sum_of
from ..architecture.kinds import Probabilities
from ..architecture.operations import prediction
from ..architecture.operations.by_kind import arithmetic_of
from ..architecture.plan import Operation, kind_of
from ..architecture.steps import Use, Worked
from ..architecture.traced_element import TracedElement, no_path, short

UPDATED = "Adam turns it into the update of this parameter"


def worked_out(at: TracedElement) -> Worked:
    """The arithmetic of the element of a forward event."""
    worked: Worked = arithmetic_of(at.row.kind).worked(at)
    return worked


def uses_of(at: TracedElement) -> list[Use]:
    """What reads the element of a forward event or of a parameter, in order of computation; of a parameter at
    the position at which it weighs most."""
    plan = at.numbers.plan
    if at.name not in plan:
        found = [arithmetic_of(row.kind).parameter_used(at, row) for row in at.ways]
    elif isinstance(at.row.kind, Probabilities):
        return prediction.after_probabilities(at)
    else:
        readers = [plan[name] for name in plan.readers[at.name]]
        found = [arithmetic_of(reader.kind).goes_to(at, reader) for reader in readers]
    return [use for use in found if use is not None]


def gradient_worked_out(at: TracedElement) -> Worked:
    """The arithmetic of d loss / d the element: a sum over what reads it."""
    parameter = at.name not in at.numbers.plan
    end = None if parameter else prediction.gradient_at_the_end(at)
    if end is not None:
        return end
    paths = [_of_parameter(at, row) if parameter else _path(at, row) for row in at.ways]
    steps = [step for path in paths for step in path.steps]
    magnitude = sum(path.magnitude for path in paths)
    if len(paths) > 1:
        steps.append(sum_of(at.gradient_name, *([result(path.steps[-1])] for path in paths)))
    summed = " + ".join(path.formula for path in paths)
    if parameter:
        reached = any(path.steps[-1].count for path in paths)
        own = f"d {at.own}" if reached else at.gradient_name
        return Worked(f"{own} = {summed}", tuple(steps), magnitude, (UPDATED,) if reached else ())
    return Worked(f"d {at.own} = {summed}", tuple(steps), magnitude, _of_sums(at))


def _of_sums(at: TracedElement) -> tuple[str, ...]:
    """That the input of a part gets its gradient by way of the sum."""
    sums = [row.name for row in at.ways if at.name in row.parts]
    return tuple(
        f"{short(at.row.inputs[0])} gets its gradient from that of {kind_of(name)}, which every head has too"
        for name in sums
    )


def _path(at: TracedElement, reader: Operation) -> Worked:
    """The reader's gradient times the local derivative; nothing where a hook replaced the reader."""
    if at.is_cut(reader.name):
        return no_path(at, reader.name)
    path: Worked = arithmetic_of(reader.kind).path(at, reader)
    return path


def _of_parameter(at: TracedElement, reader: Operation) -> Worked:
    path: Worked = arithmetic_of(reader.kind).parameter_gradient(at, reader)
    return path


def gradient_uses(at: TracedElement) -> list[Use]:
    """The gradients of what the element's event had read, and of the parameters behind it."""
    if at.name not in at.numbers.plan:
        return []
    found: list[Use] = arithmetic_of(at.row.kind).gradient_goes_to(at)
    return found
