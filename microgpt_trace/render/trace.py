"""A Trace as sections, of whatever model: what it read, events, predictions, what it reveals, self-check."""

from __future__ import annotations

from collections.abc import Iterator

from ..tracing.result import Trace
from .interventions import before_and_after_section, interventions_section
from .sections import Section
from .trace_events import backward_sections, stage_sections
from .trace_findings import anomalies_section, checks_section, headline_sections, insights_section
from .trace_header import header_sections
from .trace_layers import layers_section
from .trace_predictions import generation_sections, lens_section, prediction_sections


def trace_sections(trace: Trace, *, verbose: bool = False, overview: bool = True) -> list[Section]:
    """The whole trace. With `overview` a production model's layers are a row each, not events."""
    return [*header_sections(trace), *headline_sections(trace), *_body(trace, verbose, overview)]


def _body(trace: Trace, verbose: bool, overview: bool) -> Iterator[Section]:
    if trace.intervened is not None:
        yield interventions_section(trace.intervened)
    if overview and trace.layers:
        whole = [event for event in trace.events if event.layer is None]
        yield from stage_sections(trace, [e for e in whole if e.stage == "embedding"], verbose)
        yield layers_section(trace)
        yield from stage_sections(trace, [e for e in whole if e.stage == "head"], verbose)
    else:
        yield from stage_sections(trace, trace.events, verbose)
    yield from prediction_sections(trace)
    if trace.intervened is not None:
        yield before_and_after_section(trace.intervened, trace.predictions, trace.loss)
    if trace.lens:
        yield lens_section(trace)
    if trace.generation or trace.generation_end:
        yield from generation_sections(trace, verbose)
    yield insights_section(trace)
    if trace.anomalies:
        yield anomalies_section(trace.anomalies)
    yield from backward_sections(trace)
    yield checks_section(trace.checks)
