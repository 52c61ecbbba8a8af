"""microgpt timeline"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .options import Json, Out
from .output import note, out_file, put, put_schema, show_sections


def timeline(
    log: Annotated[
        Path | None,
        typer.Argument(metavar="LOG.jsonl", help="What train --log --trace-every wrote.", show_default=False),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            help="Only the events and parameters this name, glob or apr stage matches.",
            metavar="GLOB",
        ),
    ] = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, read nothing.")] = False,
    out: Out = None,
) -> None:
    """Show how a model changed while it was trained, and when it learned each letter."""
    out = out_file(out)
    if schema:
        put_schema("timeline", out)
        return
    if log is None:
        raise InputError("a log is needed: microgpt timeline LOG.jsonl")
    from ..render.document import to_text
    from ..render.timeline import timeline_document, timeline_sections
    from ..timeline.reading import read_timeline

    found = read_timeline(log)
    if as_json:
        put([to_text(timeline_document(found, event or []))], out)
    else:
        show_sections(timeline_sections(found, event or []), out)
    for text in found.notes:  # in the end: a refusal is one line
        note(text)


timeline.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt train --log run.jsonl --trace-every 250 · microgpt timeline run.jsonl · "
    "microgpt timeline run.jsonl --event 'layer0.mlp.*' --event wte"
)
