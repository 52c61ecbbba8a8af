"""Run a trace and show, serialise and save what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from ..architecture.kinds import Softmax
from ..hooks.names import select_names
from ..tracing.trace import trace
from .output import note, put, show
from .progress import progress
from .selection import Request, kept, layers_of, selected, with_stages

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..arrays.stats import Array
    from ..hooks.event import TraceEvent
    from ..render.screen import Screen
    from ..tracing.findings import Anomaly
    from ..tracing.result import Trace


def run(model: LanguageModel, request: Request, options: dict[str, Any]) -> None:
    """Trace, then write what the request names; exit 1 where a check failed or a gate says no."""
    production = "prompts" in model.abilities
    chosen = layers_of(request.layers, model.config.n_layer)
    names = selected(model, request, chosen)
    shown = [name for asked in request.show for name in select_names([asked], _known(model))]
    wanted = [*shown, *(names if request.values or request.save else [])]
    if request.verbose and not production:
        wanted += [row.name for row in model.plan.of_kind(Softmax)]
    parameters = model.config.shapes()
    if request.save_aprt is not None:
        wanted += with_stages(model, names if request.layer or chosen else list(model.hooks.specs))
    wanted = [name for name in wanted if not production or name not in parameters]
    with _following(model, max(1, options.get("generate") or 1)):
        result = trace(model, names=names, values=wanted, **options)
    if chosen:
        result = replace(result, layers=tuple(row for row in result.layers if row.layer in chosen))
    if request.save is not None:
        from ..dumps.arrays_file import save_arrays

        save_arrays(result, request.save)
        note(f"saved {kept(result, model, request, chosen, 'saves', f' to {request.save}')}")
    if request.save_aprt is not None:
        from ..dumps.aprt_writing import write_aprt

        note(f"saved {write_aprt(result, request.save_aprt):,} APRT dumps to {request.save_aprt}")
    if request.is_json:
        from ..render.document import to_json, to_json_lines

        for text in result.input.notes:
            note(text)
        if request.values and not (request.layer or request.verbose):
            note(f"the JSON has the values of {kept(result, model, request, chosen, 'has')}")
        lines = to_json_lines(result, request.values) if request.as_jsonl else [
            to_json(result, request.values)
        ]  # fmt: skip
        put(lines, request.out)
    else:
        show(lambda screen: _paint(result, model, request, screen), request.out)
    found = any(anomaly.found for anomaly in result.anomalies)
    if request.fail_on:
        _tell_unjudged(result.anomalies)
    if not result.ok or (request.fail_on and found):
        raise typer.Exit(1)


def _tell_unjudged(anomalies: Sequence[Anomaly]) -> None:
    """What the gate could not look at: it passes all the same, and must not do so in silence."""
    for reason, rules in groupby((a for a in anomalies if a.found is None), key=lambda a: a.detail):
        note(f"--fail-on anomaly: {', '.join(rule.id for rule in rules)} not evaluated, {reason}")


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


def _paint(result: Trace, model: LanguageModel, request: Request, screen: Screen) -> None:
    from ..render.terminal import print_sections
    from ..render.trace import trace_sections

    overview = not (request.layer or request.verbose)
    print_sections(trace_sections(result, verbose=request.verbose, overview=overview), screen)
    if request.show:
        _paint_arrays(result, model, request, screen)


def _paint_arrays(result: Trace, model: LanguageModel, request: Request, screen: Screen) -> None:
    from ..render.arrays import print_array

    labels, parameters = result.input.labels, model.config.shapes()
    for name in [found for asked in request.show for found in select_names([asked], _known(model))]:
        if name in parameters:
            print_array(name, _parameter(model, name), model, labels, screen, shape=parameters[name])
        if ("forward", name) in result.arrays:
            print_array(name, result[name], model, labels, screen)
        if ("backward", name) in result.arrays:
            print_array(name, result.gradient(name), model, labels, screen, f"d loss / d {name}")


def _known(model: LanguageModel) -> list[str]:
    """The names of events and parameters."""
    events = list(model.hooks.specs)
    return [*events, *(name for name in model.config.shapes() if name not in model.hooks.specs)]


def _parameter(model: LanguageModel, name: str) -> Array:
    from ..render.arrays import MAX_ROWS

    return model.parameter(name, slice(0, MAX_ROWS)) if model.tensors else model.parameter(name)
