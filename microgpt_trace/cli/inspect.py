"""microgpt inspect"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..errors import InputError
from .named_model import model_from
from .options import AprSettings, BareWeights, ModelFile, Seed, schema_option
from .output import Output, put_schema
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


class InspectionOutput(Output):
    schema: Annotated[bool, schema_option("inspect")] = False


def inspect(
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A model file or folder.", show_default=False)
    ] = None,
    model: ModelFile = None,
    seed: Seed = None,
    output: InspectionOutput,
    bare: BareWeights,
    stored: Stored,
    apr: AprSettings,
) -> None:
    """Show the architecture and every parameter: of a microGPT, or as a model file stores it."""
    output.check()
    if output.schema:
        put_schema("inspect", output.target)
        return
    from ..render.inspection import decoder_inspection_sections, microgpt_inspection_sections
    from ..tracing.inspection import inspect_decoder, inspect_microgpt

    if path is not None and model is not None:
        raise InputError(f"two models, {path} and --model {model}")
    loaded = model_from(path or model, seed, bare, apr)
    if "prompts" not in loaded.abilities:
        stored.refuse(loaded)
        own = cast("Model", loaded)
        found = inspect_microgpt(own)
        output.give(found, lambda: microgpt_inspection_sections(own, found))
    else:
        decoder = cast("Decoder", loaded)
        with progress("tensor") as report:
            found = inspect_decoder(decoder, stored.filters or [], stored.stats, stored.metadata, report)
        output.give(found, lambda: decoder_inspection_sections(decoder, found))


EXAMPLES = "microgpt inspect microgpt.safetensors · microgpt inspect qwen.gguf --filter '*attn_q*' --stats"
