"""Pages and figures on the command line: what --html and --plot name, and that a file can be written, before
anything runs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..errors import InputError
from ..files import check_target, write_atomically
from ..packages import check_installed
from ..text.wording import listed
from .option_checks import command_line
from .output import STDOUT, note
from .output_files import refuse_over_model

if TYPE_CHECKING:
    from ..render.figures.panel import Picture
    from ..render.page.page_view import PageView
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
WITH_PLACE = {"attention": "attention:layer3.head0"}  # what may stand behind a name, by an example
SUFFIXES = (".svg", ".png", ".pdf")


Html = Annotated[
    Path | None,
    typer.Option("--html", help="Write a page that a browser shows, whole in one file.", metavar="FILE"),
]


class Plot(NamedTuple):
    """A figure that was asked for: its name, empty for the command's own, what stands behind it, the file."""

    name: str
    place: str
    path: Path


class Target(NamedTuple):
    """A file to write, the option that names it and the suffixes it may have."""

    option: str
    path: Path
    suffixes: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Drawn:
    """What is drawn beside the result."""

    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            help="Draw the result as .svg, .png or .pdf.",
            metavar="[NAME=]FILE",
        ),
    ] = None
    html: Html = None
    force: Annotated[bool, typer.Option("--force", help="Let --html and --plot overwrite.")] = False

    def check(self, command: str, out: Path | None, reads: Iterable[Path | None] = ()) -> None:
        """Raises InputError for what could not be drawn or written. `out` is written too, and what the
        command `reads` is never."""
        self.check_targets(command, {"--out": out}, reads)
        if self.force and not any(self.targets(command)):
            raise InputError("--force lets --html and --plot overwrite, and neither is given")

    def check_targets(
        self, command: str, others: Mapping[str, Path | None], reads: Iterable[Path | None] = ()
    ) -> None:
        """The same beside `others` that are written, by their options."""
        written = {realpath(path): option for option, path in others.items() if path is not None}
        read = {realpath(path) for path in reads if path is not None}
        for option, path, suffixes in self.targets(command):
            place = realpath(path)
            if path.suffix.lower() not in suffixes:
                raise InputError(
                    f"{option} {path}: expected a file name that ends in {' or '.join(suffixes)}"
                )
            if place in read:
                raise InputError(f"{option} {path}: the command reads it")
            if place in written:
                other = written[place]
                twice = f"{option} names {path} twice"
                raise InputError(twice if other == option else f"{other} and {option} both name {path}")
            written[place] = option
            check_target(path, self.force)
            refuse_over_model(option, path)
        if self.html == STDOUT and others.get("--out") is None:
            raise InputError("--html - and the result both go to stdout: give --out FILE, or --html FILE")
        if self.plot:
            check_installed("matplotlib", "--plot draws with")

    def targets(self, command: str) -> Iterator[Target]:
        """Every file that is written."""
        for plot in self.plots(command):
            yield Target("--plot", plot.path, SUFFIXES)
        if self.html is not None and self.html != STDOUT:
            yield Target("--html", self.html, (".html", ".htm"))

    def plots(self, command: str) -> list[Plot]:
        """What --plot asks for. Raises InputError for a name that is no figure, or another command's."""
        return [plot_of(text, command) for text in self.plot or ()]

    def save(
        self,
        context: typer.Context,
        pictures: Mapping[str, Callable[[], "Picture"]],
        page: Callable[[str], str],
    ) -> None:
        """Draw each figure asked for into its file, and write the page. `pictures` gives the command's by
        their names, `page` the text of the page of a command line."""
        command = str(context.info_name)
        if self.plot:
            own = FIGURES[command][0]
            self.write([(plot.path, pictures[plot.name or own]()) for plot in self.plots(command)])
        if self.html is not None:
            self.put_page(page(command_line(context)))

    def put_page(self, text: str) -> None:
        """Write the page into its file, or to stdout."""
        if self.html == STDOUT:
            sys.stdout.write(text)
        elif self.html is not None:
            write_atomically(self.html, text.encode(), self.force)
            note(f"saved a page to {self.html}")

    def write(self, drawn: Iterable[tuple[Path, "Picture"]]) -> None:
        """Write the files, once all figures are known to be possible."""
        from ..render.figures.saving import save_picture

        for path, picture in drawn:
            save_picture(picture, path, self.force)
            note(f"saved a figure to {path}")


def sections_page(
    title: str,
    sections: Callable[[], Sequence["Section"]],
    command: Callable[[str], str],
    view: Callable[[], "PageView"] | None = None,
) -> Callable[[str], str]:
    """The page of a result's sections. `command` gives what shows more of a name, `view` what the page shows
    beside them."""

    def page(line: str) -> str:
        from ..render.page.page_view import NOTHING
        from ..render.page.section_page import section_page

        return section_page(title, line, sections(), command, NOTHING if view is None else view())

    return page


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
