"""microgpt sample"""

from pathlib import Path

from .named_model import microgpt_from
from .option_groups import group, option
from .options import DEFAULT_CHECKPOINT, BareWeights
from .output import note, put


@group()
class Drawing:
    """How many names are drawn, and how."""

    count: int = option("-n", "--count", default=20, help="How many names.", min=1)
    temperature: float = option(
        default=0.5, help="0 takes the most probable letter each time; 1 the model's own odds.", min=0.0
    )
    seed: int = option(default=42, help="The same names for the same seed.", min=0)
    prefix: str = option(default="", help="What the names begin with.")
    model: Path = option(default=DEFAULT_CHECKPOINT, help="A checkpoint.", metavar="FILE")


def sample(
    *,
    drawing: Drawing,
    bare: BareWeights,
) -> None:
    """Draw new names from a trained model, one a line."""
    from ..microgpt.sampling import sample as draw

    loaded = microgpt_from(drawing.model, None, bare)
    names = draw(
        loaded, drawing.count, temperature=drawing.temperature, seed=drawing.seed, prefix=drawing.prefix
    )
    put((f"{name}\n" for name in names), None)
    for text in loaded.assumed:  # in the end: a refusal is one line
        note(f"assumed: {text}")


EXAMPLES = "microgpt sample -n 5 --prefix em · microgpt sample --temperature 0"
