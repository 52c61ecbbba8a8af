"""microgpt diagnose"""

from pathlib import Path
from typing import Literal

import typer

from ..errors import InputError
from .common_options import FileSettings, HelpPanel, token_ids
from .exports import Exports, give
from .named_model import DumpNaming, Opener, Tokens
from .option_checks import same_command
from .option_groups import argument, flag, group, option
from .output import Output, exit_unless


@group()
class DumpChoice(Tokens):
    """A dump, its model and its input."""

    dump: Path | None = argument("DUMP", "Dump: the values that the engine computed.")
    model: Path | None = argument("MODEL", "Model that the engine ran.")
    text: str | None = argument(
        "[TEXT]", "Text that the engine read.", show_default="the tokens whose embeddings are in the dump"
    )


@group(HelpPanel.SHOWN)
class Judgement:
    """The operations to show, and the precision of the engine."""

    verbose: bool = flag("Show every operation, also the correct ones.", "--verbose", "-v")
    compute: Literal["f32", "bf16", "f16", "q8"] | None = option(
        "Precision in which the engine computed. With q8, the inputs of matrix products have 8 bits.",
        show_default="bf16 or f16 if the values have that precision, else f32", panel=HelpPanel.TOLERANCE,
    )  # fmt: skip


def diagnose(
    context: typer.Context, *, dumped: DumpChoice, judgement: Judgement, naming: DumpNaming, output: Output,
    exports: Exports, settings: FileSettings,
) -> None:  # fmt: skip
    """Recompute each operation of a dump from the dump's own inputs, and name what went wrong.

    Exit code 0: no operation is wrong. 1: a fault, or signs of another precision. 2: nothing could be judged.
    """
    output.check()
    if dumped.dump is None or dumped.model is None:
        raise InputError("expected a dump and a model: microgpt diagnose DUMP MODEL")
    exports.check("diagnose", {"--out": output.target}, [dumped.dump, dumped.model, naming.map_file])
    from ..diagnosis.diagnose import diagnose as diagnose_dump

    opener = Opener(settings, naming.names())
    recording, model = opener.dump(dumped.dump), opener.model(dumped.model)
    result = diagnose_dump(
        recording, model, dumped.text, tokens=token_ids(dumped.tokens), map=opener.names,
        layouts=naming.layouts_by_glob(), compute=judgement.compute,
    )  # fmt: skip
    give(
        context, result, output, exports, f"{dumped.dump} by {dumped.model}",
        lambda name: same_command(context, ["--layer", name, "--verbose"], without=["verbose"], of="diff"),
        view={"verbose": judgement.verbose},
    )  # fmt: skip
    exit_unless(result.diagnosis.clean)


EXAMPLES = (
    'microgpt diagnose dumps/ qwen.gguf "The capital of France is"',
    "microgpt diagnose t/ model-folder --map names.toml",
)
