"""What is drawn of a trace: its page, with what that holds of the run beside what was asked for, and its
figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..render.shown import sections_of
from ..text.printable import quoted
from ..tracing.trace import trace
from .drawn import Drawn, drawn_by_name
from .option_checks import OF_THE_RUN, command_line, said

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..hooks.event import Phase
    from ..render.figures.panel import Picture
    from ..render.page.recorder import Held
    from ..tracing.result import Trace
    from .trace_options import Request

OF_PRODUCTION = ("stream", "lens")  # what a microGPT's trace does not measure


def traced_for_page(
    request: Request, names: list[str], kept: list[str], options: dict[str, Any]
) -> tuple[Trace, Mapping[str, Held], Trace]:
    """The trace that the page shows, what was recorded for it, and the trace that was asked for: a microGPT's
    with all its gradients, of a production model what the page has room for."""
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
        recorder = PageRecorder(model, request.drawn.html_budget, request.layers)
        extra = [name for name in names if model.hooks.specs[name].extra]
        usual = [name for name, spec in model.hooks.specs.items() if not spec.extra]
        with model.hooks.subscribe(recorder, *recorder.names):
            whole = trace(model, names=[*usual, *extra], values=kept, **options)
        recorded = recorder.kept
    return whole, recorded, narrowed(whole, set(names), set(kept), phases)


def write_page(
    context: typer.Context, path: Path | None, request: Request, whole: Trace,
    recorded: Mapping[str, Held], asked: Trace,
) -> None:  # fmt: skip
    """Write the page: in words what was asked for, and to look at all that it holds."""
    from ..render.page.trace_page import trace_page

    model, shown = request.model, request.shown
    more = "" if "gradients" in model.abilities else "--html-budget or --layers"
    sections = sections_of(asked, verbose=shown.verbose, overview=not shown.layer)
    again = explaining(context, path, model, whole)
    request.drawn.put_page(trace_page(whole, model, sections, command_line(context), again, recorded, more))


def explaining(
    context: typer.Context, path: Path | None, model: LanguageModel, whole: Trace
) -> dict[str, Any]:
    """The words before and behind the element in a command that explains it."""
    prompted = "prompts" in model.abilities
    other = ("model", "tokens") if path is None else ("model", "tokens", "seed")  # which then is of the draws
    only = [name for name in OF_THE_RUN if name not in other]
    after = list(map(quoted, said(context, only=only)[1]))
    if prompted:
        after += ["--tokens", ",".join(map(str, whole.input.tokens))]
    before = [] if path is None else [str(path)]
    return {"before": before, "text": None if prompted else whole.input.text, "after": after}


def arrays_of_figures(
    drawn: Drawn, model: LanguageModel, options: dict[str, Any], layers: Sequence[int]
) -> list[str]:
    """The events whose arrays the figures need. Raises InputError for what this model or this run cannot
    show."""
    found = []
    for plot in drawn.plots("trace"):
        name = plot.name or _own(model)
        if name in OF_PRODUCTION and "prompts" not in model.abilities:
            raise InputError(
                f"--plot {name} is for a production model, and this is {model.kind} ({model.origin})"
            )
        if name == "lens" and not options.get("lens"):
            raise InputError("--plot lens draws what --lens measures: give both")
        if name == "attention":
            from ..render.figures.attention import place_of, weights_of

            try:
                found += weights_of(model.hooks.specs, *place_of(plot.place), layers)
            except InputError as error:
                raise InputError(f"--plot {error}") from error
    return found


def figures(
    drawn: Drawn, model: LanguageModel, result: Trace, layers: Sequence[int]
) -> Iterator[tuple[Path, Picture]]:
    """The figures asked for, and their files; --layers chooses of attention as well."""
    for plot in drawn.plots("trace"):
        name, place = plot.name or _own(model), tuple[Any, ...]()
        if name == "attention":
            from ..render.figures.attention import place_of

            place = (*place_of(plot.place), layers)
        yield plot.path, drawn_by_name(name, result, *place)


def _own(model: LanguageModel) -> str:
    """The figure that a trace of the model is about."""
    return "stream" if "prompts" in model.abilities else "attention"
