"""microgpt trace"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import typer

from ..errors import InputError
from ..files import check_new_folder
from ..plans.kinds import Softmax
from ..render.shown import sections_of
from ..text.wording import counted
from ..tracing.trace import trace as trace_text
from .browser import open_page, temporary_page
from .common_options import FileSettings
from .named_model import model_and_text, model_from, refuse_other_family
from .output import check_file, exit_unless, note, put, show
from .progress_line import progress
from .trace_exports import arrays_of_figures, figures, traced_for_page, write_page
from .trace_options import (
    Backward,
    Checks,
    Interventions,
    PredictionOptions,
    Request,
    Shown,
    TraceExports,
    TraceSource,
    Written,
    interventions_of,
    run_options,
    with_stages,
)

if TYPE_CHECKING:
    from ..arrays.stats import Array
    from ..hooks.event import Phase, TraceEvent
    from ..models.language_model import LanguageModel
    from ..render.sections import Section
    from ..tracing.result import Trace


def trace(
    context: typer.Context, *, source: TraceSource, shown: Shown, predictions: PredictionOptions,
    backward: Backward, written: Written, exports: TraceExports, interventions: Interventions, checks: Checks,
    settings: FileSettings,
) -> None:  # fmt: skip
    """Trace a text through every stage of a model: shapes, norms, ranges and predictions.

    Exit code 1: a check failed, or --fail-on found an anomaly.
    """
    path, text = model_and_text(source.first, source.second, source.model)
    if exports.interactive and exports.html is None:
        exports = replace(cast(Any, exports), html=temporary_page("trace"))
    _check_files(written, exports, path)
    model = model_from(path, source.seed, settings, samples=bool(predictions.temperature))
    refuse_other_family(context, model)
    changes = interventions_of(interventions, model)
    options = run_options(model, source, predictions, backward, checks)
    if written.save is not None and len(predictions.target or ()) > 1:
        raise InputError("--save: expected one --target, because the file has one gradient for each event")
    if checks.validate:
        _validate(model, shown, written, exports.force, text, options.get("tokens"))
    else:
        options |= {"text": text, "time": shown.time, "interventions": changes}
        result = _run(context, path, Request(model, shown, written, exports), options)
        if exports.interactive and exports.html is not None:
            open_page(exports.html)
        _exit_if_wrong(result, checks.fail_on is not None)
    if shown.payload:  # print this note last: a refused command prints only an error
        note("--payload has no effect: every trace runs the forward pass.")


EXAMPLES = (
    "microgpt trace emma",
    "microgpt trace emma --backward --step",
    'microgpt trace qwen2.5-0.5b-q4_k_m.gguf "The capital of France is" --verbose',
    "microgpt trace emma --ablate layer0.attn.head2",
    "microgpt trace emma --json | jq .loss",
)


def _check_files(written: Written, exports: TraceExports, model: Path | None) -> None:
    """Raise InputError for an output file that cannot be written, before the model is loaded."""
    targets = {"--save": written.save, "--out": written.target, "--save-aprt": written.save_aprt}
    exports.check("trace", targets, [model])
    check_file("--save", written.save, exports.force)
    check_file("--out", written.target, exports.force)
    if written.save_aprt is not None:
        check_new_folder(written.save_aprt)


def _run(context: typer.Context, path: Path | None, request: Request, options: dict[str, Any]) -> "Trace":
    """Trace the model of this path, show the result and write the requested files."""
    model, written, exports = request.model, request.written, request.exports
    layers, names = request.layers, request.selected()
    needed = [*_needed(request, names), *arrays_of_figures(exports, model, options, layers)]
    gradients: IO[bytes] | None = None
    if options.get("parameters"):
        options["on_gradient"] = lambda name, gradient: None
    if written.save is not None and options.get("parameters"):
        from tempfile import TemporaryFile

        unnamed = TemporaryFile(dir=written.save.parent)  # noqa: SIM115 (closed, and thereby removed, below)
        waiting = gradients = context.with_resource(unnamed)
        options["on_gradient"] = lambda name, gradient: waiting.write(gradient.data)
    with _layer_progress(model, options.get("generate") or 1), _attention_weights(request, names) as weights:
        if exports.html is None:
            result = trace_text(model, names=names, values=needed, **options)
        else:
            whole, recorded, result = traced_for_page(request, names, needed, options)
    result.arrays.update(weights)
    if layers:
        rows = tuple(row for row in result.layers if row.layer in layers)
        experts = tuple(row for row in result.experts if row.layer in layers)
        result = replace(result, layers=rows, experts=experts)
    sections = [] if written.is_json else _sections(result, request)
    _save(result, request, gradients)
    exports.write(list(figures(exports, model, result, layers)))
    if exports.html is not None:
        write_page(context, path, request, whole, recorded, result, options)
    if written.is_json:
        _write_json(result, request)
    else:
        show(sections, written.target, exports.force)
    return result


def _exit_if_wrong(result: "Trace", fail_on_anomaly: bool) -> None:
    """Exit with code 1 if a check failed, or if --fail-on is set and there is an anomaly. --fail-on also
    prints the rules that could not be evaluated, which do not change the exit code."""
    if fail_on_anomaly:
        unjudged = (anomaly for anomaly in result.anomalies if anomaly.found is None)
        for reason, rules in groupby(unjudged, key=lambda anomaly: anomaly.detail):
            note(f"--fail-on anomaly: {', '.join(rule.id for rule in rules)} not evaluated, {reason}")
    has_anomaly = any(anomaly.found for anomaly in result.anomalies)
    exit_unless(result.ok and not (fail_on_anomaly and has_anomaly))


def _validate(
    model: "LanguageModel", shown: Shown, written: Written, overwrite: bool, text: str | None,
    tokens: list[int] | None,
) -> None:  # fmt: skip
    """Show for each event whether the computation uses it. Exit with code 1 if the validation fails."""
    from ..tracing.validation import validate

    with progress("layer") as report:
        result = validate(model, text, tokens=tokens, names=shown.layer or [], report=report)
    written.give(result, partial(sections_of, result, verbose=shown.verbose), overwrite)
    exit_unless(result.ok)


def _needed(request: Request, names: list[str]) -> list[str]:
    """Return the events whose arrays the request needs."""
    model, shown, written = request.model, request.shown, request.written
    needed = [*(names if written.values or written.save else [])]
    if shown.show_names:
        from .shown_arrays import shown_events

        needed += shown_events(model, shown.show_names)
    if written.save_aprt is not None:
        needed += with_stages(names if shown.layer or request.layers else list(model.hooks.specs))
    return needed


def _save(result: "Trace", request: Request, gradients: "IO[bytes] | None") -> None:
    save, save_aprt = request.written.save, request.written.save_aprt
    if save is not None:
        from ..dumps.stored_arrays import save_arrays

        save_arrays(result, save, request.exports.force, gradients)
        also = f"the gradients of {counted(len(result.parameters), 'parameter')} and " if gradients else ""
        note(f"saved {also}{request.kept(result, 'saves', f' to {save}')}")
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
    put(pieces, written.target, request.exports.force)


@contextmanager
def _attention_weights(request: Request, names: list[str]) -> "Iterator[dict[tuple[Phase, str], Array]]":
    """Store the attention matrices that are small enough for a screen."""
    kept: dict[tuple[Phase, str], Array] = {}
    events = [row.name for row in request.model.plan.of_kind(Softmax) if row.name in names]
    if request.written.is_json or not events:
        yield kept
        return
    from ..render.trace.events import MOST_TOKENS

    def keep(event: "TraceEvent", value: "Array") -> None:
        is_first = (event.phase, event.name) not in kept  # of the passes of this text
        if is_first and value.shape[-1] <= MOST_TOKENS:
            kept[event.phase, event.name] = value.copy()

    with request.model.hooks.subscribe(keep, *events):
        yield kept


@contextmanager
def _layer_progress(model: "LanguageModel", passes: int) -> Iterator[None]:
    """Report progress on stderr. Progress counts layers in a single pass, and tokens in several passes."""
    done, layers = 0, model.config.n_layer
    noun, total, each = ("layer", layers, 1) if passes == 1 else ("token", passes, layers)
    with progress(noun) as report:

        def count(event: "TraceEvent", value: "Array") -> None:
            nonlocal done
            done += 1
            report(done // each, total)

        with model.hooks.subscribe(count, *model.plan.streams[1:]):
            yield


def _sections(result: "Trace", request: Request) -> "Sequence[Section]":
    shown = request.shown
    arrays: list[Section] | None = [] if shown.layer else None
    if shown.show_names:
        from .shown_arrays import array_sections

        arrays = list(array_sections(result, request.model, shown.show_names))
    overview = not (shown.layer or shown.verbose)
    return sections_of(result, verbose=shown.verbose, overview=overview, brief=shown.brief, requested=arrays)
