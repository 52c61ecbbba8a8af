"""microgpt patch"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .drawn import Drawn, sections_page
from .named_model import is_there, model_and_text, model_from
from .option_checks import same_command, schema_by
from .options import AprSettings, BareWeights, ModelFile, Seed, schema_option
from .output import Output, put_schema
from .progress import progress

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..patching.results import PairsResult, PatchResult
    from ..render.figures.panel import Picture
    from ..render.page.page_view import PageView
    from ..render.sections import Section


@dataclass(frozen=True, eq=False, repr=False)
class Runs:
    """The runs that are patched, what is asked of them, and where."""

    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] CLEAN CORRUPT",
            help="Two texts of equally many tokens; before them a model, by default an untrained microGPT.",
            show_default=False,
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(help="The token that the clean run is for.", metavar="TOKEN", show_default="its best"),
    ] = None
    against: Annotated[
        str | None,
        typer.Option(
            help="The token that the corrupted run is for.", metavar="TOKEN", show_default="its best"
        ),
    ] = None
    position: Annotated[
        int, typer.Option(help="Whose next token is judged; -1 is the last.", metavar="N")
    ] = -1
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            help="What is patched: 'layer*.attn.head*', attn_out, layer3.mlp.act@2:5.",
            metavar="SITE",
            show_default="the residual stream",
        ),
    ] = None
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Many pairs: lines of CLEAN and CORRUPT, maybe TARGET and AGAINST, with tabs between.",
            metavar="FILE",
        ),
    ] = None
    model_file: ModelFile = None


class PatchingOutput(Output):
    schema: Annotated[bool, schema_option("patch")] = False


@schema_by("pairs")
def patch(
    context: typer.Context,
    *,
    runs: Runs,
    output: PatchingOutput,
    drawn: Drawn,
    seed: Seed = None,
    bare: BareWeights,
    apr: AprSettings,
) -> None:
    """Put a clean run's activations into a corrupted run, site by site: which bring the answer back?

    In logit(target) - logit(against) 0 is the corrupted run and 1 the clean one.

    Exit code 1: the built-in check failed.
    """
    output.check()
    if output.schema:
        put_schema("patch_pairs" if runs.pairs is not None else "patch", output.target)
        return
    path, texts = _model_and_texts(runs.arguments or [], runs.model_file, runs.pairs)
    drawn.check("patch", output.target, [path, runs.pairs])
    model = model_from(path, seed, bare, apr)
    options = {
        "sites": runs.sites, "target": runs.target, "against": runs.against, "position": runs.position,
    }  # fmt: skip
    if runs.pairs is None:
        result, sections = _one(model, texts, options)
        title = " → ".join(map(repr, texts))
    else:
        result, sections = _many(model, runs.pairs, options)
        title = str(runs.pairs)
    page = sections_page(title, sections, partial(_at_site, context), lambda: _view(result))
    drawn.save(context, {"patch": lambda: _picture(result)}, page)
    output.give(result, sections)
    if not result.ok:
        raise typer.Exit(1)


EXAMPLES = (
    "microgpt patch lara eira --target n --against EOS --model microgpt.safetensors · "
    'microgpt patch smollm2.gguf "The capital of France is" "The capital of Italy is" · '
    "the same with --sites 'layer*.attn.head*' · "
    "microgpt patch smollm2.gguf --pairs pairs.txt --json"
)


def _model_and_texts(
    arguments: Sequence[str], model: Path | None, pairs: Path | None
) -> tuple[Path | None, Sequence[str]]:
    """The model's path, if one was named, and the two texts, or none beside --pairs."""
    wanted = 2 if pairs is None else 0
    if len(arguments) == wanted + 1:
        first = arguments[0]
        if model is not None:
            raise InputError(f"two models, {first} and --model {model}")
        if not is_there(first):
            reads = f", to read {arguments[1]!r}" if wanted else " (texts are in the file of --pairs)"
            raise InputError(f"{first or repr(first)}: no such model{reads}")
        return Path(first), arguments[1:]
    lone_model = len(arguments) == 2 and model_and_text(arguments[0], None, None)[0] is not None
    if len(arguments) != wanted or lone_model:
        needed = (
            "no texts stand beside --pairs"
            if pairs is not None
            else "two texts are needed, CLEAN and CORRUPT"
        )
        raise InputError(f"{needed}, and before them a model if any: found {_counted(len(arguments))}")
    return model, arguments


def _counted(count: int) -> str:
    return f"{count or 'no'} argument{'s' * (count != 1)}"


def _one(
    model: "LanguageModel", texts: Sequence[str], options: dict[str, Any]
) -> tuple[Any, Callable[[], list["Section"]]]:
    """What patching one pair gives, and what is shown of it."""
    from ..patching.patch import patch as patch_texts
    from ..render.patching import patch_sections

    with progress("layer") as report:
        result = patch_texts(model, *texts, **options, report=report)
    return result, lambda: patch_sections(result)


def _many(
    model: "LanguageModel", pairs: Path, options: dict[str, Any]
) -> tuple[Any, Callable[[], list["Section"]]]:
    """The same of many pairs."""
    from ..patching.pairs import patch_pairs, read_pairs
    from ..render.patching import pairs_sections

    with progress("pair") as report:
        result = patch_pairs(model, read_pairs(pairs), **options, report=report)
    return result, lambda: pairs_sections(result)


# What only a figure needs is loaded for it.
def _picture(result: "PatchResult | PairsResult") -> "Picture":
    from ..render.figures.patching import patch_picture

    return patch_picture(result)


def _view(result: "PatchResult | PairsResult") -> "PageView":
    from ..render.page.patch_view import patch_view

    return patch_view(result)


def _at_site(context: typer.Context, site: str) -> str:
    """The same command at one site."""
    return same_command(context, ["--sites", site], without=["sites"])
