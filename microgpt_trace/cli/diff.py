"""microgpt diff"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..errors import InputError
from .drawn import Drawn, sections_page
from .named_run import Naming, Opener, Tokens, refuse_idle
from .option_checks import given, refuse, same_command, schema_by
from .options import AprSettings, BareWeights, Layer, positions_of, schema_option, token_ids
from .output import Output, put, put_schema
from .progress import progress
from .survey_diff import are_surveys, diff_surveys

if TYPE_CHECKING:
    from ..comparison.differences import Comparison
    from ..comparison.kept_pairs import PairKeeper
    from ..comparison.prompts import PromptsComparison
    from ..comparison.weights import WeightsComparison
    from ..render.figures.panel import Picture
    from ..render.page.page_view import PageView
    from ..render.sections import Section

BAND, GATE = "How far apart is the same", "Other comparisons"


class OtherPrecision(str, Enum):
    bf16 = "bf16"
    f16 = "f16"
    q8 = "q8"


@dataclass(frozen=True, eq=False, repr=False)
class Sides:
    """The two runs, and what models read."""

    a: Annotated[
        Path | None,
        typer.Argument(
            metavar="A",
            help="A model, a saved trace, another engine's dump, or a survey.",
            show_default=False,
        ),
    ] = None
    b: Annotated[Path | None, typer.Argument(metavar="B", help="The other one.", show_default=False)] = None
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT]", help="What models read.", show_default="what a dump was made of, else as trace"
        ),
    ] = None
    tokens: Tokens = None


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """What is compared and shown."""

    layer: Layer = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every event of every layer.")] = False
    positions: Annotated[
        str | None,
        typer.Option(help="Add a view by position: all, last or 0,3,-1.", metavar="LIST"),
    ] = None


@dataclass(frozen=True, eq=False, repr=False)
class Band:
    """How far apart is the same."""

    compute: Annotated[
        OtherPrecision | None,
        typer.Option(help="The other engine computes so: measure what that does.", rich_help_panel=BAND),
    ] = None
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="A third run, whose distance from A is right.", metavar="REF", rich_help_panel=BAND
        ),
    ] = None
    factor: Annotated[
        float | None,
        typer.Option(
            help="Times the distance that --compute or --calibrate measures.", min=0.0,
            show_default="8; 12 for --calibrate", rich_help_panel=BAND,
        ),
    ] = None  # fmt: skip
    rtol: Annotated[
        float | None, typer.Option(help="Share of a row that may differ.", min=0.0, rich_help_panel=BAND)
    ] = None
    atol: Annotated[
        float | None,
        typer.Option(help="Difference of an element that does not count.", min=0.0, rich_help_panel=BAND),
    ] = None

    def options(self, opener: Opener) -> dict[str, Any]:
        """As the comparisons take them."""
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "factor": self.factor,
            "compute": self.compute.value if self.compute else None,
            "calibrate": opener.open(self.calibrate) if self.calibrate is not None else None,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Other:
    """Comparisons of two models that are none of one run."""

    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt a line, through both models.", metavar="FILE", rich_help_panel=GATE),
    ] = None
    weights: Annotated[
        bool, typer.Option("--weights", help="Compare the parameters, run nothing.", rich_help_panel=GATE)
    ] = False

    @property
    def schema(self) -> str:
        """The kind of document that the comparison asked for gives."""
        return "weights" if self.weights else "prompts" if self.prompts is not None else "diff"


class OneComparison(NamedTuple):
    """A result, what is shown of it, and what its page shows besides."""

    result: Any
    sections: Callable[[], list["Section"]]
    view: Callable[[], "PageView"] | None = None


class ComparisonOutput(Output):
    schema: Annotated[bool, schema_option("compare")] = False


@schema_by("weights", "prompts", arguments=("a", "b"))
def diff(
    context: typer.Context,
    *,
    sides: Sides,
    view: View,
    naming: Naming,
    suggest_map: Annotated[
        bool, typer.Option("--suggest-map", help="Draft a --map of the dump's names, compare nothing.")
    ] = False,
    band: Band,
    other: Other,
    output: ComparisonOutput,
    drawn: Drawn,
    bare: BareWeights,
    apr: AprSettings,
) -> None:
    """Compare two runs event by event and name the first place where they part.

    Exit code 0: all that was compared agrees. 1: they differ. 2: they cannot be compared.
    """
    output.check()
    asked, surveys = given(context), are_surveys([sides.a, sides.b])
    if output.schema:
        put_schema(_schema(asked, surveys, other), output.target)
        return
    if sides.a is None or sides.b is None:
        raise InputError("two sides are needed: microgpt diff A B")
    if surveys:
        return diff_surveys((sides.a, sides.b), asked, view.layer or [], band.rtol, view.verbose, output)
    _refuse_mixtures(asked)
    drawn.check("diff", output.target, [sides.a, sides.b, naming.map_file])
    opener = Opener(bare, apr, naming.names())
    both = [opener.open(sides.a), opener.open(sides.b)]
    refuse_idle(both, bare, apr, naming)
    options = {"names": view.layer or [], **band.options(opener)}
    tokens = token_ids(sides.tokens)
    if other.weights:
        shown = _weights(both, view, band.rtol)
    elif other.prompts is not None:
        shown = _prompts(both, other.prompts, options)
    elif suggest_map:
        from ..comparison.map_suggestion import drafted_map

        put([drafted_map(both, sides.text, tokens)], output.target)
        return
    else:
        options |= {"map": opener.names, "layouts": naming.layouts_known()}
        keeper = _keeper(both) if drawn.html is not None else None
        shown = _compare(both, sides.text, tokens, options | {"watch": keeper}, view)
    _give(shown, context, output, drawn)


EXAMPLES = (
    "microgpt diff model.gguf dumps/ · "
    "microgpt diff model.gguf dumps/ --suggest-map --out map.toml · "
    "microgpt diff a.safetensors b.safetensors emma · "
    "microgpt diff qwen.gguf qwen-folder --calibrate qwen-q8.gguf · "
    "microgpt diff old.gguf new.gguf --prompts prompts.txt · "
    "microgpt diff q8.survey.safetensors q4.survey.safetensors"
)


def _give(shown: OneComparison, context: typer.Context, output: Output, drawn: Drawn) -> None:
    """Write everything that was asked for; exit 1 where the sides differ."""
    title = f"{context.params['a']} and {context.params['b']}"
    page = sections_page(title, shown.sections, partial(_event, context), shown.view)
    drawn.save(context, {"diff": lambda: _picture(shown.result)}, page)
    output.give(shown.result, shown.sections)
    if not shown.result.agree:
        raise typer.Exit(1)


def _schema(asked: dict[str, str], surveys: bool, other: Other) -> str:
    """The kind of document that is asked for: by two surveys, or else by options alone."""
    if surveys:
        refuse(asked, ["weights", "prompts"], "two surveys")
        return "survey_diff"
    refuse(asked, ["a", "b"], "--schema")
    return other.schema


def _refuse_mixtures(asked: dict[str, str]) -> None:
    """Options of which one would be ignored beside the other."""
    modes = [option for option in ("weights", "prompts", "suggest_map") if option in asked]
    if len(modes) > 1:
        raise InputError(f"{asked[modes[0]]} and {asked[modes[1]]} exclude each other")
    bands = ["compute", "calibrate", "factor", "atol"]
    silent = {
        "weights": ["text", "tokens", "positions", "map_file", "layouts", "plot", *bands],
        "prompts": ["text", "tokens", "positions", "map_file", "layouts", "verbose", "plot"],
        "suggest_map": [
            "positions",
            "layer",
            "verbose",
            "as_json",
            "map_file",
            "layouts",
            "rtol",
            "plot",
            "html",
            "force",
            *bands,
        ],
    }
    for mode in modes:
        refuse(asked, silent[mode], asked[mode])
    if "as_json" in asked:
        refuse(asked, ["verbose"], "--json")


def _compare(
    sides: Sequence[Any], text: str | None, tokens: list[int] | None, options: dict[str, Any], view: View
) -> OneComparison:
    """The comparison, and what is shown of it."""
    from ..comparison.diff import diff as compare

    a, b = sides
    positions = positions_of(view.positions) or "all"
    with progress("event") as report:
        result = compare(a, b, text, tokens=tokens, positions=positions, report=report, **options)
    kept = options["watch"]
    shown = None if kept is None else lambda: _view(result, kept)
    return OneComparison(result, lambda: _comparison_sections(result, view), shown)


def _weights(sides: Sequence[Any], view: View, rtol: float | None) -> OneComparison:
    from ..comparison.weights import compare_weights

    a, b = _two_models(sides, "--weights")
    with progress("parameter") as report:
        result = compare_weights(a, b, names=view.layer or [], rtol=rtol, report=report)
    return OneComparison(result, lambda: _weights_sections(result, view))


def _prompts(sides: Sequence[Any], path: Path, options: dict[str, Any]) -> OneComparison:
    from ..comparison.prompts import diff_prompts, read_prompts

    a, b = _two_models(sides, "--prompts")
    with progress("prompt") as report:
        result = diff_prompts(a, b, read_prompts(path), report, **options)
    return OneComparison(result, lambda: _prompts_sections(result))


def _event(context: typer.Context, name: str) -> str:
    """The same comparison of one event or parameter."""
    return same_command(context, ["--layer", name, "--verbose"], without=["layer", "verbose"])


# What only a screen needs is loaded for it: 10 ms and more.
def _comparison_sections(result: "Comparison", view: View) -> list["Section"]:
    from ..render.comparison import comparison_sections

    return comparison_sections(result, verbose=view.verbose, by_position=view.positions is not None)


def _keeper(sides: Sequence[Any]) -> "PairKeeper":
    """What keeps values of both sides while they are compared."""
    from ..comparison.kept_pairs import PairKeeper
    from ..render.page.diff_view import ROOM

    plan = next((side.plan for side in sides if hasattr(side, "family")), None)
    return PairKeeper(4 * ROOM, lambda name: plan[name].inputs if plan and name in plan else ())


def _view(result: "Comparison", keeper: "PairKeeper") -> "PageView":
    from ..render.page.diff_view import diff_view

    return diff_view(result, keeper.pairs, keeper.inputs_of)


def _picture(result: "Comparison") -> "Picture":
    from ..render.figures.comparison import diff_picture

    return diff_picture(result)


def _weights_sections(result: "WeightsComparison", view: View) -> list["Section"]:
    from ..render.weights import weights_sections

    return weights_sections(result, verbose=view.verbose)


def _prompts_sections(result: "PromptsComparison") -> list["Section"]:
    from ..render.prompts import prompts_sections

    return prompts_sections(result)


def _two_models(sides: Sequence[Any], option: str) -> tuple[Any, Any]:
    for side in sides:
        if not hasattr(side, "family"):
            raise InputError(f"{option} is for two models, and {side.origin} is none ({side.kind})")
    return sides[0], sides[1]
