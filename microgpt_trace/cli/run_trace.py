"""Run a trace and show, serialise and save what was asked for; or validate its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..architecture.plans.kinds import Softmax
from ..render.shown import sections_of
from ..tracing.trace import trace
from .output import note, put, show
from .progress import progress
from .selection import Request, kept, layers_of, selected, with_stages
from .trace_page import arrays_of_figures, figures, traced_for_page, write_page

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..arrays.stats import Array
    from ..hooks.event import Phase, TraceEvent
    from ..render.sections import Section
    from ..tracing.findings import Anomaly
    from ..tracing.result import Trace
    from .trace_options import Shown


def run(
    context: typer.Context, path: Path | None, model: LanguageModel, request: Request,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """Trace the model of this path, then write what the request names; exit 1 where a check failed or a gate
    says no."""
    layers = layers_of(request.layers, model.config.n_layer)
    names = selected(model, request, layers)
    needed = _needed(model, request, names, layers)
    needed += arrays_of_figures(request.drawn, model, options, layers)
    passes = options.get("generate") or 1
    with _following(model, passes), _attention(model, request, names) as seen:
        if request.drawn.html is None:
            result = trace(model, names=names, values=needed, **options)
        else:
            whole, recorded, result = traced_for_page(model, names, needed, options, request, layers)
    result.arrays.update(seen)
    if layers:
        result = replace(result, layers=tuple(row for row in result.layers if row.layer in layers))
    sections = [] if request.written.is_json else _sections(result, model, request.shown)
    _save(result, model, request, layers)
    request.drawn.write(list(figures(request.drawn, model, result, layers)))
    if request.drawn.html is not None:
        write_page(context, path, model, whole, recorded, result, request)
    if request.written.is_json:
        _write_json(result, model, request, layers)
    else:
        show(sections, request.written.target, request.drawn.force)
    if request.fail_on:
        _tell_unjudged(result.anomalies)
    found = any(anomaly.found for anomaly in result.anomalies)
    if not result.ok or (request.fail_on and found):
        raise typer.Exit(1)


def run_validation(
    model: LanguageModel, request: Request, text: str | None, tokens: list[int] | None
) -> None:
    """Show whether each captured value is the one that the computation uses; exit 1 where one is not."""
    from ..tracing.validation import validate

    shown, written = request.shown, request.written
    with progress("layer") as report:
        found = validate(model, text, tokens=tokens, names=shown.layer or [], report=report)
    written.give(found, partial(sections_of, found, verbose=shown.verbose), request.drawn.force)
    if not found.ok:
        raise typer.Exit(1)


def _needed(model: LanguageModel, request: Request, names: list[str], layers: list[int]) -> list[str]:
    """The events whose arrays the request needs."""
    shown, written = request.shown, request.written
    wanted = [*(names if written.values or written.save else [])]
    if shown.show_names:
        from .shown_arrays import shown_events

        wanted += shown_events(model, shown.show_names)
    if written.save_aprt is not None:
        wanted += with_stages(model, names if shown.layer or layers else list(model.hooks.specs))
    return wanted


def _save(result: Trace, model: LanguageModel, request: Request, layers: list[int]) -> None:
    save, save_aprt = request.written.save, request.written.save_aprt
    if save is not None:
        from ..dumps.stored_arrays import save_arrays

        save_arrays(result, save, request.drawn.force)
        note(f"saved {kept(result, model, request, layers, 'saves', f' to {save}')}")
    if save_aprt is not None:
        from ..dumps.aprt_writing import write_aprt

        note(f"saved {write_aprt(result, save_aprt):,} APRT dumps to {save_aprt}")


def _write_json(result: Trace, model: LanguageModel, request: Request, layers: list[int]) -> None:
    from ..render.documents.trace_as_json import trace_json, trace_json_lines

    shown, written = request.shown, request.written
    for text in result.input.notes:
        note(text)
    if written.values and not (shown.layer or shown.verbose):
        note(f"the JSON has the values of {kept(result, model, request, layers, 'has')}")
    values = written.values
    pieces = trace_json_lines(result, values) if written.as_jsonl else [trace_json(result, values)]
    put(pieces, written.target, request.drawn.force)


def _tell_unjudged(anomalies: Sequence[Anomaly]) -> None:
    """What the gate could not look at: it passes all the same, and must not do so in silence."""
    for reason, rules in groupby((a for a in anomalies if a.found is None), key=lambda a: a.detail):
        note(f"--fail-on anomaly: {', '.join(rule.id for rule in rules)} not evaluated, {reason}")


@contextmanager
def _attention(
    model: LanguageModel, request: Request, names: list[str]
) -> Iterator[dict[tuple[Phase, str], Array]]:
    """Those attention weights among the events that have room on a screen, which a long text's do not."""
    seen: dict[tuple[Phase, str], Array] = {}
    weights = [row.name for row in model.plan.of_kind(Softmax) if row.name in names]
    if request.written.is_json or not weights:
        yield seen
        return
    from ..render.trace.attention import MOST

    def keep(event: TraceEvent, value: Array) -> None:
        if value.shape[-1] <= MOST and (event.phase, event.name) not in seen:  # a continuation has others
            seen[event.phase, event.name] = value.copy()

    with model.hooks.subscribe(keep, *weights):
        yield seen


@contextmanager
def _following(model: LanguageModel, passes: int) -> Iterator[None]:
    """Report each layer on stderr where the run takes long, or each of several passes, one a token."""
    done, layers = 0, model.config.n_layer
    what, total, each = ("layer", layers, 1) if passes == 1 else ("token", passes, layers)
    with progress(what) as report:

        def told(event: TraceEvent, value: Array) -> None:
            nonlocal done
            done += 1
            report(done // each, total)

        with model.hooks.subscribe(told, *model.plan.streams[1:]):
            yield


def _sections(result: Trace, model: LanguageModel, shown: Shown) -> Sequence[Section]:
    asked: list[Section] | None = [] if shown.layer else None
    if shown.show_names:
        from .shown_arrays import array_sections

        asked = list(array_sections(result, model, shown.show_names))
    overview = not (shown.layer or shown.verbose)
    return sections_of(result, verbose=shown.verbose, overview=overview, brief=shown.brief, asked=asked)
