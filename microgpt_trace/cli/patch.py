"""microgpt patch"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from ..errors import InputError
from ..text.wording import counted
from .common_options import FileSettings, HelpPanel, ModelChoice
from .exports import Exports, give
from .named_model import model_and_text, model_before, model_from, refuse_other_family
from .option_checks import same_command
from .option_groups import argument, flag, group, option
from .output import Output, exit_unless
from .progress_line import progress

if TYPE_CHECKING:
    from ..patching.patch_results import PairsResult, PatchResult


@group(HelpPanel.INPUT)
class PatchRuns(ModelChoice):
    """The two runs, the sites that are patched, and the prediction that is measured."""

    arguments: list[str] | None = argument(
        "[MODEL] CLEAN CORRUPT", "An optional model, and two texts with equal numbers of tokens.",
        show_default="an untrained microGPT",
    )  # fmt: skip
    pairs: Path | None = option(
        "File with one pair of texts per line. Its columns, separated by tabs, are CLEAN, CORRUPT and, "
        "optionally, TARGET and AGAINST.",
    )  # fmt: skip
    target: str | None = option(
        "Token that answers the clean text.", metavar="TOKEN",
        show_default="the most probable token of the clean run", panel=HelpPanel.PREDICTIONS,
    )  # fmt: skip
    against: str | None = option(
        "Token that answers the corrupted text.", metavar="TOKEN",
        show_default="the most probable token of the corrupted run", panel=HelpPanel.PREDICTIONS,
    )  # fmt: skip
    position: int = option(
        "Position of the prediction. -1 is the last position.", default=-1, panel=HelpPanel.PREDICTIONS
    )
    sites: list[str] | None = option(
        "Sites to patch, such as 'layer*.attn.head*', attn_out or layer3.mlp.act@2:5.",
        metavar="SITE", panel=HelpPanel.INTERVENTIONS,
        show_default="the residual stream, and with --method attribution also the MLPs and heads",
    )  # fmt: skip
    sender: list[str] | None = option(
        "Part whose clean write one receiver reads: layer9.attn.head6, 'layer*.mlp.down' or embed.tok@3.",
        metavar="NAME", panel=HelpPanel.INTERVENTIONS,
    )  # fmt: skip
    receiver: list[str] | None = option(
        "Input that reads this write: layer23.attn.head4.q (or .k, .v), layer23.mlp, or logits.",
        metavar="NAME", panel=HelpPanel.INTERVENTIONS,
    )  # fmt: skip
    method: Literal["exact", "attribution"] = option(
        "exact runs the model for every site. attribution estimates all sites from one gradient.",
        default="exact", panel=HelpPanel.INTERVENTIONS,
    )  # fmt: skip
    confirm: int | None = option(
        "Number of the largest estimates to confirm by exact patches.", min=0,
        show_default="20", panel=HelpPanel.INTERVENTIONS,
    )  # fmt: skip
    neurons: bool = flag("Also estimate every neuron at every position.", panel=HelpPanel.INTERVENTIONS)


def patch(
    context: typer.Context, *, runs: PatchRuns, output: Output, exports: Exports, settings: FileSettings
) -> None:
    """Patch activations of a clean run into a corrupted run, and show which sites restore the answer.

    The measure is logit(target) - logit(against), scaled to 0 for the corrupted run and 1 for the clean run.

    Exit code 1: the built-in check failed.
    """
    output.check()
    path, texts = _model_and_texts(runs.arguments or [], runs.model, runs.pairs)
    exports.check("patch", {"--out": output.target}, [path, runs.pairs])
    model = model_from(path, runs.seed, settings)
    refuse_other_family(context, model)
    from ..patching.pairs import patch_pairs, read_pairs
    from ..patching.patch import patch as patch_texts

    options: dict[str, Any] = {
        name: getattr(runs, name) for name in ("sites", "target", "against", "position", "method")
    }
    if runs.pairs is None:
        options |= {"confirm": runs.confirm, "neurons": runs.neurons}
        options |= {"sender": runs.sender or (), "receiver": runs.receiver or ()}
    result: PatchResult | PairsResult
    with progress("layer" if runs.pairs is None else "pair") as report:
        if runs.pairs is None:
            result, title = patch_texts(model, *texts, **options, report=report), " → ".join(map(repr, texts))
        else:
            result = patch_pairs(model, read_pairs(runs.pairs), **options, report=report)
            title = str(runs.pairs)

    def again(site: str) -> str:  # the command that patches a site, or a path "SENDER to RECEIVER"
        sender, _, receiver = site.partition(" to ")
        more = ["--sender", sender, "--receiver", receiver] if receiver else ["--sites", site]
        return same_command(context, more, without=["sites", "sender", "receiver"])

    give(context, result, output, exports, title, again)
    exit_unless(result.ok)


EXAMPLES = (
    "microgpt patch lara eira --target n --against EOS --model microgpt.safetensors",
    'microgpt patch smollm2.gguf "The capital of France is" "The capital of Italy is"',
    'microgpt patch smollm2.gguf "The capital of France is" "The capital of Italy is" --method attribution',
    "microgpt patch lara eira --sites 'layer*.attn.head*'",
    "microgpt patch lara eira --target n --against EOS --sender 'layer0.attn.head*' --receiver layer0.mlp",
    "microgpt patch smollm2.gguf --pairs pairs.txt --json",
)


def _model_and_texts(
    arguments: Sequence[str], model: Path | None, pairs: Path | None
) -> tuple[Path | None, Sequence[str]]:
    """Return the path of the model, if one is named, and the two texts, or no texts with --pairs."""
    count = 2 if pairs is None else 0
    lone_model = len(arguments) == 2 and model_and_text(arguments[0], None, None)[0] is not None
    if len(arguments) == count + 1:
        return model_before(arguments, model), arguments[1:]
    if len(arguments) == count and not lone_model:
        return model, arguments
    expected = "[MODEL] CLEAN CORRUPT" if count else "at most a model with --pairs"
    raise InputError(f"expected {expected}, found {counted(len(arguments), 'argument')}")
