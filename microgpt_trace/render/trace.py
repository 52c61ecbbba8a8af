"""A Trace as sections, of whatever model: what it read, events, predictions, what it reveals, self-check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..tracing.result import Trace
from .interventions import before_and_after_section, interventions_section
from .sections import Section
from .trace_events import backward_sections, stage_sections
from .trace_findings import anomalies_section, checks_section, headline_sections, insights_section
from .trace_header import header_sections
from .trace_layers import layers_section
from .trace_lens import lens_sections
from .trace_predictions import generation_sections, prediction_sections


def trace_sections(
    trace: Trace, *, verbose: bool = False, overview: bool = True, brief: bool = False,
    asked: Sequence[Section] | None = None,
) -> list[Section]:  # fmt: skip
    """The whole trace. With `overview` a production model's layers are a row each, not events. `brief` leaves
    prose out, and so do events or arrays that were `asked` for, which come first: of the header nothing but
    the input stays. What failed is always told in full."""
    head = [*header_sections(trace, whole=asked is None), *headline_sections(trace)]
    return [*head, *(asked or ()), *_body(trace, verbose, overview, brief or asked is not None)]


def _body(trace: Trace, verbose: bool, overview: bool, brief: bool) -> Iterator[Section]:
    if trace.intervened is not None:
        yield interventions_section(trace.intervened)
    if overview and trace.layers:
        whole = [event for event in trace.events if event.layer is None]
        yield from stage_sections(trace, [e for e in whole if e.stage == "embedding"], verbose)
        yield layers_section(trace, brief)
        yield from stage_sections(trace, [e for e in whole if e.stage == "head"], verbose)
    else:
        yield from stage_sections(trace, trace.events, verbose)
    yield from prediction_sections(trace)
    if trace.intervened is not None:
        yield before_and_after_section(trace.intervened, trace.predictions, trace.loss)
    yield from lens_sections(trace)
    if trace.generation or trace.generation_end:
        yield from generation_sections(trace, verbose)
    if not brief:
        yield insights_section(trace)
    if trace.anomalies:
        yield anomalies_section(trace.anomalies, brief)
    yield from backward_sections(trace)
    yield checks_section(trace.checks, brief)
