"""microgpt sample"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .named_model import microgpt_from
from .options import DEFAULT_CHECKPOINT, BareWeights
from .output import note, put


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


EXAMPLES = "microgpt sample -n 5 --prefix em · microgpt sample --temperature 0"
