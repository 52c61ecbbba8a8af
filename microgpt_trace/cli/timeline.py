"""microgpt timeline"""

from pathlib import Path

import typer

from ..errors import InputError
from .drawn import Drawn, give
from .option_checks import same_command
from .option_groups import argument, group, option
from .output import Output, note


@group()
class ReadLog:
    """Which log is read, and what is shown of it."""

    log: Path | None = argument(
        metavar="LOG.jsonl", help="What train --log --trace-every wrote.", show_default=False
    )
    event: list[str] | None = option(
        help="Only the events and parameters this name, glob or apr stage matches.", metavar="GLOB"
    )


@group()
class DrawnOfTimeline(Drawn):
    """What is drawn beside a timeline."""

    plot: list[str] | None = option(
        help="Draw the timeline, or the loss alone, as .svg, .png or .pdf.",
        metavar="[NAME=]FILE",
        show_default="timeline",
    )


def timeline(
    context: typer.Context,
    *,
    read: ReadLog,
    output: Output,
    drawn: DrawnOfTimeline,
) -> None:
    """Show how a model changed while it was trained, and when it learned each letter."""
    output.check()
    log, event = read.log, read.event or []
    if log is None:
        raise InputError("a log is needed: microgpt timeline LOG.jsonl")
    drawn.check("timeline", {"--out": output.target}, [log])
    from ..timeline.curves import selected
    from ..timeline.reading import read_timeline

    found = read_timeline(log)
    shown, curves = selected(found, event), {"curves": bool(event)}
    give(
        context, shown, output, drawn, str(log),
        lambda name: same_command(context, ["--event", name], without=["event"]), view=curves, figure=curves,
    )  # fmt: skip
    for text in found.notes:  # in the end: a refusal is one line
        note(text)


EXAMPLES = (
    "microgpt train --log run.jsonl --trace-every 250 · microgpt timeline run.jsonl · "
    "microgpt timeline run.jsonl --event 'layer0.mlp.*' --event wte"
)
