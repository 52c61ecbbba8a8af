"""microgpt inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from ..render.shown import sections_of
from .common_options import PRODUCTION, FileSettings, HelpPanel, ModelChoice
from .named_model import model_before, model_from, refuse_other_family
from .option_groups import argument, flag, group, option
from .output import Output
from .progress_line import progress

if TYPE_CHECKING:
    from ..decoder.decoder import Decoder
    from ..microgpt.model import Model


@group(HelpPanel.SHOWN)
class InspectionOptions(ModelChoice):
    """A model, and what to show about its tensors."""

    path: Path | None = argument("[MODEL]", "Model file, checkpoint or model folder.")
    filters: list[str] | None = option(
        "Show only tensors whose name matches this glob, such as '*attn_q*'.",
        "--filter", metavar="GLOB", family=PRODUCTION,
    )  # fmt: skip
    stats: bool = flag("Decode the stored tensors and show their statistics.", family=PRODUCTION)
    metadata: bool = flag("Also show the other metadata of the file.", family=PRODUCTION)


def inspect(
    context: typer.Context, *, choice: InspectionOptions, output: Output, settings: FileSettings
) -> None:
    """Show the architecture of a model, and each parameter or stored tensor."""
    output.check()
    from ..tracing.inspection import inspect_decoder, inspect_microgpt

    path = choice.model if choice.path is None else model_before([str(choice.path)], choice.model)
    model = model_from(path, choice.seed, settings)
    refuse_other_family(context, model)
    if not model.takes_prompts:
        result = inspect_microgpt(cast("Model", model))
    else:
        with progress("tensor") as report:
            decoder, filters = cast("Decoder", model), choice.filters or []
            result = inspect_decoder(decoder, filters, choice.stats, choice.metadata, report)
    output.give(result, lambda: sections_of(model, inspection=result))


EXAMPLES = ("microgpt inspect microgpt.safetensors", "microgpt inspect qwen.gguf --filter '*attn_q*' --stats")
