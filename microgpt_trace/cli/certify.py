"""microgpt certify"""

from pathlib import Path

import typer

from ..errors import InputError
from ..interrupt import EXIT_CODE
from ..signals import interruptible
from ..text.printable import command
from .common_options import HelpPanel
from .exports import Exports, give
from .option_groups import argument, flag, group, option
from .output import Output, exit_unless, note
from .progress_line import progress


@group()
class Models:
    """The two models of a certificate, and the texts that they read."""

    export: Path | None = argument(
        "EXPORT", "Converted or quantised model: a GGUF or .apr file, or a folder."
    )
    original: Path | None = argument("ORIGINAL", "Model that EXPORT was made from.")
    texts: Path | None = option(
        "Texts whose predictions are compared, one per line. Their encodings are compared as well.",
        panel=HelpPanel.INPUT, show_default="200 short texts",
    )  # fmt: skip


@group(HelpPanel.SHOWN)
class Depth:
    """What to measure beside the usual checks."""

    max_kl: float | None = option(
        "Largest mean KL(ORIGINAL || EXPORT) in nats that is no difference.", min=0.0,
        panel=HelpPanel.TOLERANCE,
    )  # fmt: skip
    by_tensor: bool = flag("Also measure the KL that each tensor of EXPORT causes alone.")
    confirm: int | None = option(
        "Estimate the KL of each tensor from gradients, and compute this many of the largest.", min=0
    )


def certify(
    context: typer.Context, *, models: Models, depth: Depth, output: Output, exports: Exports
) -> None:
    """Say whether an exported model is the same model as its original, and what differs.

    Exit code 0: the same, as far as the types of the file allow.
    1: something differs or could not be checked. 2: a file cannot be read.
    """
    output.check()
    if models.export is None or models.original is None:
        raise InputError("expected two models: microgpt certify EXPORT ORIGINAL")
    paths = [models.export, models.original]
    exports.check("certify", {"--out": output.target}, [*paths, models.texts])
    from ..certification.certify import certify as certified

    texts = [] if models.texts is None else _texts(models.texts)
    with interruptible() as interrupted, progress("step") as report:
        result = certified(*paths, texts=texts, **vars(depth), report=report)
    title = f"{models.export} from {models.original}"

    def again(name: str) -> str:  # the command that compares one tensor of both files
        return command("diff", [*map(str, paths)], ["--weights", "--layer", name])

    give(context, result, output, exports, title, again)
    if interrupted:
        note("interrupted: the certificate contains what was finished")
        raise SystemExit(EXIT_CODE)
    exit_unless(result.verdict == "same")


EXAMPLES = (
    "microgpt certify smollm2-q4_1.gguf SmolLM2-135M-Instruct",
    "microgpt certify smollm2-q4_1.gguf SmolLM2-135M-Instruct --by-tensor --confirm 10",
    "microgpt certify export.gguf model-folder --texts texts.txt --max-kl 0.05 --json",
)


def _texts(path: Path) -> list[str]:
    """Return the lines of a file. Raises InputError if a line has token ids."""
    from ..comparison.prompts import read_prompts

    prompts = read_prompts(path)
    if any(not isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{path}: expected texts, found token ids")
    return [str(prompt) for prompt in prompts]
