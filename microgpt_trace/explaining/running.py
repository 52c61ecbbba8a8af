"""One run for an element: what of it must be kept, and what hooks put in the place of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..architecture.formulas.traced_element import Element, KnownTarget, RunValues, rows_with
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.plan import HEAD_EVENTS, Plan
from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..hooks.event import Phase, TraceEvent, differs
from ..tracing.trace import trace
from .elements import Shapes

Computed = dict[tuple[Phase, str], Array]


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
