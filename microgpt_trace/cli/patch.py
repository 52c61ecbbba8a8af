"""microgpt patch"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..text.wording import counted
from .drawn import Drawn, give
from .named_model import model_and_text, model_before, model_from, refuse_other_family
from .option_checks import same_command
from .option_groups import argument, group, option
from .options import ModelFile, OfFile, Seed
from .output import Output
from .progress import progress

if TYPE_CHECKING:
    from ..patching.results import PairsResult, PatchResult


@group()
class Runs:
    """The runs that are patched, what is asked of them, and where."""

    arguments: list[str] | None = argument(
        metavar="[MODEL] CLEAN CORRUPT",
        help="Two texts of equally many tokens; before them a model, by default an untrained microGPT.",
        show_default=False,
    )
    target: str | None = option(
        help="The token that the clean run is for.", metavar="TOKEN", show_default="its best"
    )
    against: str | None = option(
        help="The token that the corrupted run is for.", metavar="TOKEN", show_default="its best"
    )
    position: int = option(default=-1, help="Whose next token is judged; -1 is the last.", metavar="N")
    sites: list[str] | None = option(
        "--sites",
        help="What is patched: 'layer*.attn.head*', attn_out, layer3.mlp.act@2:5.",
        metavar="SITE",
        show_default="the residual stream",
    )
    pairs: Path | None = option(
        help="Many pairs: lines of CLEAN and CORRUPT, maybe TARGET and AGAINST, with tabs between.",
        metavar="FILE",
    )
    model_file: ModelFile = None


def patch(
    context: typer.Context,
    *,
    runs: Runs,
    output: Output,
    drawn: Drawn,
    seed: Seed = None,
    of_file: OfFile,
) -> None:
    """Put a clean run's activations into a corrupted run, site by site: which bring the answer back?

    In logit(target) - logit(against) 0 is the corrupted run and 1 the clean one.

    Exit code 1: the built-in check failed.
    """
    output.check()
    path, texts = _model_and_texts(runs.arguments or [], runs.model_file, runs.pairs)
    drawn.check("patch", {"--out": output.target}, [path, runs.pairs])
    model = model_from(path, seed, of_file)
    refuse_other_family(context, model)
    from ..patching.pairs import patch_pairs, read_pairs
    from ..patching.patch import patch as patch_texts

    asked: dict[str, Any] = {name: getattr(runs, name) for name in ("sites", "target", "against", "position")}
    result: PatchResult | PairsResult
    with progress("layer" if runs.pairs is None else "pair") as report:
        if runs.pairs is None:
            result, title = patch_texts(model, *texts, **asked, report=report), " → ".join(map(repr, texts))
        else:
            result = patch_pairs(model, read_pairs(runs.pairs), **asked, report=report)
            title = str(runs.pairs)
    give(
        context, result, output, drawn, title,
        lambda site: same_command(context, ["--sites", site], without=["sites"]),
    )  # fmt: skip
    if not result.ok:
        raise typer.Exit(1)


EXAMPLES = (
    "microgpt patch lara eira --target n --against EOS --model microgpt.safetensors · "
    'microgpt patch smollm2.gguf "The capital of France is" "The capital of Italy is" · '
    "the same with --sites 'layer*.attn.head*' · "
    "microgpt patch smollm2.gguf --pairs pairs.txt --json"
)


def _model_and_texts(
    arguments: Sequence[str], model: Path | None, pairs: Path | None
) -> tuple[Path | None, Sequence[str]]:
    """The model's path, if one was named, and the two texts, or none beside --pairs."""
    wanted = 2 if pairs is None else 0
    lone_model = len(arguments) == 2 and model_and_text(arguments[0], None, None)[0] is not None
    if len(arguments) == wanted + 1:
        return model_before(arguments, model), arguments[1:]
    if len(arguments) == wanted and not lone_model:
        return model, arguments
    needed = "two texts are needed, CLEAN and CORRUPT" if wanted else "no texts stand beside --pairs"
    raise InputError(f"{needed}, and before them a model if any: found {counted(len(arguments), 'argument')}")
