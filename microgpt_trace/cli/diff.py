"""microgpt diff"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from ..errors import InputError
from ..surveying import is_survey
from .common_options import EventChoice, FileSettings, HelpPanel, positions_of, token_ids
from .exports import Exports, give
from .named_model import DumpNaming, Opener, Tokens, refuse_idle
from .option_checks import parameters_given, same_command
from .option_groups import argument, flag, group, option
from .option_rules import refuse
from .output import Output, exit_unless, put, put_schema
from .progress_line import progress

if TYPE_CHECKING:
    from ..comparison.comparers import PairKeeper

OF_SURVEYS = ("a", "b", "layer", "verbose", "rtol", "as_json", "schema", "out")  # allowed with two surveys


@group()
class Sides(Tokens):
    """The two sides of a comparison, and the input if the sides are models."""

    a: Path | None = argument("A", "Model, saved trace, dump of another engine, or survey.")
    b: Path | None = argument("B", "Model, trace, dump or survey to compare with A.")
    text: str | None = argument(
        "[TEXT]", "Text for the models to read.",
        show_default="the input of the dump, or the default text of `microgpt trace`",
    )  # fmt: skip
    model: Path | None = option("Model that wrote both dumps. It judges each operation by its own inputs.")


@group(HelpPanel.SHOWN)
class View(EventChoice):
    """The events that are compared and shown."""

    positions: str | None = option(
        'Add a table of errors by position: "all", "last", or a list such as 0,3,-1.', metavar="LIST"
    )


@group(HelpPanel.DUMP)
class DiffNaming(DumpNaming):
    """The names and layouts of the arrays of a dump."""

    suggest_map: bool = flag("Print a draft of a --map file for this dump, and compare nothing.")


@group(HelpPanel.TOLERANCE)
class Band:
    """The largest difference that is not an error."""

    compute: Literal["f32", "bf16", "f16", "q8"] | None = option(
        "Precision of the other engine. The tolerance is measured at this precision.",
        show_default="bf16 or f16 if the values of a dump have that precision, else f32",
    )  # fmt: skip
    calibrate: Path | None = option("Third run, whose distance from A sets the tolerance.", metavar="REF")
    factor: float | None = option(
        "Tolerance as a multiple of the distance that --compute or --calibrate measures.",
        min=0.0, show_default="8, or 12 for --calibrate",
    )  # fmt: skip
    rtol: float | None = option("Accept relative differences up to this number, such as 0.01.", min=0.0)
    atol: float | None = option("Accept absolute differences up to this number, such as 1e-6.", min=0.0)

    def options(self, opener: Opener) -> dict[str, Any]:
        """Return the options as keyword arguments of the comparisons."""
        third = None if self.calibrate is None else opener.open(self.calibrate)
        return {**vars(self), "calibrate": third}


@group("Other comparisons")
class Other:
    """Comparisons of two models, on many prompts or of their parameters."""

    prompts: Path | None = option("Compare two models on every prompt in this file. Each line is one prompt.")
    weights: bool = flag("Compare the parameters of two models without running the models.")


def diff(
    context: typer.Context, *, sides: Sides, view: View, band: Band, naming: DiffNaming, other: Other,
    output: Output, exports: Exports, settings: FileSettings,
) -> None:  # fmt: skip
    """Compare two runs event by event and name the first event that differs.

    Exit code 0: all compared values agree. 1: the runs differ. 2: the runs cannot be compared.
    """
    output.check()
    options_given, surveys = parameters_given(context), _are_surveys([sides.a, sides.b])
    if output.schema and not surveys:
        refuse(options_given, "--schema", ())
    if sides.a is None or sides.b is None:
        raise InputError("expected two runs: microgpt diff A B")
    if surveys:
        refuse(options_given, "two surveys", OF_SURVEYS)
        return _diff_surveys(sides.a, sides.b, view, band.rtol, output)
    exports.check("diff", {"--out": output.target}, [sides.a, sides.b, naming.map_file])
    opener = Opener(settings, naming.names())
    both = [opener.open(sides.a), opener.open(sides.b)]
    refuse_idle(both, settings, naming)
    options = {"names": view.layer or [], **band.options(opener)}
    tokens = token_ids(sides.tokens)
    if naming.suggest_map:
        from ..comparison.map_drafting import drafted_map

        return put([drafted_map(both, sides.text, tokens)], output.target)
    if other.weights:
        result, shown = _weights(both, view, band.rtol)
    elif other.prompts is not None:
        result, shown = _prompts(both, other.prompts, options)
    else:
        options |= {"map": opener.names, "layouts": naming.layouts_by_glob()}
        options |= {"model": opener.model(sides.model)} if sides.model is not None else {}
        keeper = _keeper(both) if exports.html is not None else None
        result, shown = _runs(both, sides.text, tokens, options | {"watch": keeper}, view)
    give(
        context, result, output, exports, f"{sides.a} and {sides.b}",
        lambda name: same_command(context, ["--layer", name, "--verbose"], without=["layer", "verbose"]),
        **shown,
    )  # fmt: skip
    exit_unless(result.agree)


EXAMPLES = (
    "microgpt diff model.gguf dumps/",
    "microgpt diff model.gguf dumps/ --suggest-map --out map.toml",
    "microgpt diff a.safetensors b.safetensors emma",
    "microgpt diff qwen.gguf qwen-folder --calibrate qwen-q8.gguf",
    "microgpt diff old.gguf new.gguf --prompts prompts.txt",
    "microgpt diff q8.survey.safetensors q4.survey.safetensors",
)


def _are_surveys(sides: Sequence[Path | None]) -> bool:
    """Return True if both sides are surveys. Raises InputError if only one side is a survey."""
    answers = [side is not None and is_survey(side) for side in sides]
    if any(answers) and not all(answers):
        survey, other = (sides[answers.index(answer)] for answer in (True, False))
        if other is None:
            raise InputError(f"{survey} is a survey: expected a second survey to compare it with")
        raise InputError(f"{survey} is a survey, but {other} is not: expected two surveys")
    return all(answers)


def _diff_surveys(a: Path, b: Path, view: View, rtol: float | None, output: Output) -> None:
    """Compare two surveys without running a model. Exit with code 1 if the surveys differ."""
    if output.schema:
        return put_schema("survey_diff", output.out)
    from ..render.results.survey_comparison_sections import survey_comparison_sections
    from ..surveying.survey_comparison import compare_surveys
    from ..surveying.survey_files import read_survey

    called = (str(a), str(b))
    result = compare_surveys(read_survey(a), read_survey(b), names=view.layer or (), rtol=rtol, called=called)
    output.give(result, partial(survey_comparison_sections, result, verbose=view.verbose))
    exit_unless(result.agree)


# Each of these functions returns a result and the keyword arguments for showing the result.
def _runs(
    sides: Sequence[Any], text: str | None, tokens: list[int] | None, options: dict[str, Any], view: View
) -> tuple[Any, dict[str, Any]]:
    from ..comparison.diff import diff

    compare: Callable[..., Any] = diff
    if "model" in options:
        from ..diagnosis.two_runs import diff_by_model as compare
    a, b = sides
    positions, keeper = positions_of(view.positions) or "all", options["watch"]
    with progress("event") as report:
        result = compare(a, b, text=text, tokens=tokens, positions=positions, report=report, **options)
    shown = {"verbose": view.verbose, "by_position": view.positions is not None}
    return result, {"view": shown, "beside": keeper and {"kept": keeper.pairs, "inputs_of": keeper.inputs_of}}


def _weights(sides: Sequence[Any], view: View, rtol: float | None) -> tuple[Any, dict[str, Any]]:
    from ..weights.weights_comparison import compare_weights

    a, b = _two_models(sides, "--weights")
    with progress("parameter") as report:
        result = compare_weights(a, b, names=view.layer or [], rtol=rtol, report=report)
    return result, {"view": {"verbose": view.verbose}}


def _prompts(sides: Sequence[Any], path: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from ..comparison.prompts import diff_prompts, read_prompts

    a, b = _two_models(sides, "--prompts")
    with progress("prompt") as report:
        result = diff_prompts(a, b, read_prompts(path), report, **options)
    return result, {}


def _keeper(sides: Sequence[Any]) -> "PairKeeper":
    """Return an object that stores the values of both sides for the page."""
    from ..comparison.comparers import PairKeeper
    from ..render.page.diff_view import ROOM

    plan = next((side.plan for side in sides if hasattr(side, "family")), None)
    return PairKeeper(4 * ROOM, lambda name: plan[name].inputs if plan and name in plan else ())


def _two_models(sides: Sequence[Any], option: str) -> tuple[Any, Any]:
    for side in sides:
        if not hasattr(side, "family"):
            raise InputError(f"{option} compares two models, and {side.origin} is not a model ({side.kind})")
    return sides[0], sides[1]
