"""microgpt gradcheck"""

from typing import Annotated

import typer

from .named_model import microgpt_from
from .options import BareWeights, ModelFile, Seed
from .output import show


def gradcheck(
    *,
    text: Annotated[str, typer.Argument(help="The name to look at.", show_default=True)] = "emma",
    model: ModelFile = None,
    seed: Seed = None,
    bare: BareWeights,
) -> None:
    """Hold every gradient against central differences in float64; exit 1 if one disagrees."""
    from ..render.results.checking import gradcheck_sections
    from ..tracing.gradient_check import gradcheck as check

    loaded = microgpt_from(model, seed, bare)
    rows = list(check(loaded, text))
    show(gradcheck_sections(rows, text), None)
    if not all(row.holds for row in rows):
        raise typer.Exit(1)


EXAMPLES = "microgpt gradcheck olivia · microgpt gradcheck --model microgpt.safetensors"
