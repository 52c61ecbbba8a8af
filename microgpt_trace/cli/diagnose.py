"""microgpt diagnose"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .command import given, refuse
from .options import BosPlace, Heads, Json, Out, RopePairing, Set, numbers
from .output import out_file, put, put_schema, show_sections
from .sources import Layouts, MapFile, Opener, Tokens, layouts_of, name_map


class Precision(str, Enum):
    f32 = "f32"
    bf16 = "bf16"
    f16 = "f16"
    q8 = "q8"


def diagnose(
    context: typer.Context,
    dump: Annotated[
        Path | None, typer.Argument(metavar="DUMP", help="What the engine computed.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="What it should compute.", show_default=False)
    ] = None,
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="What it read.", show_default="as the dump's embedding says"),
    ] = None,
    tokens: Tokens = None,
    map_file: MapFile = None,
    layouts: Layouts = None,
    compute: Annotated[
        Precision | None,
        typer.Option(
            help="The engine's precision; q8: 8-bit inputs of products.",
            show_default="f32, or bf16 or f16 where the values show it",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every operation, also the right ones.")
    ] = False,
    as_json: Json = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema, diagnose nothing.")
    ] = False,
    out: Out = None,
    n_head: Heads = None,
    bos: BosPlace = None,
    rope_pairs: RopePairing = None,
    settings: Set = None,
) -> None:
    """Recompute each operation of a dump from the dump's own inputs, and name what went wrong.

    Exit code 0: every operation judged is right. 1: a fault was found, or another precision is offered,
    which the errors look like. 2: nothing could be judged.
    """
    out = out_file(out)
    if schema:
        put_schema("diagnosis", out)
        return
    if dump is None or model is None:
        raise InputError("a dump and a model are needed: microgpt diagnose DUMP MODEL")
    if as_json:
        refuse(given(context), ["verbose"], "--json")
    from ..diagnosis.dump import diagnose as diagnose_dump
    from ..render.diagnosis import diagnosis_document, diagnosis_sections
    from ..render.document import to_text

    opener = Opener(n_head, bos, rope_pairs, settings, name_map(map_file))
    recorded, known = opener.dump(dump), opener.model(model)
    found = diagnose_dump(
        recorded, known, text,
        tokens=None if tokens is None else numbers(tokens, "--tokens"),
        map=opener.names, layouts=layouts_of(layouts), compute=compute.value if compute else None,
    )  # fmt: skip
    if as_json:
        put([to_text(diagnosis_document(found))], out)
    else:
        show_sections(diagnosis_sections(found, verbose=verbose), out)
    if not found.diagnosis.clean:
        raise typer.Exit(1)


diagnose.epilog = (  # type: ignore[attr-defined]
    'Examples: microgpt diagnose dumps/ qwen.gguf "The capital of France is" · '
    "microgpt diagnose t/ model-folder --map names.toml"
)
