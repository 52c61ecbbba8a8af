"""microgpt timeline"""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .options import schema_option
from .output import Output, note, put_schema


class TimelineOutput(Output):
    schema: Annotated[bool, schema_option("read")] = False


def timeline(
    *,
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
    output: TimelineOutput,
) -> None:
    """Show how a model changed while it was trained, and when it learned each letter."""
    output.check()
    if output.schema:
        put_schema("timeline", output.target)
        return
    if log is None:
        raise InputError("a log is needed: microgpt timeline LOG.jsonl")
    from ..render.timeline import timeline_sections
    from ..timeline.curves import selected
    from ..timeline.reading import read_timeline

    found = read_timeline(log)
    shown = selected(found, event or [])
    output.give(shown, lambda: timeline_sections(shown, curves=bool(event)))
    for text in found.notes:  # in the end: a refusal is one line
        note(text)


EXAMPLES = (
    "microgpt train --log run.jsonl --trace-every 250 · microgpt timeline run.jsonl · "
    "microgpt timeline run.jsonl --event 'layer0.mlp.*' --event wte"
)
