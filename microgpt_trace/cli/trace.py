"""microgpt trace"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..architecture.plans.kinds import Softmax
from ..files import check_new_folder
from ..render.shown import sections_of
from ..tracing.trace import trace as trace_text
from .named_model import model_and_text, model_from, refuse_other_family
from .options import OfFile, Seed, Source
from .output import check_file, note, put, show
from .progress import progress
from .trace_options import (
    DrawnOfTrace,
    Interventions,
    OfMicroGPT,
    OfProduction,
    Request,
    Shown,
    Written,
    interventions_of,
    layers_of,
    with_stages,
)
from .trace_page import arrays_of_figures, figures, traced_for_page, write_page

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..arrays.stats import Array
    from ..hooks.event import Phase, TraceEvent
    from ..render.sections import Section
    from ..tracing.result import Trace


def trace(
    context: typer.Context,
    *,
    source: Source,
    shown: Shown,
    written: Written,
    drawn: DrawnOfTrace,
    seed: Seed = None,
    of_microgpt: OfMicroGPT,
    of_production: OfProduction,
    of_file: OfFile,
    interventions: Interventions,
) -> None:
    """Trace a text through every stage: shapes, norms, ranges and predictions."""
    path, text = model_and_text(source.first, source.second, source.model)
    _check_files(written, drawn, path)
    theirs = of_production.options()
    model = model_from(path, seed, of_file, draws=bool(of_production.temperature))
    refuse_other_family(context, model)
    changes = interventions_of(interventions, model)
    own = vars(of_microgpt)
    if "prompts" in model.abilities:
        own = theirs if seed is None else theirs | {"seed": seed}
    if shown.validate:
        _validate(model, shown, written, drawn.force, text, own.get("tokens"))
    else:
        request = Request(model, shown, written, drawn, layers_of(of_production.layers, model.config.n_layer))
        shared = {"text": text, "top_k": shown.top_k, "time": written.time, "interventions": changes}
        result = _run(context, path, request, shared | own)
        _exit_if_wrong(result, of_production.fail_on is not None)
    if shown.payload:  # said in the end, for a refusal is one line
        note("--payload: every trace here runs the forward pass; the flag changes nothing")


EXAMPLES = (
    "microgpt trace olivia --verbose · microgpt trace emma --backward --step · "
    'microgpt trace qwen2.5-0.5b-q4_k_m.gguf "The capital of France is" --verbose · '
    "microgpt trace emma --ablate layer0.attn.head2 · microgpt trace emma --json | jq .loss"
)


def _check_files(written: Written, drawn: DrawnOfTrace, model: Path | None) -> None:
    """Raises InputError where a file could not be written, which is known before anything is loaded."""
    targets = {"--save": written.save, "--out": written.target, "--save-aprt": written.save_aprt}
    drawn.check("trace", targets, [model])
    check_file("--save", written.save, drawn.force)
    check_file("--out", written.target, drawn.force)
    if written.save_aprt is not None:
        check_new_folder(written.save_aprt)


def _run(context: typer.Context, path: Path | None, request: Request, options: dict[str, Any]) -> "Trace":
    """Trace the model of this path, and write what the request names."""
    model, written, drawn = request.model, request.written, request.drawn
    layers, names = request.layers, request.selected()
    needed = [*_needed(request, names), *arrays_of_figures(drawn, model, options, layers)]
    with _following(model, options.get("generate") or 1), _attention(request, names) as seen:
        if drawn.html is None:
            result = trace_text(model, names=names, values=needed, **options)
        else:
            whole, recorded, result = traced_for_page(request, names, needed, options)
    result.arrays.update(seen)
    if layers:
        result = replace(result, layers=tuple(row for row in result.layers if row.layer in layers))
    sections = [] if written.is_json else _sections(result, request)
    _save(result, request)
    drawn.write(list(figures(drawn, model, result, layers)))
    if drawn.html is not None:
        write_page(context, path, request, whole, recorded, result)
    if written.is_json:
        _write_json(result, request)
    else:
        show(sections, written.target, drawn.force)
    return result


def _exit_if_wrong(result: "Trace", fail_on_anomaly: bool) -> None:
    """Exit 1 where a check failed or a gate says no. What the gate could not look at passes all the same, and
    must not do so in silence."""
    if fail_on_anomaly:
        unjudged = (anomaly for anomaly in result.anomalies if anomaly.found is None)
        for reason, rules in groupby(unjudged, key=lambda anomaly: anomaly.detail):
            note(f"--fail-on anomaly: {', '.join(rule.id for rule in rules)} not evaluated, {reason}")
    found = any(anomaly.found for anomaly in result.anomalies)
    if not result.ok or (fail_on_anomaly and found):
        raise typer.Exit(1)


def _validate(
    model: "LanguageModel", shown: Shown, written: Written, overwrite: bool, text: str | None,
    tokens: list[int] | None,
) -> None:  # fmt: skip
    """Show whether each captured value is the one that the computation uses; exit 1 where one is not."""
    from ..tracing.validation import validate

    with progress("layer") as report:
        found = validate(model, text, tokens=tokens, names=shown.layer or [], report=report)
    written.give(found, partial(sections_of, found, verbose=shown.verbose), overwrite)
    if not found.ok:
        raise typer.Exit(1)


def _needed(request: Request, names: list[str]) -> list[str]:
    """The events whose arrays the request needs."""
    model, shown, written = request.model, request.shown, request.written
    wanted = [*(names if written.values or written.save else [])]
    if shown.show_names:
        from .shown_arrays import shown_events

        wanted += shown_events(model, shown.show_names)
    if written.save_aprt is not None:
        wanted += with_stages(model, names if shown.layer or request.layers else list(model.hooks.specs))
    return wanted


def _save(result: "Trace", request: Request) -> None:
    save, save_aprt = request.written.save, request.written.save_aprt
    if save is not None:
        from ..dumps.stored_arrays import save_arrays

        save_arrays(result, save, request.drawn.force)
        note(f"saved {request.kept(result, 'saves', f' to {save}')}")
    if save_aprt is not None:
        from ..dumps.aprt_writing import write_aprt

        note(f"saved {write_aprt(result, save_aprt):,} APRT dumps to {save_aprt}")


def _write_json(result: "Trace", request: Request) -> None:
    from ..render.documents.trace_as_json import trace_json, trace_json_lines

    shown, written = request.shown, request.written
    for text in result.input.notes:
        note(text)
    if written.values and not (shown.layer or shown.verbose):
        note(f"the JSON has the values of {request.kept(result, 'has')}")
    values = written.values
    pieces = trace_json_lines(result, values) if written.as_jsonl else [trace_json(result, values)]
    put(pieces, written.target, request.drawn.force)


@contextmanager
def _attention(request: Request, names: list[str]) -> "Iterator[dict[tuple[Phase, str], Array]]":
    """Those attention weights among the events that have room on a screen, which a long text's do not."""
    seen: dict[tuple[Phase, str], Array] = {}
    weights = [row.name for row in request.model.plan.of_kind(Softmax) if row.name in names]
    if request.written.is_json or not weights:
        yield seen
        return
    from ..render.trace.attention import MOST

    def keep(event: "TraceEvent", value: "Array") -> None:
        if value.shape[-1] <= MOST and (event.phase, event.name) not in seen:  # a continuation has others
            seen[event.phase, event.name] = value.copy()

    with request.model.hooks.subscribe(keep, *weights):
        yield seen


@contextmanager
def _following(model: "LanguageModel", passes: int) -> Iterator[None]:
    """Report each layer on stderr where the run takes long, or each of several passes, one a token."""
    done, layers = 0, model.config.n_layer
    what, total, each = ("layer", layers, 1) if passes == 1 else ("token", passes, layers)
    with progress(what) as report:

        def told(event: "TraceEvent", value: "Array") -> None:
            nonlocal done
            done += 1
            report(done // each, total)

        with model.hooks.subscribe(told, *model.plan.streams[1:]):
            yield


def _sections(result: "Trace", request: Request) -> "Sequence[Section]":
    shown = request.shown
    asked: list[Section] | None = [] if shown.layer else None
    if shown.show_names:
        from .shown_arrays import array_sections

        asked = list(array_sections(result, request.model, shown.show_names))
    overview = not (shown.layer or shown.verbose)
    return sections_of(result, verbose=shown.verbose, overview=overview, brief=shown.brief, asked=asked)
