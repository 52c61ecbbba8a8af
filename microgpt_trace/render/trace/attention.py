"""Show the attention weights of a trace as one matrix per head. The most informative heads come first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...architecture.plans.kinds import Kind, Softmax
from ...architecture.plans.plan import Operation
from ...hooks.event import EventSpec, TraceEvent
from ...tracing.result import Trace
from ..sections import AttentionMatrices, Section, words

MOST = 64  # largest number of tokens for which attention matrices are shown


def attention_sections(trace: Trace, events: Sequence[TraceEvent], verbose: bool) -> Iterator[Section]:
    """Yield a section for each event with attention weights that the trace stored. All sections together fit
    on one screen. If `verbose` is set, events of the overview show all heads instead."""
    weights = _weights(trace, events)
    for event in weights:
        length = event.shape[-1]
        if length > MOST:
            cause = f"The attention weights of {length:,} tokens do not fit here"
            yield Section([words(f"{cause}; --show '{event.name}[0]' prints one head.", "dim")])
        elif ("forward", event.name) in trace.arrays:
            all_heads = verbose and trace.specs[event.name].overview
            sharing = None if all_heads else len(_weights(trace, trace.events))
            yield Section([_matrices(trace, event.name, sharing)])


def _weights(trace: Trace, events: Sequence[TraceEvent]) -> list[TraceEvent]:
    """Return the events with attention weights of the whole text, without the events of generated tokens."""
    length = len(trace.input.tokens)
    return [
        event
        for event in events
        if event.phase == "forward"
        and isinstance(kind_in(trace.specs, event.name), Softmax)
        and event.shape[1:] == (length, length)
    ]


def kind_in(specs: Mapping[str, EventSpec], name: str) -> Kind | None:
    """Return the kind of an event, or None if the event is not a row of the plan."""
    spec = specs[name]
    return spec.kind if isinstance(spec, Operation) else None


def _matrices(trace: Trace, name: str, sharing: int | None) -> AttentionMatrices:
    weights = trace[name]
    largest = weights[:, :, 1:].max(axis=(1, 2), initial=0.0)  # of each head; heads with NaN come first
    order = np.argsort(-np.where(np.isnan(largest), np.inf, largest), kind="stable").tolist()
    more = f"the heads with the largest weight after position 0; --show '{name}[{order[-1]}]' prints another "
    more += "head" + ", --verbose prints all" * trace.specs[name].overview
    in_figures = f"; --show '{name}[{order[0]}]' prints a whole head"
    in_file = f"; --layer {name} --save FILE saves all weights"
    return AttentionMatrices(weights, trace.input.labels, order, more, sharing, in_figures, in_file)
