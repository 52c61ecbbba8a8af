"""microgpt diagnose"""

from pathlib import Path
from typing import Literal

import typer

from ..errors import InputError
from .drawn import Drawn, give
from .named_model import Naming, Opener, Tokens
from .option_checks import same_command
from .option_groups import argument, flag, group, option
from .options import OfFile, token_ids
from .output import Output


@group()
class Dumped:
    """A dump, the model that it is of, and what was read."""

    dump: Path | None = argument(metavar="DUMP", help="What the engine computed.", show_default=False)
    model: Path | None = argument(metavar="MODEL", help="What it should compute.", show_default=False)
    text: str | None = argument(
        metavar="[TEXT]", help="What it read.", show_default="as the dump's embedding says"
    )
    tokens: Tokens = None


@group()
class Judgement:
    """How operations are judged, and which are shown."""

    compute: Literal["f32", "bf16", "f16", "q8"] | None = option(
        help="The engine's precision; q8: 8-bit inputs of products.",
        show_default="f32, or bf16 or f16 where the values show it",
    )
    verbose: bool = flag("--verbose", "-v", help="Every operation, also the right ones.")


def diagnose(
    context: typer.Context,
    *,
    dumped: Dumped,
    naming: Naming,
    judgement: Judgement,
    output: Output,
    drawn: Drawn,
    of_file: OfFile,
) -> None:
    """Recompute each operation of a dump from the dump's own inputs, and name what went wrong.

    Exit code 0: every operation judged is right. 1: a fault was found, or another precision is offered,
    which the errors look like. 2: nothing could be judged.
    """
    output.check()
    if dumped.dump is None or dumped.model is None:
        raise InputError("a dump and a model are needed: microgpt diagnose DUMP MODEL")
    drawn.check("diagnose", {"--out": output.target}, [dumped.dump, dumped.model, naming.map_file])
    from ..diagnosis.diagnose import diagnose as diagnose_dump

    opener = Opener(of_file, naming.names())
    recorded, known = opener.dump(dumped.dump), opener.model(dumped.model)
    found = diagnose_dump(
        recorded, known, dumped.text, tokens=token_ids(dumped.tokens), map=opener.names,
        layouts=naming.layouts_known(), compute=judgement.compute,
    )  # fmt: skip
    without = ["verbose", *["compute"] * (judgement.compute in (None, "f32"))]
    give(
        context, found, output, drawn, f"{dumped.dump} by {dumped.model}",
        lambda name: same_command(context, ["--layer", name, "--verbose"], without=without, of="diff"),
        view={"verbose": judgement.verbose},
    )  # fmt: skip
    if not found.diagnosis.clean:
        raise typer.Exit(1)


EXAMPLES = (
    'microgpt diagnose dumps/ qwen.gguf "The capital of France is" · '
    "microgpt diagnose t/ model-folder --map names.toml"
)
