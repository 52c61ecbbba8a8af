"""microgpt timeline"""

from pathlib import Path

import typer

from ..errors import InputError
from .exports import Exports, give
from .option_checks import same_command
from .option_groups import argument, group, option
from .options import HelpPanel
from .output import Output, note


@group(HelpPanel.SHOWN)
class LogChoice:
    """A log, and the events to show."""

    log: Path | None = argument("LOG.jsonl", "Log that `microgpt train --log FILE --trace-every N` wrote.")
    event: list[str] | None = option(
        "Show only these events and parameters: a name, a glob or an apr stage.", metavar="GLOB"
    )


@group(HelpPanel.SAVING)
class TimelineExports(Exports):
    """The page and the figures of a timeline."""

    plot: list[str] | None = option(
        "Draw a figure in this .svg, .png or .pdf file. NAME is timeline or loss. Example: loss=loss.svg.",
        metavar="[NAME=]FILE", show_default="timeline",
    )  # fmt: skip


def timeline(context: typer.Context, *, choice: LogChoice, output: Output, exports: TimelineExports) -> None:
    """Show how a model changed during training, and when it learned each letter."""
    output.check()
    log, event = choice.log, choice.event or []
    if log is None:
        raise InputError("expected a training log: microgpt timeline LOG.jsonl")
    exports.check("timeline", {"--out": output.target}, [log])
    from ..timeline.curves import selected
    from ..timeline.reading import read_timeline

    whole = read_timeline(log)
    shown, curves = selected(whole, event), {"curves": bool(event)}
    give(
        context, shown, output, exports, str(log),
        lambda name: same_command(context, ["--event", name], without=["event"]), view=curves, figure=curves,
    )  # fmt: skip
    for text in whole.notes:  # printed last, so that a refused command prints only an error
        note(text)


EXAMPLES = (
    "microgpt train --log run.jsonl --trace-every 250",
    "microgpt timeline run.jsonl",
    "microgpt timeline run.jsonl --event 'layer0.mlp.*' --event wte",
)
