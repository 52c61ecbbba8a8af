"""From an element to what it is worked out from and what it goes into, by the rows of the plan. Knows no
kind's arithmetic."""

from __future__ import annotations

from ..architecture.arithmetic import one_term, sum_of
from ..architecture.formulas.derive import Formulas, GradientWay
from ..architecture.formulas.element_places import ElementPlaces
from ..architecture.formulas.in_words import in_words
from ..architecture.formulas.written_out import nothing, written_out
from ..architecture.kinds import Probabilities
from ..architecture.operations import prediction
from ..architecture.operations.by_kind import arithmetic_of
from ..architecture.plan import kind_of
from ..architecture.steps import Factor, Use, Worked
from ..architecture.traced_element import TracedElement, rows_with, short

UPDATED = "Adam turns it into the update of this parameter"


def worked_out(at: TracedElement) -> Worked:
    """The arithmetic of the element of a forward event."""
    formula = _formulas(at).forward(at.name)
    places = ElementPlaces(at.numbers, at.name, at.index, formula)
    steps, magnitude = written_out(places, str(at.element), at.most)
    notes = arithmetic_of(at.row.kind).notes(at)
    return Worked(f"{at.own} = {in_words(places)}", steps, magnitude, notes)


def _formulas(at: TracedElement) -> Formulas:
    return Formulas(at.numbers.plan, at.numbers.replaced)


def uses_of(at: TracedElement) -> list[Use]:
    """What reads the element of a forward event or of a parameter, in order of computation; of a parameter at
    the position at which it weighs most."""
    plan = at.numbers.plan
    if at.name not in plan:
        rows = rows_with(plan, at.name)
        found = [arithmetic_of(row.kind).parameter_used(at, row) for row in rows]
    elif isinstance(at.row.kind, Probabilities):
        return prediction.after_probabilities(at)
    else:
        readers = [plan[name] for name in plan.readers[at.name]]
        found = [arithmetic_of(reader.kind).goes_to(at, reader) for reader in readers]
    return [use for use in found if use is not None]


def gradient_worked_out(at: TracedElement) -> Worked:
    """The arithmetic of d loss / d the element: a sum over what reads it."""
    ways = ways_worked_out(at)
    steps = [step for way in ways for step in way.steps]
    if len(ways) > 1:
        last = (way.steps[-1] for way in ways)
        steps.append(sum_of(at.gradient_name, [one_term([Factor(own.label, own.value)]) for own in last]))
    formula = f"d {at.own} = {' + '.join(way.formula for way in ways)}"
    magnitude, reached = sum(way.magnitude for way in ways), any(way.steps[-1].count for way in ways)
    return Worked(formula, tuple(steps), magnitude, _of_gradient(at, reached))


def ways_worked_out(at: TracedElement) -> list[Worked]:
    """What comes by way of each reader: its gradient times the local derivative."""
    ways = _formulas(at).backward(at.name, at.index) or ()
    return [
        _by_way_of(at, way, at.gradient_name if len(ways) == 1 else f"by way of {way.reader}") for way in ways
    ]


def _by_way_of(at: TracedElement, way: GradientWay, label: str) -> Worked:
    if way.formula is None:
        return Worked(f"0 by way of {way.event}, which a hook replaced", (nothing(label),), 0.0)
    places = ElementPlaces(at.numbers, at.name, at.index, way.formula)
    return Worked(in_words(places), *written_out(places, label, at.most))


def _of_gradient(at: TracedElement, reached: bool) -> tuple[str, ...]:
    """What a gradient does, or by way of which others it is worked out."""
    plan = at.numbers.plan
    if at.name not in plan:
        return (UPDATED,) if reached else ()
    found = prediction.gradient_notes(at) if reached else ()
    if at.name not in plan.sums_of:
        return found
    source, whole = short(at.row.inputs[0]), kind_of(plan.sums_of[at.name].name)
    return (*found, f"{source} gets its gradient from that of {whole}, which every head has too")


def gradient_uses(at: TracedElement) -> list[Use]:
    """The gradients of what the element's event had read, and of the parameters behind it."""
    if at.name not in at.numbers.plan:
        return []
    found: list[Use] = arithmetic_of(at.row.kind).gradient_goes_to(at)
    return found
