"""explain: the arithmetic of one element, checked against its value in a run. An explanation lists the
elements that the computation reads, and the elements that read the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..errors import InputError
from ..formulas.in_words import in_words
from ..formulas.places import ElementPlaces
from ..formulas.steps import Factor, Pass, Worked, element_name, one_term, sum_of
from ..formulas.traced_element import Element, KnownTarget, RunValues, TracedElement, rows_with, short
from ..formulas.written_out import nothing, written_out
from ..hooks.event import Phase, differs
from ..models.language_model import LanguageModel, TraceInput
from ..operations import prediction
from ..operations.by_kind import arithmetic_of
from ..operations.plan_formulas import Formulas, GradientWay
from ..plans.plan import Plan, kind_of, over_tokens
from ..rounding.invariants import sum_bound
from ..tracing.observers import Collector
from ..tracing.options import Token
from ..tracing.trace import trace
from .elements import Shapes, find_element, place_of
from .explanation import Explanation
from .uses import gradient_uses, uses_of


def explain(
    model: LanguageModel, element: str, text: str | None = None, *, tokens: Sequence[int] | None = None,
    backward: bool = False, terms: int = 16, target: Token = None, against: Token = None,
    position: int | None = None,
) -> Explanation:  # fmt: skip
    """Write out the arithmetic of one element in a run over a text, with the hooks of `model.hooks`.

    `element` is an event or a parameter with an index ("layer0.attn.scores[1,3,2]", "logits[-1,a]"). If
    `backward` is true, explain the gradient with respect to the element. This is the gradient of the loss, or
    of a logit that `target`, `against` and `position` choose as in `trace`. `tokens` replace the text. Each
    sum lists its `terms` largest terms. Raises InputError if an argument does not fit the model.
    """
    _check(terms)
    inputs = model.read(text, tokens)
    found = _find(model, element, inputs)
    run = run_for(model, inputs, found, backward, target=target, against=against, position=position)
    return _explanation(run, found, terms, backward)


def keep_run(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    backward: bool = False, target: Token = None, against: Token = None, position: int | None = None,
) -> RunValues:  # fmt: skip
    """Run the model with its current hooks and keep every event for `explain_in`.

    All events are in memory at once. If `backward` is true, so are the gradients of all events and of all
    parameters. The arguments and errors are the same as in `explain`.
    """
    inputs = model.read(text, tokens)
    return run_for(model, inputs, None, backward, target=target, against=against, position=position)


def explain_in(run: RunValues, element: str, *, backward: bool = False, terms: int = 16) -> Explanation:
    """Explain an element of a run that `keep_run` returned, without running the model again.

    Unlike `explain`, which does not keep all events, this function returns the values of all uses, and notes
    on all replacements by hooks. Raises InputError as `explain` does, and if `backward` is set but the run
    has no backward pass.
    """
    _check(terms)
    if backward and not run.has("logits", "backward"):
        raise InputError("backward: this run has no backward pass; keep it with keep_run(..., backward=True)")
    return _explanation(run, _find(run.model, element, run.inputs), terms, backward)


def _check(terms: int) -> None:
    if not isinstance(terms, int) or terms < 1:
        raise InputError(f"terms: expected a whole number of at least 1, found {terms}")


def _shapes(model: LanguageModel, inputs: TraceInput) -> Shapes:
    return {**model.plan.shapes(len(inputs.tokens)), **model.config.shapes()}


def _find(model: LanguageModel, element: str, inputs: TraceInput) -> Element:
    found = find_element(model, element, _shapes(model, inputs))
    if found.name == "loss" and not any(token is not None for token in inputs.targets):
        raise InputError("loss: no token follows the only token of the text, so there is no loss")
    return found


def run_for(
    model: LanguageModel, inputs: TraceInput, element: Element | None, backward: bool, **of: Any
) -> RunValues:
    """Run the model and keep the arrays that explain `element`, or all arrays if `element` is None. `of` are
    the arguments target, against and position of `explain`.

    For a microGPT all arrays are kept. For one element, a decoder may compute logits at only one position. A
    backward pass computes all logits, because all are part of the loss.
    """
    if not backward and any(value is not None for value in of.values()):
        raise InputError("target, against and position: need backward=True")
    rows, names = list(range(len(inputs.tokens))), list(model.hooks.specs)
    parameters, prompted = list(model.plan.parameters), model.takes_prompts
    if prompted and element is not None:
        rows = rows if backward else _rows(model, element, len(inputs.tokens))
        names = _needed(model, element, backward, all_logits=len(rows) == len(inputs.tokens))
        parameters = [element.name] if element.name not in model.plan else []
    with _as_computed(model, names) as computed:
        if prompted:
            result = trace(
                model, tokens=inputs.tokens, values=names, positions=rows, backward=backward,
                parameters=parameters if backward else (), **of,
            )  # fmt: skip
        else:
            result = trace(model, inputs.text, backward=backward, **of)
    arrays = result.arrays
    replaced = frozenset(at for at, array in computed.items() if at in arrays and differs(arrays[at], array))
    targets = tuple(
        KnownTarget(p.position, p.target.token, p.target.p, p.loss or 0.0)
        for p in result.predictions
        if p.target is not None
    )
    if result.scalar is not None and result.scalar.note:
        inputs = replace(inputs, notes=(*inputs.notes, result.scalar.note))
    shapes = _shapes(model, inputs)
    return RunValues(model, inputs, arrays, rows, targets, shapes, replaced, result.scalar)


def _rows(model: LanguageModel, element: Element, length: int) -> list[int]:
    """Return the positions at which logits are computed: all positions if the logits of all fit in memory,
    else one. A trace computes all positions, and a different number of positions may round differently."""
    if element.name == "loss" or length <= rows_of_a_part(model.config.vocab_size):
        return list(range(length))
    return [element.index[0]] if _needs_logits(model.plan, element.name) else [length - 1]


def _needed(model: LanguageModel, element: Element, backward: bool, all_logits: bool) -> list[str]:
    """Return an element's event, the events that read this event, and the inputs of all these events.
    `all_logits` is True if logits are computed at all positions."""
    if element.name == "loss" and not (backward and len(model.hooks)):
        return ["loss"]  # `trace` also returns the predictions
    plan = model.plan
    if element.name in plan:
        readers = (name for name in plan.readers[element.name] if plan[name].kind.reads(element.index[-1]))
        events = [element.name, *readers]
    else:
        events = [row.name for row in rows_with(plan, element.name)]
    if len(model.hooks):  # a hook may replace a part
        events += [part for name in events for part in plan[name].parts]
    sources = [source for name in events for source in plan[name].inputs]
    names, with_logits = dict.fromkeys([*events, *sources]), _needs_logits(plan, element.name)
    if all_logits:
        return list(names)
    return [name for name in names if name != "loss" and (with_logits or not over_tokens(name))]


def _needs_logits(plan: Plan, name: str) -> bool:
    """Return True if the explanation of an event needs the logits of the element's position."""
    return over_tokens(name) or name in plan.head[0].inputs


