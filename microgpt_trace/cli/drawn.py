"""Pages and figures on the command line: what --html and --plot name, and that a file can be written, before
anything runs."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ..errors import InputError, check_installed
from ..files import write_atomically
from ..render.shown import picture_of, sections_of, view_of
from ..text.wording import listed
from .option_checks import command_line
from .option_groups import flag, group, option
from .output import STDOUT, Output, check_apart, check_file, note

if TYPE_CHECKING:
    from ..render.figures.panel import Picture
    from ..render.sections import Section

# The figures of every command, its own first; trace's own is `stream` where it has no attention to show.
FIGURES = {
    "trace": ("attention", "stream", "lens", "probs", "loss"),
    "explain": ("explanation",),
    "attribute": ("attribution",),
    "patch": ("patch",),
    "diff": ("diff",),
    "diagnose": ("diagnosis",),
    "timeline": ("timeline", "loss"),
}
# What draws the figures that are not a result's own: a module of render.figures, and its function.
DRAWS = {
    "attention": ("attention", "attention_picture"),
    "stream": ("curves", "stream_picture"),
    "lens": ("predictions", "lens_picture"),
    "probs": ("predictions", "probabilities_picture"),
    "loss": ("curves", "loss_picture"),
}
WITH_PLACE = {"attention": "attention:layer3.head0"}  # what may stand behind a name, by an example
SUFFIXES = {"--plot": (".svg", ".png", ".pdf"), "--html": (".html", ".htm")}


class Plot(NamedTuple):
    """A figure that was asked for: its name, empty for the command's own, what stands behind it, the file."""

    name: str
    place: str
    path: Path


@group()
class Drawn:
    """What is drawn beside the result."""

    plot: list[str] | None = option(help="Draw the result as .svg, .png or .pdf.", metavar="[NAME=]FILE")
    html: Path | None = option(help="Write a page that a browser shows, whole in one file.", metavar="FILE")
    force: bool = flag("--force", help="Let --html and --plot overwrite.")

    def check(
        self, command: str, others: Mapping[str, Path | None], reads: Iterable[Path | None] = ()
    ) -> None:
        """Raises InputError for what could not be drawn or written. `others` are files that are written too,
        by their options, and what the command `reads` is never written."""
        targets = [("--plot", plot.path) for plot in self.plots(command)]
        if self.html is not None and self.html != STDOUT:
            targets.append(("--html", self.html))
        for name, path in targets:
            if path.suffix.lower() not in SUFFIXES[name]:
                endings = " or ".join(SUFFIXES[name])
                raise InputError(f"{name} {path}: expected a file name that ends in {endings}")
        check_apart([*others.items(), *targets], reads)
        for name, path in targets:
            check_file(name, path, self.force)
        if self.html == STDOUT and others.get("--out") is None:
            raise InputError("--html - and the result both go to stdout: give --out FILE, or --html FILE")
        if self.plot:
            check_installed("matplotlib", "--plot draws with")

    def plots(self, command: str) -> list[Plot]:
        """What --plot asks for. Raises InputError for a name that is no figure, or another command's."""
        return [plot_of(text, command) for text in self.plot or ()]

    def put_page(self, text: str) -> None:
        """Write the page into its file, or to stdout."""
        if self.html == STDOUT:
            sys.stdout.write(text)
        elif self.html is not None:
            write_atomically(self.html, text.encode(), self.force)
            note(f"saved a page to {self.html}")

    def write(self, drawn: Sequence[tuple[Path, "Picture"]]) -> None:
        """Write the files, once all figures are known to be possible."""
        if not drawn:
            return
        from ..render.figures.saving import save_picture

        for path, picture in drawn:
            save_picture(picture, path, self.force)
            note(f"saved a figure to {path}")


def give(
    context: typer.Context, result: Any, output: Output, drawn: Drawn, title: str,
    again: Callable[[str], str], *, view: Mapping[str, Any] | None = None,
    figure: Mapping[str, Any] | None = None, beside: Mapping[str, Any] | None = None,
    page: Callable[[Sequence["Section"]], str] | None = None,
) -> None:  # fmt: skip
    """Draw each figure asked for, write the page, then show the result or write its document.

    `again` gives the command that shows more of a name. What shows a result takes options: its sections those
    of `view`, the command's own figure those of `figure`, and the view of its page what stands `beside`. A
    `page` of its own stands in the place of what is made of the sections.
    """
    sections = partial(sections_of, result, **(view or {}))
    command = str(context.info_name)
    figures = []
    for name, _, path in drawn.plots(command):
        other = name in DRAWS
        figures.append((path, drawn_by_name(name, result) if other else picture_of(result, **(figure or {}))))
    drawn.write(figures)
    if drawn.html is not None and page is not None:
        drawn.put_page(page(sections()))
    elif drawn.html is not None:
        from ..render.page.section_page import section_page

        shown = view_of(result, **(beside or {}))
        drawn.put_page(section_page(title, command_line(context), sections(), again, shown))
    output.give(result, sections)


def drawn_by_name(figure: str, result: Any, *place: Any) -> "Picture":
    """A figure of DRAWS."""
    module, function = DRAWS[figure]
    return getattr(import_module(f"..render.figures.{module}", __package__), function)(result, *place)


def plot_of(text: str, command: str) -> Plot:
    """NAME=FILE, NAME:PLACE=FILE or a file, which may have an = of its own."""
    before, equals, after = text.partition("=")
    name, colon, place = before.partition(":")
    known = {known for names in FIGURES.values() for known in names}
    if not equals or (name not in known and _is_path(before)):
        name, colon, place, after = "", "", "", text
    elif name not in FIGURES[command]:
        which = f"{command} draws {listed([*FIGURES[command]])}"
        other = f"; other commands {listed(sorted(known - {*FIGURES[command]}))}"
        raise InputError(f"--plot {name}: {which}{other if name not in known else ''}")
    elif colon and name not in WITH_PLACE:
        raise InputError(f"--plot {before}: {name} takes nothing after a colon")
    if after == "":
        raise InputError("--plot: expected a file name, found nothing")
    return Plot(name, place, Path(after))


def _is_path(text: str) -> bool:
    """Whether a text before an = is the beginning of a file's name, which no figure's is like."""
    return any(mark in text for mark in "/\\") or "." in text.partition(":")[0]
