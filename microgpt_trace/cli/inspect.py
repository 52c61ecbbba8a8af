"""microgpt sample, inspect and gradcheck"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..errors import InputError
from .named_model import microgpt_from, model_from
from .options import DEFAULT_CHECKPOINT, AprSettings, BareWeights, Json, ModelFile, Out, Seed
from .output import note, out_file, put, show
from .progress import progress

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..decoder.model import Decoder
    from ..microgpt.model import Model


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """How many names are drawn, and how."""

    count: Annotated[int, typer.Option("-n", "--count", help="How many names.", min=1)] = 20
    temperature: Annotated[
        float,
        typer.Option(help="0 takes the most probable letter each time; 1 the model's own odds.", min=0.0),
    ] = 0.5
    seed: Annotated[int, typer.Option(help="The same names for the same seed.", min=0)] = 42
    prefix: Annotated[str, typer.Option(help="What the names begin with.")] = ""


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """What is shown of the tensors of a production model."""

    stats: Annotated[
        bool,
        typer.Option("--stats", help="Decode stored tensors for their statistics."),
    ] = False
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="Only tensors of this name or glob.", metavar="GLOB")
    ] = None
    metadata: Annotated[bool, typer.Option("--metadata", help="What the file says besides.")] = False

    def refuse(self, model: "LanguageModel") -> None:
        """Raises InputError for what a microGPT has not."""
        asked = (("--stats", self.stats), ("--filter", self.filters), ("--metadata", self.metadata))
        for option, wanted in asked:
            if wanted:
                raise InputError(f"{option} is for a production model, and {model.origin} is a microGPT")


def sample(
    *,
    drawing: Drawing,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
    ] = None,
    bare: BareWeights,
) -> None:
    """Draw new names from a trained model, one a line."""
    from ..microgpt.sampling import sample as draw

    loaded = microgpt_from(model or DEFAULT_CHECKPOINT, None, bare)
    names = draw(
        loaded, drawing.count, temperature=drawing.temperature, seed=drawing.seed, prefix=drawing.prefix
    )
    put((f"{name}\n" for name in names), None)
    for text in loaded.assumed:  # in the end: a refusal is one line
        note(f"assumed: {text}")


sample.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt sample -n 5 --prefix em · microgpt sample --temperature 0"
)


def inspect(
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A model file or folder.", show_default=False)
    ] = None,
    model: ModelFile = None,
    seed: Seed = None,
    as_json: Json = False,
    out: Out = None,
    bare: BareWeights,
    stored: Stored,
    apr: AprSettings,
) -> None:
    """Show the architecture and every parameter: of a microGPT, or as a model file stores it."""
    from ..decoder.stored_weights import stored_tensors
    from ..render.inspection import (
        decoder_inspection_json,
        decoder_inspection_sections,
        inspection_json,
        inspection_sections,
    )

    if path is not None and model is not None:
        raise InputError(f"two models, {path} and --model {model}")
    loaded = model_from(path or model, seed, bare, apr)
    out = out_file(out)
    if "prompts" not in loaded.abilities:
        stored.refuse(loaded)
        own = cast("Model", loaded)
        as_text, sections = partial(inspection_json, own), partial(inspection_sections, own)
    else:
        decoder = cast("Decoder", loaded)
        with progress("tensor") as report:
            tensors = stored_tensors(decoder, stored.filters or [], stored.stats, report)
        as_text = partial(decoder_inspection_json, decoder, tensors, stored.metadata)
        sections = partial(decoder_inspection_sections, decoder, tensors, stored.metadata)
    if as_json:
        put([as_text()], out)
    else:
        show(sections(), out)


inspect.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt inspect microgpt.safetensors · microgpt inspect qwen.gguf --filter '*attn_q*' --stats"
)


def gradcheck(
    *,
    text: Annotated[str, typer.Argument(help="The name to look at.", show_default=True)] = "emma",
    model: ModelFile = None,
    seed: Seed = None,
    bare: BareWeights,
) -> None:
    """Hold every gradient against central differences in float64; exit 1 if one disagrees."""
    from ..render.reports import gradcheck_sections
    from ..tracing.gradient_check import gradcheck as check

    loaded = microgpt_from(model, seed, bare)
    rows = list(check(loaded, text))
    show(gradcheck_sections(rows, text), None)
    if not all(row.holds for row in rows):
        raise typer.Exit(1)


gradcheck.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt gradcheck olivia · microgpt gradcheck --model microgpt.safetensors"
)
