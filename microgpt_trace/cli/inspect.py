"""microgpt inspect"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..errors import InputError
from .named_model import model_from
from .options import AprSettings, BareWeights, Json, ModelFile, Out, Seed
from .output import out_file, put, show
from .progress import progress

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..decoder.model import Decoder
    from ..microgpt.model import Model


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


EXAMPLES = "microgpt inspect microgpt.safetensors · microgpt inspect qwen.gguf --filter '*attn_q*' --stats"
