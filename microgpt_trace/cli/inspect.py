"""microgpt inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..render.shown import sections_of
from .named_model import model_before, model_from, refuse_other_family
from .option_groups import flag, group, option
from .options import DECODER, ModelFile, OfFile, Seed
from .output import Output
from .progress import progress

if TYPE_CHECKING:
    from ..decoder.model import Decoder
    from ..microgpt.model import Model


@group(DECODER)
class Stored:
    """What is shown of the tensors of a production model."""

    stats: bool = flag("--stats", help="Decode stored tensors for their statistics.")
    filters: list[str] | None = option("--filter", help="Only tensors of this name or glob.", metavar="GLOB")
    metadata: bool = flag("--metadata", help="What the file says besides.")


def inspect(
    context: typer.Context,
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A model file or folder.", show_default=False)
    ] = None,
    model: ModelFile = None,
    seed: Seed = None,
    output: Output,
    stored: Stored,
    of_file: OfFile,
) -> None:
    """Show the architecture and every parameter: of a microGPT, or as a model file stores it."""
    output.check()
    from ..tracing.inspection import inspect_decoder, inspect_microgpt

    loaded = model_from(model if path is None else model_before([str(path)], model), seed, of_file)
    refuse_other_family(context, loaded)
    if "prompts" not in loaded.abilities:
        found = inspect_microgpt(cast("Model", loaded))
    else:
        with progress("tensor") as report:
            decoder, filters = cast("Decoder", loaded), stored.filters or []
            found = inspect_decoder(decoder, filters, stored.stats, stored.metadata, report)
    output.give(found, lambda: sections_of(loaded, found=found))


EXAMPLES = "microgpt inspect microgpt.safetensors · microgpt inspect qwen.gguf --filter '*attn_q*' --stats"