@contextmanager
def _as_computed(model: LanguageModel, names: Iterable[str]) -> Iterator[dict[tuple[Phase, str], Array]]:
    """Collect the values before hooks replace them. Collect nothing if there are no hooks."""
    collector = Collector(names)
    if not len(model.hooks):
        yield collector.arrays
        return
    with model.hooks.subscribe(collector, *names, phases=("forward", "backward"), first=True):
        yield collector.arrays


@np.errstate(all="ignore")  # NaN and infinity are shown as results
def _explanation(run: RunValues, element: Element, terms: int, backward: bool) -> Explanation:
    at, scalar = TracedElement(run, element, terms), run.scalar if backward else None
    phase: Pass = "backward" if backward else "forward"
    if scalar is not None and not run.has(at.name, phase):
        raise InputError(f"{at.name}: {scalar.name} does not depend on {at.name}, so there is no gradient")
    value = run.value(at.name, at.index, phase)
    worked = _worked(at, phase, value)
    dtype = run.model.dtype
    deviation = _deviation(worked.value, value, dtype)
    magnitude = worked.magnitude if math.isfinite(worked.magnitude) else 0.0  # infinite values do not round
    tolerance = sum_bound(magnitude, dtype)
    spec = run.model.hooks.specs.get(at.name)
    return Explanation(
        name=at.name,
        index=at.index,
        phase=phase,
        model=run.model.origin,
        text=run.inputs.text,
        tokens=run.inputs.tokens,
        place=place_of(run.model, at.element, run.inputs),
        scalar=scalar,
        expr=f"d {scalar.name} / d {at.name}" if scalar else spec.expr if spec else at.name,
        formula=worked.formula,
        steps=worked.steps,
        value=worked.value,
        traced=value,
        deviation=deviation,
        tolerance=tolerance,
        holds=deviation <= tolerance,
        uses=tuple(gradient_uses(at) if backward else uses_of(at)),
        notes=(*worked.notes, *_nan_note(worked, value, dtype), *_replacement_notes(at), *run.inputs.notes),
    )


def _worked(at: TracedElement, phase: Pass, value: float) -> Worked:
    if phase == "backward":
        return gradient_worked_out(at)
    if at.name in at.numbers.plan:
        return worked_out(at)
    formula = f"{at.element} is stored, not computed"
    return Worked(formula, (), abs(value), (_storage_note(at.numbers.model, at.name),), value)


def _storage_note(model: LanguageModel, name: str) -> str:
    """Return a note that says how a file stores a parameter, or that training changes the parameter."""
    tensor = model.tensors.get(name)
    if tensor is None:
        return "a parameter, which training changes; --backward explains its gradient"
    layout = ", transposed" * tensor.by_columns + ", with rows in another order" * tensor.permuted
    return f"read from {tensor.name}, stored as {tensor.encoding.name}{layout}"


