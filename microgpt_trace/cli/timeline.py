"""microgpt timeline"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .drawn import Drawn, sections_page
from .option_checks import same_command
from .options import schema_option
from .output import Output, note, put_schema

if TYPE_CHECKING:
    from ..render.figures.panel import Picture
    from ..render.page.page_view import PageView
    from ..render.sections import Section
    from ..timeline.curves import Timeline


class TimelineOutput(Output):
    schema: Annotated[bool, schema_option("read")] = False


class DrawnOfTimeline(Drawn):
    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            help="Draw the timeline, or the loss alone, as .svg, .png or .pdf.",
            metavar="[NAME=]FILE",
            show_default="timeline",
        ),
    ] = None


def timeline(
    context: typer.Context,
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
    drawn: DrawnOfTimeline,
) -> None:
    """Show how a model changed while it was trained, and when it learned each letter."""
    output.check()
    if output.schema:
        put_schema("timeline", output.target)
        return
    if log is None:
        raise InputError("a log is needed: microgpt timeline LOG.jsonl")
    drawn.check("timeline", output.target, [log])
    from ..render.timeline import timeline_sections
    from ..timeline.curves import selected
    from ..timeline.reading import read_timeline

    found = read_timeline(log)
    shown = selected(found, event or [])
    pictures = {"timeline": lambda: _timeline(shown, bool(event)), "loss": lambda: _loss(shown)}

    def sections() -> list["Section"]:
        return timeline_sections(shown, curves=bool(event))

    drawn.save(
        context, pictures, sections_page(str(log), sections, partial(_curves, context), lambda: _view(shown))
    )
    output.give(shown, sections)
    for text in found.notes:  # in the end: a refusal is one line
        note(text)


EXAMPLES = (
    "microgpt train --log run.jsonl --trace-every 250 · microgpt timeline run.jsonl · "
    "microgpt timeline run.jsonl --event 'layer0.mlp.*' --event wte"
)


def _curves(context: typer.Context, name: str) -> str:
    """The curves of one event or parameter."""
    return same_command(context, ["--event", name], without=["event"])


# What only a figure needs is loaded for it.
def _timeline(shown: "Timeline", curves: bool) -> "Picture":
    from ..render.figures.training import timeline_picture

    return timeline_picture(shown, curves)


def _view(shown: "Timeline") -> "PageView":
    from ..render.page.timeline_view import timeline_view

    return timeline_view(shown)


def _loss(shown: "Timeline") -> "Picture":
    from ..render.figures.training import loss_picture

    return loss_picture(shown)
