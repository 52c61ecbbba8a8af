"""microgpt attribute"""

from __future__ import annotations

from typing import Annotated

import typer

from .command import given, refuse
from .options import (
    BosPlace,
    Heads,
    Json,
    ModelFile,
    ModelOrText,
    Out,
    RopePairing,
    Seed,
    Set,
    TextAfterModel,
    TokenIds,
    model_and_text,
    model_from,
    numbers,
    positions_of,
    refuse_without,
)
from .output import note, out_file, put, put_schema, show
from .progress import progress


def attribute(
    context: typer.Context,
    first: ModelOrText = None,
    second: TextAfterModel = None,
    model: ModelFile = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Whose logit is explained: a token's text, ␣ for a blank, or #ID.",
            metavar="TOKEN",
            show_default="the token that follows",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="The token that it is told apart from.",
            metavar="TOKEN",
            show_default="the most probable other",
        ),
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(
            help="Where: a number (-1 is the last), a list, all or last.",
            metavar="N",
            show_default="all; of a production model: last",
        ),
    ] = None,
    no_ablation: Annotated[
        bool, typer.Option("--no-ablation", help="Only what parts write, remove none of them.")
    ] = False,
    top: Annotated[int, typer.Option(help="Parts shown of each position.", min=1)] = 20,
    as_json: Json = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema, attribute nothing.")
    ] = False,
    out: Out = None,
    seed: Seed = None,
    n_head: Heads = None,
    bos: BosPlace = None,
    tokens: TokenIds = None,
    rope_pairs: RopePairing = None,
    settings: Set = None,
) -> None:
    """Say which heads, MLPs, embeddings and biases made a prediction, and what heads look at.

    Exit code 0: the parts sum to the logits. 1: they do not. 2: the request does not fit.
    """
    out = out_file(out)
    if schema:
        put_schema("attribution", out)
        return
    if as_json:
        refuse(given(context), ["top"], "--json")
    positions = positions_of(position, "--position", "a number, all, last or a list like 0,3,-1")
    path, text = model_and_text(first, second, model)
    loaded = model_from(path, seed, n_head, bos, rope_pairs, settings)
    if tokens is not None:
        refuse_without("prompts", loaded, "--tokens")
    from ..attribution.attribute import attribute as attribute_text
    from ..render.attribution import attribution_document, print_attribution
    from ..render.document import to_text

    with progress("removing each part: layer") as report:
        result = attribute_text(
            loaded, text, tokens=None if tokens is None else numbers(tokens, "--tokens"), target=target,
            against=against, positions=positions, ablation=not no_ablation, report=report,
        )  # fmt: skip
    if as_json:
        for remark in result.notes:
            note(remark)
        put([to_text(attribution_document(result))], out)
    else:
        show(lambda screen: print_attribution(result, screen, top=top), out)
    if not result.ok:
        raise typer.Exit(1)


attribute.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt attribute emma --model microgpt.safetensors · "
    "microgpt attribute emma --position 2 --against n · "
    'microgpt attribute smollm2.gguf "The capital of France is" --target ␣Paris'
)
