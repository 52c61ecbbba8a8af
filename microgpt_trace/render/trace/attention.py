"""The attention weights of a trace as matrices of its heads, those that say most first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...architecture.plans.kinds import Kind, Softmax
from ...architecture.plans.plan import Operation
from ...arrays.stats import Array
from ...hooks.event import EventSpec, TraceEvent
from ...tracing.result import Trace
from ..sections import AttentionMatrices, Section, words

MOST = 64  # tokens whose matrices are shown


def attention_sections(trace: Trace, events: Sequence[TraceEvent], whole: bool) -> Iterator[Section]:
    """The weights among the events, as far as the trace kept them. Several sections share a screen; if
    `whole`, what the overview has is shown with all heads."""
    weights = _weights(trace, events)
    for event in weights:
        length = event.shape[-1]
        if length > MOST:
            how = f"--show '{event.name}[0]' prints a head"
            yield Section([words(f"Attention weights of {length:,} tokens have no room here: {how}", "dim")])
        elif ("forward", event.name) in trace.arrays:
            all_heads = whole and trace.specs[event.name].overview
            sharing = None if all_heads else len(_weights(trace, trace.events))
            yield Section([_matrices(trace, event.name, sharing)])


def _weights(trace: Trace, events: Sequence[TraceEvent]) -> list[TraceEvent]:
    """The attention weights of the whole text among some events; those of a step of a continuation are a
    row."""
    length = len(trace.input.tokens)
    return [
        event
        for event in events
        if event.phase == "forward"
        and isinstance(kind_in(trace.specs, event.name), Softmax)
        and event.shape[1:] == (length, length)
    ]


def kind_in(specs: Mapping[str, EventSpec], name: str) -> Kind | None:
    """The kind of an event, where it is a plan's."""
    spec = specs[name]
    return spec.kind if isinstance(spec, Operation) else None


def _matrices(trace: Trace, name: str, sharing: int | None) -> AttentionMatrices:
    weights = trace[name]
    order = _telling(weights)
    more = f"those with the largest weight off position 0; --show '{name}[{order[-1]}]' prints another"
    more += ", --verbose all" * trace.specs[name].overview
    in_figures = f"; --show '{name}[{order[0]}]' shows all of a head"
    in_file = f"; --layer {name} --save FILE keeps all"
    return AttentionMatrices(weights, trace.input.labels, order, more, sharing, in_figures, in_file)


def _telling(weights: Array) -> list[int]:
    """The heads of [H, T, T] by their largest weight off position 0, NaN before all; ties by number."""
    largest = weights[:, :, 1:].max(axis=(1, 2), initial=0.0)
    found: list[int] = np.argsort(-np.where(np.isnan(largest), np.inf, largest), kind="stable").tolist()
    return found
