"""microgpt patch"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .command import schema_by
from .options import (
    BosPlace,
    Heads,
    Json,
    ModelFile,
    Out,
    RopePairing,
    Seed,
    Set,
    is_there,
    model_and_text,
    model_from,
)
from .output import out_file, put, put_schema, show
from .progress import progress

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel


@schema_by("pairs")
def patch(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] CLEAN CORRUPT",
            help="Two texts of equally many tokens; before them a model, by default an untrained microGPT.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The token that the clean run is for.", metavar="TOKEN", show_default="its best"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="The token that the corrupted run is for.", metavar="TOKEN", show_default="its best"
        ),
    ] = None,
    position: Annotated[
        int, typer.Option(help="Whose next token is judged; -1 is the last.", metavar="N")
    ] = -1,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            help="What is patched: 'layer*.attn.head*', attn_out, layer3.mlp.act@2:5.",
            metavar="SITE",
            show_default="the residual stream",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Many pairs: lines of CLEAN and CORRUPT, maybe TARGET and AGAINST, with tabs between.",
            metavar="FILE",
        ),
    ] = None,
    model_file: ModelFile = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, patch nothing.")] = False,
    out: Out = None,
    seed: Seed = None,
    n_head: Heads = None,
    bos: BosPlace = None,
    rope_pairs: RopePairing = None,
    settings: Set = None,
) -> None:
    """Put a clean run's activations into a corrupted run, site by site: which bring the answer back?

    In logit(target) - logit(against) 0 is the corrupted run and 1 the clean one.

    Exit code 1: the built-in check failed.
    """
    out = out_file(out)
    if schema:
        put_schema("patch_pairs" if pairs is not None else "patch", out)
        return
    path, texts = _model_and_texts(arguments or [], model_file, pairs)
    model = model_from(path, seed, n_head, bos, rope_pairs, settings)
    options = {"sites": sites, "target": target, "against": against, "position": position}
    ok = (
        _one(model, texts, options, as_json, out)
        if pairs is None
        else _many(model, pairs, options, as_json, out)
    )
    if not ok:
        raise typer.Exit(1)


patch.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt patch emma emmy --target m --against y · "
    'microgpt patch smollm2.gguf "The capital of France is" "The capital of Italy is" · '
    "the same with --sites 'layer*.attn.head*' · "
    "microgpt patch smollm2.gguf --pairs pairs.txt --json"
)


def _model_and_texts(
    arguments: Sequence[str], model: Path | None, pairs: Path | None
) -> tuple[Path | None, Sequence[str]]:
    """The model's path, if one was named, and the two texts, or none beside --pairs."""
    wanted = 2 if pairs is None else 0
    if len(arguments) == wanted + 1:
        first = arguments[0]
        if model is not None:
            raise InputError(f"two models, {first} and --model {model}")
        if not is_there(first):
            reads = f", to read {arguments[1]!r}" if wanted else " (texts are in the file of --pairs)"
            raise InputError(f"{first or repr(first)}: no such model{reads}")
        return Path(first), arguments[1:]
    lone_model = len(arguments) == 2 and model_and_text(arguments[0], None, None)[0] is not None
    if len(arguments) != wanted or lone_model:
        needed = (
            "no texts stand beside --pairs"
            if pairs is not None
            else "two texts are needed, CLEAN and CORRUPT"
        )
        raise InputError(f"{needed}, and before them a model if any: found {_counted(len(arguments))}")
    return model, arguments


def _counted(count: int) -> str:
    return f"{count or 'no'} argument{'s' * (count != 1)}"


def _one(
    model: LanguageModel, texts: Sequence[str], options: dict[str, Any], as_json: bool, out: Path | None
) -> bool:
    from ..patching.patch import patch as patch_texts
    from ..render.document import to_text
    from ..render.patching import patch_document, print_patch

    with progress("layer") as report:
        result = patch_texts(model, *texts, **options, report=report)
    if as_json:
        put([to_text(patch_document(result))], out)
    else:
        show(lambda screen: print_patch(result, screen), out)
    return result.ok


def _many(
    model: LanguageModel, pairs: Path, options: dict[str, Any], as_json: bool, out: Path | None
) -> bool:
    from ..patching.pairs import patch_pairs, read_pairs
    from ..render.document import to_text
    from ..render.patching import pairs_document, print_pairs

    with progress("pair") as report:
        result = patch_pairs(model, read_pairs(pairs), **options, report=report)
    if as_json:
        put([to_text(pairs_document(result))], out)
    else:
        show(lambda screen: print_pairs(result, screen), out)
    return result.ok
