"""One run for an element: what of it must be kept, and what hooks put in the place of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from ..architecture.graph import inputs_of
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plan import kind_of
from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..diagnosis.operations import Weights
from ..diagnosis.rules import rules_of
from ..hooks.event import Phase, TraceEvent
from ..tracing.trace import trace
from .elements import Element, Shapes
from .traced import Traced
from .uses_of_parameters import readers_of_parameter

Computed = dict[tuple[Phase, str], Array]
_OF_LOGITS = ("logits", "probs", "final.norm")  # what takes the logits of its own position to explain


def run_for(
    model: LanguageModel, inputs: TraceInput, element: Element | None, shapes: Shapes, backward: bool
) -> Traced:
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
    replaced = frozenset(
        place
        for place, array in computed.items()
        if place in result.arrays and not np.array_equal(array, result.arrays[place], equal_nan=True)
    )
    rules, behind = rules_of(model, np.array(inputs.tokens)), Weights(model).behind
    arrays, predictions = result.arrays, result.predictions
    return Traced(model, inputs, arrays, rows, predictions, rules, behind, shapes, replaced)


def _rows(model: LanguageModel, element: Element, length: int) -> list[int]:
    """The positions whose logits are worked out: all, as a trace has them, where these are not too many
    to keep (then one more or less may round differently), else those that are needed."""
    if element.name == "loss" or length <= rows_of_a_part(model.config.vocab_size):
        return list(range(length))
    return [element.index[0]] if element.name in _OF_LOGITS else [length - 1]


def _needed(model: LanguageModel, element: Element, whole: bool) -> list[str]:
    """The events that an element is worked out from, those that it goes into, and what else they read;
    `whole` where logits are there for all positions."""
    if element.name == "loss":
        return ["loss"]  # the predictions tell the rest
    if element.name in model.config.shapes():
        events = readers_of_parameter(Weights(model).behind, element.name)
        events += ["embed.tok"] * (element.name == "wte")
    else:
        events = [element.name]
        for name in model.plan.readers[element.name]:
            head = element.index[-1] // model.config.head_dim
            if kind_of(name) != "attn.head" or Element(name, ()).head == head:
                events.append(name)
        if element.kind == "attn.out" and len(model.hooks):  # which may replace a head
            events += [f"{element.prefix}attn.head{h}" for h in range(model.config.n_head)]
    inputs, n_layer = model.inputs, model.config.n_layer
    sources = [source for name in events for source in inputs_of(inputs, name, n_layer)]
    of_one = ("loss",) if element.name in _OF_LOGITS else ("loss", "logits", "probs")
    unused = () if whole else of_one
    return [name for name in dict.fromkeys([*events, *sources]) if name not in unused]


def _as_computed(model: LanguageModel, names: Iterable[str]) -> AbstractContextManager[Computed]:
    """Note what is computed before hooks may replace it, where there are hooks."""
    return _watch(model, tuple(names)) if len(model.hooks) else nullcontext({})


@contextmanager
def _watch(model: LanguageModel, names: tuple[str, ...]) -> Iterator[Computed]:
    computed: Computed = {}

    def note(event: TraceEvent, value: Array) -> None:
        computed[event.phase, event.name] = value.copy()

    with model.hooks.subscribe(note, *names, phases=("forward", "backward"), first=True):
        yield computed
