"""microgpt attribute"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from .drawn import Drawn, sections_page
from .named_model import model_and_text, model_from, refuse_without
from .option_checks import given, refuse, same_command
from .options import AprSettings, BareWeights, Seed, Source, TokenIds, positions_of, schema_option, token_ids
from .output import Output, note, put_schema
from .progress import progress

if TYPE_CHECKING:
    from ..attribution.results import AttributionResult
    from ..render.figures.panel import Picture
    from ..render.page.page_view import PageView
    from ..render.sections import Section


@dataclass(frozen=True, eq=False, repr=False)
class Question:
    """Which prediction is taken apart, and how far."""

    target: Annotated[
        str | None,
        typer.Option(
            help="Whose logit is explained: a token's text, ␣ for a blank, or #ID.",
            metavar="TOKEN",
            show_default="the token that follows, or the prediction where none does",
        ),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            help="The token that it is told apart from.",
            metavar="TOKEN",
            show_default="the most probable other",
        ),
    ] = None
    position: Annotated[
        str | None,
        typer.Option(
            help="Where: a number (-1 is the last), a list, all or last.",
            metavar="N",
            show_default="all; of a production model: last",
        ),
    ] = None
    no_ablation: Annotated[
        bool, typer.Option("--no-ablation", help="Only what parts write, remove none of them.")
    ] = False
    top: Annotated[int, typer.Option(help="Parts shown of each position.", min=1)] = 20


class AttributionOutput(Output):
    schema: Annotated[bool, schema_option("attribute")] = False


def attribute(
    context: typer.Context,
    *,
    source: Source,
    question: Question,
    output: AttributionOutput,
    drawn: Drawn,
    seed: Seed = None,
    bare: BareWeights,
    tokens: TokenIds = None,
    apr: AprSettings,
) -> None:
    """Say which heads, MLPs, embeddings and biases made a prediction, and what heads look at.

    Exit code 0: the parts sum to the logits. 1: they do not. 2: the request does not fit.
    """
    output.check()
    if output.schema:
        put_schema("attribution", output.target)
        return
    if output.as_json:
        refuse(given(context), ["top"], "--json")
    positions = positions_of(question.position, "--position", "a number, all, last or a list like 0,3,-1")
    path, text = model_and_text(source.first, source.second, source.model)
    drawn.check("attribute", output.target, [path])
    model = model_from(path, seed, bare, apr)
    if tokens is not None:
        refuse_without("prompts", model, "--tokens")
    from ..attribution.attribute import attribute as attribute_text

    with progress("removing each part: layer") as report:
        result = attribute_text(
            model, text, tokens=token_ids(tokens), target=question.target, against=question.against,
            positions=positions, ablation=not question.no_ablation, report=report,
        )  # fmt: skip
    pictures = {"attribution": lambda: _picture(result, question.top)}
    page = sections_page(
        result.text, lambda: _sections(result, question.top), partial(_shown, context), lambda: _view(result)
    )
    drawn.save(context, pictures, page)
    _give(result, question.top, output)
    if not result.ok:
        raise typer.Exit(1)


EXAMPLES = (
    "microgpt attribute emma --model microgpt.safetensors · "
    "microgpt attribute emma --position 2 --against n · "
    'microgpt attribute smollm2.gguf "The capital of France is"'
)


# What only a figure needs is loaded for it.
def _picture(result: "AttributionResult", top: int) -> "Picture":
    from ..render.figures.attribution import attribution_picture

    return attribution_picture(result, top=top)


def _sections(result: "AttributionResult", top: int) -> list["Section"]:
    from ..render.attribution import attribution_sections

    return attribution_sections(result, top=top)


def _view(result: "AttributionResult") -> "PageView":
    from ..render.page.attribution_view import attribution_view

    return attribution_view(result)


def _shown(context: typer.Context, name: str) -> str:
    """What shows a part of the same run."""
    only = ("first", "second", "model", "seed", "n_head", "bos", "tokens", "rope_pairs", "settings")
    return same_command(context, ["--show", name], only=only, of="trace")


def _give(result: "AttributionResult", top: int, output: Output) -> None:
    if output.as_json:
        for remark in result.notes:
            note(remark)
    output.give(result, lambda: _sections(result, top))
