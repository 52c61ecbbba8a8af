"""Makes the page and the figures of a trace. The page contains more values than the user requested."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from ..errors import InputError
from ..render.shown import sections_of
from ..text.printable import quoted
from ..tracing.trace import trace
from .exports import Exports, draw_by_name
from .option_checks import RUN_PARAMETERS, command_line, given_words
from .progress_line import progress

if TYPE_CHECKING:
    from ..hooks.event import Phase
    from ..models.language_model import LanguageModel
    from ..render.figures.panel import Picture
    from ..render.page.page_recorder import Held
    from ..tracing.result import Trace
    from .trace_options import Request

OF_PRODUCTION = ("stream", "lens")  # figures that only exist for a production model


def traced_for_page(
    request: Request, names: list[str], kept: list[str], options: dict[str, Any]
) -> tuple[Trace, Mapping[str, Held], Trace]:
    """Return the trace that the page shows, the arrays recorded for the page, and the requested trace.

    The page of a microGPT shows all gradients. The page of a production model has a maximum size."""
    from ..render.page.page_recorder import PageRecorder
    from ..tracing.collector import narrowed

    model = request.model
    phases: tuple[Phase, ...] = ("forward", "backward", "update")
    recorded: Mapping[str, Held] = {}
    if model.trainable:
        if not options["step"]:
            phases = ("forward", "backward") if options["backward"] else ("forward",)
        whole = trace(model, values=True, **{**options, "step": True})
    else:
        budget, backward = request.exports.html_budget, "backward" in options
        recorder = PageRecorder(model, budget, request.layers, backward)
        extra = [name for name in names if model.hooks.specs[name].extra]
        usual = [name for name, spec in model.hooks.specs.items() if not spec.extra]
        with model.hooks.subscribe(recorder, *recorder.names, phases=("forward", "backward")):
            whole = trace(model, names=[*usual, *extra], values=kept, **options)
        names = [*names, *(row.name for row in whole.parameters)]
        recorded = recorder.kept
    return whole, recorded, narrowed(whole, set(names), set(kept), phases)


LANES = 16  # largest number of positions in the logit lens of a page, unless --lens is given
CANDIDATES = 3  # tokens of the logit lens at a position, unless --top-k is given
# Removing all parts needs about `parts * positions * parameters / 2` multiplications. On one core, this many
# take ten seconds.
MOST_MULTIPLICATIONS = 3e11
LARGEST_EFFECTS = 5  # heads that are also removed at the position of the prediction alone


def _explained(
    model: LanguageModel, whole: Trace, options: dict[str, Any]
) -> tuple[Trace, dict[str, Any] | None]:
    """Return the trace with a logit lens, and what each part does for the prediction at its last position.
    Parts are removed one by one if that takes about ten seconds at most. A trace with interventions or
    without a finite prediction stays as it is, because neither can be measured."""
    *_, prediction = whole.predictions
    target = prediction.target or prediction.predicted
    if whole.intervened is not None or target is None or prediction.predicted is None:
        return whole, None
    from ..attribution.attribute import attribute, losses_without
    from ..attribution.results import size
    from ..attribution.writes import components_of
    from ..render.page.page_view import whole_model
    from ..tracing.lens import Lens

    named = options.get("target") or f"#{target.token}"
    named = named if isinstance(named, str) else named[0]
    inputs, positions = whole.input, [each.position for each in whole.predictions]
    if not options.get("lens") and len(positions) > LANES:
        positions = [positions[0], *positions[1 - LANES :]]
    row = positions[-1:]
    lens = Lens(cast(Any, model), positions, options.get("top_k") or CANDIDATES, named, row)
    components = components_of(model)
    work = len(components) * len(inputs.tokens) * whole.model["parameters"] / 2
    with progress("removing each part: layer") as report, model.hooks.subscribe(lens, *lens.names):
        attribution = attribute(
            model, tokens=inputs.tokens, target=named, positions=row, report=report,
            ablation=work <= MOST_MULTIPLICATIONS,
        )  # fmt: skip
    rows, targets = lens.results()
    here: dict[str, float] = {}
    if attribution.ablation:
        (explained,) = attribution.positions
        heads = [part for part in explained.parts if part.kind == "head"]
        largest = sorted(heads, key=lambda part: size(part.loss_change), reverse=True)[:LARGEST_EFFECTS]
        removed = [each for each in components if each.name in {part.name for part in largest}]
        losses = losses_without(
            model, inputs, removed, row, [explained.contrast.target], hooked=False, at=row[0]
        )
        here = {name: math.exp(-float(loss[0])) for name, loss in losses.items()}
    return replace(whole, lens=rows, lens_target=targets), whole_model(attribution, here)


def write_page(
    context: typer.Context, path: Path | None, request: Request, whole: Trace,
    recorded: Mapping[str, Held], requested: Trace, options: dict[str, Any],
) -> None:  # fmt: skip
    """Write the page. The page has the requested sections as text, and the recorded arrays."""
    from ..render.page.trace_page import trace_page

    model, shown, effects = request.model, request.shown, None
    if model.takes_prompts:
        whole, effects = _explained(model, whole, options)
    more = "" if model.trainable else "--html-budget or --layers"
    sections = sections_of(requested, verbose=shown.verbose, overview=not shown.layer)
    again = explain_command(context, path, model, whole)
    line = command_line(context)
    page = trace_page(whole, model, sections, line, again, recorded, more, effects=effects)
    request.exports.put_page(page)


def explain_command(
    context: typer.Context, path: Path | None, model: LanguageModel, whole: Trace
) -> dict[str, Any]:
    """Return three parts of an `explain` command: the words before the element, the text, and the options."""
    prompted = model.takes_prompts
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
    """Return the events whose arrays the figures need. Raises InputError if a figure cannot be drawn."""
    needed = []
    for plot in exports.plots("trace"):
        name = plot.name or _default_figure(model)
        if name in OF_PRODUCTION and not model.takes_prompts:
            raise InputError(
                f"--plot {name} is for a production model, and this is {model.kind} ({model.origin})"
            )
        if name == "lens" and not options.get("lens"):
            raise InputError("--plot lens needs --lens: the figure shows what --lens measures")
        if name == "attention":
            from ..render.figures.attention_figures import place_of, weights_of

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
            from ..render.figures.attention_figures import place_of

            place = (*place_of(plot.place), layers)
        yield plot.path, draw_by_name(name, result, *place)


def _default_figure(model: LanguageModel) -> str:
    return "stream" if model.takes_prompts else "attention"
