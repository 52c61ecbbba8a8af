"""microgpt diagnose"""

from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .drawn import Drawn, sections_page
from .named_run import Naming, Opener, Tokens
from .option_checks import given, refuse, same_command
from .options import AprSettings, BareWeights, schema_option, token_ids
from .output import Output, put_schema

if TYPE_CHECKING:
    from ..diagnosis.dump import DumpDiagnosis
    from ..render.figures.panel import Picture
    from ..render.sections import Section


class DumpPrecision(str, Enum):
    f32 = "f32"
    bf16 = "bf16"
    f16 = "f16"
    q8 = "q8"


@dataclass(frozen=True, eq=False, repr=False)
class Dumped:
    """A dump, the model that it is of, and what was read."""

    dump: Annotated[
        Path | None, typer.Argument(metavar="DUMP", help="What the engine computed.", show_default=False)
    ] = None
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="What it should compute.", show_default=False)
    ] = None
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="What it read.", show_default="as the dump's embedding says"),
    ] = None
    tokens: Tokens = None


@dataclass(frozen=True, eq=False, repr=False)
class Judgement:
    """How operations are judged, and which are shown."""

    compute: Annotated[
        DumpPrecision | None,
        typer.Option(
            help="The engine's precision; q8: 8-bit inputs of products.",
            show_default="f32, or bf16 or f16 where the values show it",
        ),
    ] = None
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every operation, also the right ones.")
    ] = False


class DiagnosisOutput(Output):
    schema: Annotated[bool, schema_option("diagnose")] = False


def diagnose(
    context: typer.Context,
    *,
    dumped: Dumped,
    naming: Naming,
    judgement: Judgement,
    output: DiagnosisOutput,
    drawn: Drawn,
    bare: BareWeights,
    apr: AprSettings,
) -> None:
    """Recompute each operation of a dump from the dump's own inputs, and name what went wrong.

    Exit code 0: every operation judged is right. 1: a fault was found, or another precision is offered,
    which the errors look like. 2: nothing could be judged.
    """
    output.check()
    if output.schema:
        put_schema("diagnosis", output.target)
        return
    if dumped.dump is None or dumped.model is None:
        raise InputError("a dump and a model are needed: microgpt diagnose DUMP MODEL")
    if output.as_json:
        refuse(given(context), ["verbose"], "--json")
    drawn.check("diagnose", output.target, [dumped.dump, dumped.model, naming.map_file])
    from ..diagnosis.dump import diagnose as diagnose_dump
    from ..render.diagnosis import diagnosis_sections
    from ..render.documents.diagnosis import diagnosis_document

    opener = Opener(bare, apr, naming.names())
    recorded, known = opener.dump(dumped.dump), opener.model(dumped.model)
    found = diagnose_dump(
        recorded, known, dumped.text, tokens=token_ids(dumped.tokens), map=opener.names,
        layouts=naming.layouts_known(), compute=judgement.compute.value if judgement.compute else None,
    )  # fmt: skip

    def sections() -> list["Section"]:
        return diagnosis_sections(found, verbose=judgement.verbose)

    title = f"{dumped.dump} by {dumped.model}"
    page = sections_page(title, sections, partial(_compared, context))
    drawn.save(context, {"diagnosis": lambda: _picture(found)}, page)
    output.give(diagnosis_document(found), sections)
    if not found.diagnosis.clean:
        raise typer.Exit(1)


EXAMPLES = (
    'microgpt diagnose dumps/ qwen.gguf "The capital of France is" · '
    "microgpt diagnose t/ model-folder --map names.toml"
)


def _compared(context: typer.Context, name: str) -> str:
    """The same dump beside the model, at one event."""
    full = context.params["compute"] in (None, DumpPrecision.f32)
    without = ["verbose", *["compute"] * full]
    return same_command(context, ["--layer", name, "--verbose"], without=without, of="diff")


# What only a figure needs is loaded for it.
def _picture(found: "DumpDiagnosis") -> "Picture":
    from ..render.figures.diagnosis import diagnosis_picture

    return diagnosis_picture(found)
