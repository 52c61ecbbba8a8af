"""Writes pages and figures. --html and --plot are read and checked before the command computes anything."""

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
from .common_options import HelpPanel
from .option_checks import command_line
from .option_groups import flag, group, option
from .output import STDOUT, Output, check_apart, check_file, note

if TYPE_CHECKING:
    from ..render.figures.panel import Picture
    from ..render.sections import Section

# The figures of each command, the default figure first. The default for a production model is `stream`.
FIGURES = {
    "trace": ("attention", "stream", "lens", "probs", "loss"),
    "explain": ("explanation",),
    "attribute": ("attribution",),
    "patch": ("patch",),
    "diff": ("diff",),
    "diagnose": ("diagnosis",),
    "timeline": ("timeline", "loss"),
    "certify": ("certificate",),
}
# figure -> the module in render.figures and the function that draw the figure
DRAWS = {
    "attention": ("attention_figures", "attention_picture"),
    "stream": ("curve_figures", "stream_picture"),
    "lens": ("prediction_figures", "lens_picture"),
    "probs": ("prediction_figures", "probabilities_picture"),
    "loss": ("curve_figures", "loss_picture"),
}
WITH_PLACE = ("attention",)  # figures that take a place after a colon, as in attention:layer3.head0
SUFFIXES = {"--plot": (".svg", ".png", ".pdf"), "--html": (".html", ".htm")}


class Plot(NamedTuple):
    """A figure to draw. The `name` of the default figure is "". `place` is the text after a colon, or ""."""

    name: str
    place: str
    path: Path


@group(HelpPanel.SAVING)
class Exports:
    """The page and the figures of a result."""

    html: Path | None = option("Write the result as a web page in one file.")
    plot: list[str] | None = option("Draw the result in this .svg, .png or .pdf file.", metavar="[NAME=]FILE")
    force: bool = flag("Overwrite existing files of --html and --plot.")

    def check(
        self, command: str, others: Mapping[str, Path | None], reads: Iterable[Path | None] = ()
    ) -> None:
        """Raise InputError for a figure that cannot be drawn or a file that cannot be written. `others` maps
        other options to their output files. `reads` lists the files that the command reads."""
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
            raise InputError("--html - and the result both go to standard output: add --out FILE")
        if self.plot:
            check_installed("matplotlib", "--plot draws with")

    def plots(self, command: str) -> list[Plot]:
        """Read --plot. Raises InputError for a figure that the command cannot draw."""
        return [plot_of(text, command) for text in self.plot or ()]

    def put_page(self, text: str) -> None:
        """Write the page to its file, or to standard output."""
        if self.html == STDOUT:
            sys.stdout.write(text)
        elif self.html is not None:
            write_atomically(self.html, text.encode(), self.force)
            note(f"saved a page to {self.html}")

    def write(self, pictures: Sequence[tuple[Path, "Picture"]]) -> None:
        """Write the figures. All are drawn already, so a figure that cannot be drawn leaves no file."""
        if not pictures:
            return
        from ..render.figures.saving import save_picture

        for path, picture in pictures:
            save_picture(picture, path, self.force)
            note(f"saved a figure to {path}")


def give(
    context: typer.Context, result: Any, output: Output, exports: Exports, title: str,
    again: Callable[[str], str], *, view: Mapping[str, Any] | None = None,
    figure: Mapping[str, Any] | None = None, beside: Mapping[str, Any] | None = None,
    page: Callable[[Sequence["Section"]], str] | None = None,
) -> None:  # fmt: skip
    """Write the figures and the page, then print the result as text or as JSON.

    `again(name)` returns the command that shows more details of the event `name`. `view`, `figure` and
    `beside` are the keyword arguments of `sections_of`, `picture_of` and `view_of`. `page`, if set, builds
    the page from the sections in place of `section_page`.
    """
    sections = partial(sections_of, result, **(view or {}))
    pictures = []
    for name, _, path in exports.plots(str(context.info_name)):
        picture = draw_by_name(name, result) if name in DRAWS else picture_of(result, **(figure or {}))
        pictures.append((path, picture))
    exports.write(pictures)
    if exports.html is not None and page is not None:
        exports.put_page(page(sections()))
    elif exports.html is not None:
        from ..render.page.section_page import section_page

        page_view = view_of(result, **(beside or {}))
        exports.put_page(section_page(title, command_line(context), sections(), again, page_view))
    output.give(result, sections)


def draw_by_name(figure: str, result: Any, *place: Any) -> "Picture":
    """Draw a figure with the function that DRAWS lists."""
    module, function = DRAWS[figure]
    return getattr(import_module(f"..render.figures.{module}", __package__), function)(result, *place)


def plot_of(text: str, command: str) -> Plot:
    """Read NAME=FILE, NAME:PLACE=FILE or FILE. FILE may contain the character =."""
    before, equals, after = text.partition("=")
    name, colon, place = before.partition(":")
    names = {name for figures in FIGURES.values() for name in figures}
    if not equals or (name not in names and _is_path(before)):
        name, colon, place, after = "", "", "", text
    elif name not in FIGURES[command]:
        own = f"{command} draws {listed([*FIGURES[command]])}"
        others = f"; other commands draw {listed(sorted(names - {*FIGURES[command]}))}"
        raise InputError(f"--plot {name}: {own}{others if name not in names else ''}")
    elif colon and name not in WITH_PLACE:
        raise InputError(f"--plot {before}: {name} takes nothing after a colon")
    if after == "":
        raise InputError("--plot: expected a file name, found nothing")
    return Plot(name, place, Path(after))


def _is_path(text: str) -> bool:
    """Return True if the text before an = is a part of a file name and not the name of a figure."""
    return any(mark in text for mark in "/\\") or "." in text.partition(":")[0]
