"""explain: the arithmetic of one element, held against what a run had there, and from which elements it comes
and into which it goes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..architecture.formulas.in_words import in_words
from ..architecture.formulas.places import ElementPlaces
from ..architecture.formulas.steps import Factor, Pass, Worked, one_term, sum_of
from ..architecture.formulas.traced_element import (
    Element,
    KnownTarget,
    RunValues,
    TracedElement,
    rows_with,
    short,
)
from ..architecture.formulas.written_out import nothing, written_out
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.operations import prediction
from ..architecture.operations.by_kind import arithmetic_of
from ..architecture.operations.plan_formulas import Formulas, GradientWay
from ..architecture.plans.plan import HEAD_EVENTS, Plan, kind_of
from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.event import Phase, TraceEvent, differs
from ..rounding.invariants import sum_bound
from ..tracing.trace import trace
from .elements import Shapes, find_element, place_of
from .explanation import Explanation
from .uses import gradient_uses, uses_of

Computed = dict[tuple[Phase, str], Array]


def explain(
    model: LanguageModel,
    element: str,
    text: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    backward: bool = False,
    terms: int = 16,
) -> Explanation:
    """Write out the arithmetic of one element of a text's run, under the hooks subscribed to `model.hooks`.

    `element` is an event or a parameter with an index ("layer0.attn.scores[1,3,2]", "logits[-1,a]"); with
    `backward`, for a microGPT, its gradient is explained. `tokens` take the place of a text. `terms` of
    each sum are written out, the largest. Raises InputError for what does not fit.
    """
    _check(model, terms, backward)
    inputs, shapes = _read(model, text, tokens)
    found = _found(model, element, inputs, shapes)
    return _explained(run_for(model, inputs, found, shapes, backward), found, terms, backward)


def keep_run(
    model: LanguageModel,
    text: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    backward: bool = False,
) -> RunValues:
    """A run of which everything is kept, under the hooks subscribed now: for `explain_in`.

    It takes the memory of all events at once. Arguments and errors are those of `explain`.
    """
    _check(model, 1, backward)
    inputs, shapes = _read(model, text, tokens)
    return run_for(model, inputs, None, shapes, backward)


def explain_in(run: RunValues, element: str, *, backward: bool = False, terms: int = 16) -> Explanation:
    """The same as `explain`, of a run that is kept: the model does not run again, and more of it is known
    (values of all uses, replacements by hooks in events that the element's own run leaves out).

    Raises InputError for what does not fit, and for a gradient in a run without a backward pass.
    """
    _check(run.model, terms, backward)
    if backward and not run.has("logits", "backward"):
        raise InputError("this run was kept without its backward pass")
    found = _found(run.model, element, run.inputs, run.shapes)
    return _explained(run, found, terms, backward)


def _check(model: LanguageModel, terms: int, backward: bool) -> None:
    if not isinstance(terms, int) or terms < 1:
        raise InputError(f"terms: expected at least 1, found {terms}")
    if backward and "gradients" not in model.abilities:
        raise InputError("--backward is for a microGPT: a production model is traced forward only")


def _read(
    model: LanguageModel, text: str | None, tokens: Sequence[int] | None
) -> tuple[TraceInput, dict[str, tuple[int, ...]]]:
    """What the model reads, and the shapes of its events and parameters."""
    inputs = model.read(text, tokens)
    return inputs, {**model.plan.shapes(len(inputs.tokens)), **model.config.shapes()}


def _found(model: LanguageModel, element: str, inputs: TraceInput, shapes: Shapes) -> Element:
    found = find_element(model, element, shapes)
    if found.name == "loss" and not any(target is not None for target in inputs.targets):
        raise InputError("loss: nothing follows the only token, so there is no loss")
    return found


def run_for(
    model: LanguageModel, inputs: TraceInput, element: Element | None, shapes: Shapes, backward: bool
) -> RunValues:
    """Run the model and keep what the element needs, or everything where there is none.

    A microGPT's arrays are all kept; of a decoder those of a few events, and logits of one position.
    """
    rows, names = list(range(len(inputs.tokens))), list(model.hooks.specs)
    prompted = "prompts" in model.abilities
    if prompted and element is not None:
        rows = _rows(model, element, len(inputs.tokens))
        names = _needed(model, element, whole=len(rows) == len(inputs.tokens))
    with _as_computed(model, names) as computed:
        if prompted:
            result = trace(model, tokens=inputs.tokens, values=names, positions=rows)
        else:
            result = trace(model, inputs.text, backward=backward)
    kept = result.arrays
    replaced = frozenset(at for at, array in computed.items() if at in kept and differs(kept[at], array))
    known = tuple(
        KnownTarget(p.position, p.target.token, p.target.p, p.loss or 0.0)
        for p in result.predictions
        if p.target is not None
    )
    return RunValues(model, inputs, kept, rows, known, shapes, replaced)


def _rows(model: LanguageModel, element: Element, length: int) -> list[int]:
    """The positions whose logits are worked out: all, as a trace has them, where these are not too many
    to keep (then one more or less may round differently), else those that are needed."""
    if element.name == "loss" or length <= rows_of_a_part(model.config.vocab_size):
        return list(range(length))
    return [element.index[0]] if element.name in _with_logits(model.plan) else [length - 1]


def _needed(model: LanguageModel, element: Element, whole: bool) -> list[str]:
    """The events that an element is worked out from, those that it goes into, and what else they read;
    `whole` where logits are there for all positions."""
    if element.name == "loss":
        return ["loss"]  # the predictions tell the rest
    plan = model.plan
    if element.name in plan:
        readers = plan.readers[element.name]
        own = (reader for reader in readers if plan[reader].kind.reads(element.index[-1]))
        events = [element.name, *own]
        if len(model.hooks):  # which may replace a part
            events += plan[element.name].parts
    else:
        events = [row.name for row in rows_with(plan, element.name)]
    sources = [source for name in events for source in plan[name].inputs]
    of_one = ("loss",) if element.name in _with_logits(plan) else ("loss", *HEAD_EVENTS)
    unused = () if whole else of_one
    return [name for name in dict.fromkeys([*events, *sources]) if name not in unused]


def _with_logits(plan: Plan) -> tuple[str, ...]:
    """What takes the logits of its own position to explain."""
    return (*HEAD_EVENTS, *plan["logits"].inputs)


@contextmanager
def _as_computed(model: LanguageModel, names: Iterable[str]) -> Iterator[Computed]:
    """Note what is computed before hooks may replace it, where there are hooks."""
    computed: Computed = {}
    if not len(model.hooks):
        yield computed
        return

    def note(event: TraceEvent, value: Array) -> None:
        computed[event.phase, event.name] = value.copy()

    with model.hooks.subscribe(note, *names, phases=("forward", "backward"), first=True):
        yield computed


@np.errstate(all="ignore")  # what is not finite in a model is shown as it is
def _explained(run: RunValues, element: Element, terms: int, backward: bool) -> Explanation:
    at = TracedElement(run, element, terms)
    phase: Pass = "backward" if backward else "forward"
    value = run.value(at.name, at.index, phase)
    worked = _worked(at, phase, value)
    dtype = run.model.dtype
    deviation = _deviation(worked.value, value, dtype)
    magnitude = worked.magnitude if math.isfinite(worked.magnitude) else 0.0  # else nothing is rounded
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
        expr=f"d loss / d {at.name}" if backward else spec.expr if spec else at.name,
        formula=worked.formula,
        steps=worked.steps,
        value=worked.value,
        traced=value,
        deviation=deviation,
        tolerance=tolerance,
        holds=deviation <= tolerance,
        uses=tuple(gradient_uses(at) if backward else uses_of(at)),
        notes=(*worked.notes, *_of_nan(worked, value, dtype), *_of_replaced(at), *run.inputs.notes),
    )


def _worked(at: TracedElement, phase: Pass, value: float) -> Worked:
    if phase == "backward":
        return gradient_worked_out(at)
    if at.name in at.numbers.plan:
        return worked_out(at)
    formula, notes = f"{at.element} is stored, not computed", _of_stored(at.numbers.model, at.name)
    return Worked(formula, (), abs(value), notes, value)


def _of_stored(model: LanguageModel, name: str) -> tuple[str, ...]:
    """How a parameter's element lies in its file, or where its gradient is explained."""
    tensor = model.tensors.get(name)
    if tensor is None:
        return ("a parameter, which training sets; --backward explains its gradient",)
    note = f"read from {tensor.name}, stored as {tensor.encoding.name}"
    order = ", whose rows the file has in another order" * tensor.permuted
    return (note + ", whose rows the file has as columns" * tensor.by_columns + order,)


def _deviation(value: float, traced: float, dtype: str) -> float:
    """How far the two are apart; 0 where both are NaN, or the same beyond what the type holds."""
    if math.isfinite(value) and math.isfinite(traced):
        return abs(value - traced)
    with np.errstate(over="ignore"):
        same = np.array_equal(np.asarray(value, dtype), np.asarray(traced, dtype), equal_nan=True)
    return 0.0 if same else math.inf


def _of_nan(worked: Worked, traced: float, dtype: str) -> tuple[str, ...]:
    """A NaN that is none of the terms'."""
    if not math.isnan(traced) or not math.isfinite(worked.value):
        return ()
    if worked.magnitude > np.finfo(dtype).max:
        return (f"on the way it passes what {dtype} holds",)
    return ("a NaN of another head or position has spread, for zero times NaN is NaN",)


def _of_replaced(at: TracedElement) -> list[str]:
    """What hooks put in the place of what the model computed, here or where it was read from."""
    read = at.row.inputs if at.name in at.numbers.plan else ()
    return [
        f"a hook put other values in the place of {'the gradient of ' * (phase == 'backward')}{name}"
        for phase, name in sorted(at.numbers.replaced)
        if name in (at.name, *read)
    ]


UPDATED = "Adam turns it into the update of this parameter"


def worked_out(at: TracedElement) -> Worked:
    """The arithmetic of the element of a forward event."""
    formula = Formulas(at.numbers.plan, at.numbers.replaced).forward(at.name)
    places = ElementPlaces(at.numbers, at.name, at.index, formula)
    steps, magnitude = written_out(places, str(at.element), at.most)
    told = getattr(arithmetic_of(at.row.kind), "notes", None)
    return Worked(f"{at.own} = {in_words(places)}", steps, magnitude, told(at) if told else ())


def gradient_worked_out(at: TracedElement) -> Worked:
    """The arithmetic of d loss / d the element: the sum of what comes by way of each reader, its gradient
    times the local derivative."""
    name = f"d {at.element}"
    found = Formulas(at.numbers.plan, at.numbers.replaced).backward(at.name, at.index) or ()
    ways = [_by_way_of(at, way, name if len(found) == 1 else f"by way of {way.reader}") for way in found]
    steps = [step for way in ways for step in way.steps]
    if len(ways) > 1:
        last = (way.steps[-1] for way in ways)
        steps.append(sum_of(name, [one_term([Factor(own.label, own.value)]) for own in last]))
    formula = f"d {at.own} = {' + '.join(way.formula for way in ways)}"
    magnitude, reached = sum(way.magnitude for way in ways), any(way.steps[-1].count for way in ways)
    return Worked(formula, tuple(steps), magnitude, _of_gradient(at, reached))


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