def _deviation(value: float, traced: float, dtype: str) -> float:
    """Return the distance of two values: 0 for two NaN, and for values that are equal in the dtype."""
    if math.isfinite(value) and math.isfinite(traced):
        return abs(value - traced)
    with np.errstate(over="ignore"):
        same = np.array_equal(np.asarray(value, dtype), np.asarray(traced, dtype), equal_nan=True)
    return 0.0 if same else math.inf


def _nan_note(worked: Worked, traced: float, dtype: str) -> tuple[str, ...]:
    """Return a note on the origin of a traced NaN, if the result of the computation is finite."""
    if not math.isnan(traced) or not math.isfinite(worked.value):
        return ()
    if worked.magnitude > np.finfo(dtype).max:
        return (f"an intermediate result is larger than {dtype} can hold",)
    return ("a NaN of another head or position has spread here: zero times NaN is NaN",)


def _replacement_notes(at: TracedElement) -> list[str]:
    """Return notes on hooks that replaced values of the element's event or of the inputs of its row."""
    read = at.row.inputs if at.name in at.numbers.plan else ()
    return [
        f"a hook replaced values of {'the gradient of ' * (phase == 'backward')}{name}"
        for phase, name in sorted(at.numbers.replaced)
        if name in (at.name, *read)
    ]


def worked_out(at: TracedElement) -> Worked:
    """Compute an element of an event step by step."""
    formula = Formulas.of(at.numbers).forward(at.name)
    places = ElementPlaces(at.numbers, at.name, at.index, formula)
    steps, magnitude = written_out(places, str(at.element), at.most)
    notes = getattr(arithmetic_of(at.row.kind), "notes", lambda at: ())
    return Worked(f"{at.short_name} = {in_words(places)}", steps, magnitude, notes(at))


def gradient_worked_out(at: TracedElement) -> Worked:
    """Compute a gradient: the sum over readers of the reader's gradient times the local derivative."""
    name = f"d {at.element}"
    ways = Formulas.of(at.numbers).backward(at.name, at.index) or ()
    reasons = {way.formula.zero if way.formula else "" for way in ways}
    if len(reasons) == 1 and (reason := reasons.pop()):
        return Worked(f"d {at.short_name} = 0: {reason}", (nothing(name),), 0.0)
    parts = [_gradient_part(at, way, name if len(ways) == 1 else f"by way of {way.reader}") for way in ways]
    steps = [step for part in parts for step in part.steps]
    if len(parts) > 1:
        last = (part.steps[-1] for part in parts)
        steps.append(sum_of(name, [one_term([Factor(step.label, step.value)]) for step in last]))
    formula = f"d {at.short_name} = {' + '.join(part.formula for part in parts)}"
    magnitude, is_read = sum(part.magnitude for part in parts), any(part.steps[-1].count for part in parts)
    return Worked(formula, tuple(steps), magnitude, _gradient_notes(at) if is_read else _head_note(at))


def _gradient_part(at: TracedElement, way: GradientWay, label: str) -> Worked:
    reason = way.formula.zero if way.formula else "a hook replaced it"
    if way.formula is None or reason:
        return Worked(f"0 by way of {way.event}, because {reason}", (nothing(label),), 0.0)
    places = ElementPlaces(at.numbers, at.name, at.index, way.formula)
    return Worked(in_words(places), *written_out(places, label, at.most))


def _gradient_notes(at: TracedElement) -> tuple[str, ...]:
    if at.name not in at.numbers.plan:
        trained = at.numbers.model.trainable
        return ("Adam computes the update of this parameter from this gradient",) * trained
    return (*prediction.gradient_notes(at), *_last_note(at), *_head_note(at))


def _last_note(at: TracedElement) -> tuple[str, ...]:
    """Return a note that the loss does not depend on the last position, if the next token is not known, or
    that a logit does not depend on another position."""
    targets, scalar = at.numbers.inputs.targets, at.numbers.scalar
    if scalar is not None and scalar.target is not None:
        row = at.numbers.array(at.name, "backward")[at.index[:-1]]
        if at.index[-2] == scalar.position or row.any():
            return ()
        name = element_name(at.name, at.index[:-1])
        return (f"{scalar.name} at position {scalar.position} does not depend on {name}",)
    if len(at.index) < 2 or any(target is not None for target in targets[at.index[-2] :]):
        return ()
    return ("the last position has no next token, so the loss does not depend on it",)


def _head_note(at: TracedElement) -> tuple[str, ...]:
    """For a head's output, return a note that the gradient of the context does not come from this output."""
    total = at.numbers.plan.sums_of.get(at.name)
    if total is None or {name for _, name in at.numbers.replaced} & {*total.parts}:
        return ()
    source = short(at.row.inputs[0])
    return (f"{source} gets its gradient from {kind_of(total.name)}, which all heads share",)
