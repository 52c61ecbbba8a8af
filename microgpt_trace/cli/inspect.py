"""microgpt sample, inspect and gradcheck"""

from __future__ import annotations

from typing import Annotated

import typer

from ..files import check_target
from .options import (
    STDOUT,
    BosPlace,
    CheckpointFile,
    Heads,
    Json,
    ModelFile,
    Out,
    Seed,
    Text,
    microgpt_from,
    trained_model,
)
from .output import note, put, show


def sample(
    count: Annotated[int, typer.Option("-n", "--count", help="How many names.", min=1)] = 20,
    temperature: Annotated[
        float, typer.Option(help="0 is the most probable name; 1 the model's own odds.", min=0.0)
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="The same names for the same seed.", min=0)] = 42,
    prefix: Annotated[str, typer.Option(help="What the names begin with.")] = "",
    model: CheckpointFile = None,
    n_head: Heads = None,
    bos: BosPlace = None,
) -> None:
    """Draw new names from a trained model, one a line."""
    from ..sampling import sample as draw

    loaded = trained_model(model, n_head, bos)
    for text in loaded.assumed:
        note(f"assumed: {text}")
    names = draw(loaded, count, temperature=temperature, seed=seed, prefix=prefix)
    put((f"{name}\n" for name in names), None)


sample.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt sample -n 5 --prefix em · microgpt sample --temperature 0"
)


def inspect(
    model: ModelFile = None,
    seed: Seed = None,
    as_json: Json = False,
    out: Out = None,
    n_head: Heads = None,
    bos: BosPlace = None,
) -> None:
    """Show the architecture and every parameter with its statistics."""
    from ..render.reports import inspection_json, print_inspection

    loaded, out = microgpt_from(model, seed, n_head, bos), None if out == STDOUT else out
    if out is not None:
        check_target(out, overwrite=False, hint="choose another name")
    if as_json:
        put([inspection_json(loaded)], out)
    else:
        show(lambda screen: print_inspection(loaded, screen), out)


inspect.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt inspect --model microgpt.safetensors · microgpt inspect --json"
)


def gradcheck(
    text: Text = "emma",
    model: ModelFile = None,
    seed: Seed = None,
    n_head: Heads = None,
    bos: BosPlace = None,
) -> None:
    """Hold every gradient against central differences in float64; exit 1 if one disagrees."""
    from ..gradient_check import gradcheck as check
    from ..render.reports import print_gradcheck

    loaded = microgpt_from(model, seed, n_head, bos)
    rows = list(check(loaded, text))
    show(lambda screen: print_gradcheck(rows, text, screen), None)
    if not all(row.holds for row in rows):
        raise typer.Exit(1)


gradcheck.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt gradcheck olivia · microgpt gradcheck --model microgpt.safetensors"
)
