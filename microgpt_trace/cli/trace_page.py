"""Makes the page and the figures of a trace. The page contains more values than the user requested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..render.shown import sections_of
from ..text.printable import quoted
from ..tracing.trace import trace
from .exports import Exports, draw_by_name
from .option_checks import RUN_PARAMETERS, command_line, given_words

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..hooks.event import Phase
    from ..render.figures.panel import Picture
    from ..render.page.recorder import Held
    from ..tracing.result import Trace
    from .trace_options import Request

OF_PRODUCTION = ("stream", "lens")  # figures that only exist for a production model


def traced_for_page(
    request: Request, names: list[str], kept: list[str], options: dict[str, Any]
) -> tuple[Trace, Mapping[str, Held], Trace]:
    """Return the trace that the page shows, the arrays recorded for the page, and the requested trace.

    The page of a microGPT shows all gradients. The page of a production model has a maximum size."""
    from ..render.page.recorder import PageRecorder
    from ..tracing.collector import narrowed

    model = request.model
    phases: tuple[Phase, ...] = ("forward", "backward", "update")
    recorded: Mapping[str, Held] = {}
    if "gradients" in model.abilities:
        if not options["step"]:
            phases = ("forward", "backward") if options["backward"] else ("forward",)
        whole = trace(model, values=True, **{**options, "step": True})
    else:
        recorder = PageRecorder(model, request.exports.html_budget, request.layers)
        extra = [name for name in names if model.hooks.specs[name].extra]
        usual = [name for name, spec in model.hooks.specs.items() if not spec.extra]
        with model.hooks.subscribe(recorder, *recorder.names):
            whole = trace(model, names=[*usual, *extra], values=kept, **options)
        recorded = recorder.kept
    return whole, recorded, narrowed(whole, set(names), set(kept), phases)


def write_page(
    context: typer.Context, path: Path | None, request: Request, whole: Trace,
    recorded: Mapping[str, Held], requested: Trace,
) -> None:  # fmt: skip
    """Write the page. The page has the requested sections as text, and the recorded arrays."""
    from ..render.page.trace_page import trace_page

    model, shown = request.model, request.shown
    more = "" if "gradients" in model.abilities else "--html-budget or --layers"
    sections = sections_of(requested, verbose=shown.verbose, overview=not shown.layer)
    again = explain_command(context, path, model, whole)
    request.exports.put_page(trace_page(whole, model, sections, command_line(context), again, recorded, more))


def explain_command(
    context: typer.Context, path: Path | None, model: LanguageModel, whole: Trace
) -> dict[str, Any]:
    """Return three parts of an `explain` command: the words before the element, the text, and the options."""
    prompted = "prompts" in model.abilities
    # With a model file, --seed is for sampling, and `microgpt explain` does not sample.
    other = ("model", "tokens") if path is None else ("model", "tokens", "seed")
    only = [name for name in RUN_PARAMETERS if name not in other]
    after = list(map(quoted, given_words(context, only=only)[1]))
    if prompted:
        after += ["--tokens", ",".join(map(str, whole.input.tokens))]
    before = [] if path is None else [str(path)]
    return {"before": before, "text": None if prompted else whole.input.text, "after": after}


def arrays_of_figures(
    exports: Exports, model: LanguageModel, options: dict[str, Any], layers: Sequence[int]
) -> list[str]:
    """Return the events whose arrays the figures need. Raises InputError for a figure that cannot be drawn
    for this model or this run."""
    needed = []
    for plot in exports.plots("trace"):
        name = plot.name or _default_figure(model)
        if name in OF_PRODUCTION and "prompts" not in model.abilities:
            raise InputError(
                f"--plot {name} is for a production model, and this is {model.kind} ({model.origin})"
            )
        if name == "lens" and not options.get("lens"):
            raise InputError("--plot lens needs --lens: the figure shows what --lens measures")
        if name == "attention":
            from ..render.figures.attention import place_of, weights_of

            try:
                needed += weights_of(model.hooks.specs, *place_of(plot.place), layers)
            except InputError as error:
                raise InputError(f"--plot {error}") from error
    return needed


def figures(
    exports: Exports, model: LanguageModel, result: Trace, layers: Sequence[int]
) -> Iterator[tuple[Path, Picture]]:
    """Draw the figures, and yield each figure with its file. --layers also limits the attention figure."""
    for plot in exports.plots("trace"):
        name, place = plot.name or _default_figure(model), tuple[Any, ...]()
        if name == "attention":
            from ..render.figures.attention import place_of

            place = (*place_of(plot.place), layers)
        yield plot.path, draw_by_name(name, result, *place)


def _default_figure(model: LanguageModel) -> str:
    return "stream" if "prompts" in model.abilities else "attention"
