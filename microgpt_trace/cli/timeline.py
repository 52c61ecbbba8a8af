"""microgpt timeline"""

from pathlib import Path

import typer

from ..errors import InputError
from .common_options import HelpPanel
from .exports import Exports, give
from .option_groups import argument, group, option
from .output import Output, note


@group(HelpPanel.SAVING)
class TimelineOptions(Exports):
    """A log, and the page and the figures of its timeline."""

    log: Path | None = argument("LOG.jsonl", "Log that `microgpt train --log FILE --trace-every N` wrote.")
    plot: list[str] | None = option(
        "Draw a figure in this .svg, .png or .pdf file. NAME is timeline or loss. Example: loss=loss.svg.",
        metavar="[NAME=]FILE", show_default="timeline",
    )  # fmt: skip


def timeline(context: typer.Context, *, output: Output, exports: TimelineOptions) -> None:
    """Show how a model changed during training, and when it learned each letter."""
    output.check()
    if (log := exports.log) is None:
        raise InputError("expected a training log: microgpt timeline LOG.jsonl")
    exports.check("timeline", {"--out": output.target}, [log])
    from ..timeline.reading import read_timeline

    result = read_timeline(log)
    give(context, result, output, exports, str(log), str)
    for text in result.notes:  # printed last, so that a refused command prints only an error
        note(text)


EXAMPLES = (
    "microgpt train --log run.jsonl --trace-every 250",
    "microgpt timeline run.jsonl",
    "microgpt timeline run.jsonl --html run.html",
)
