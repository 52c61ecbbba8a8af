"""microgpt learn"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import InputError
from ..files import check_target, write_atomically
from ..render.shown import sections_of
from ..text.printable import command, on_one_line
from ..text.wording import counted
from ..tracing.trace import trace
from .browser import open_page, temporary_page
from .named_model import microgpt_from
from .option_checks import command_line
from .option_groups import argument, flag, group, option
from .options import HelpPanel, WeightSettings
from .output import check_apart, check_file, note

if TYPE_CHECKING:
    from ..microgpt.model import Model
    from ..tracing.result import Trace


SHEETS = ("index", "worksheet", "answers")  # the files of a class besides the pages of names


@group(HelpPanel.INPUT)
class Lesson:
    """The model and the names of a lesson."""

    name: str | None = argument("[NAME]", "Name that the model reads.", show_default="emma")
    model: Path = option(
        "Checkpoint of a microGPT, or small: the trained microGPT of this package.", metavar="PATH",
        default=Path("small"),
    )  # fmt: skip
    class_: Path | None = option(
        "Make a page for each name in this file, which has one name per line, and a worksheet, its answers "
        "and an index.", "--class",
    )  # fmt: skip


@group(HelpPanel.SAVING)
class LessonFiles:
    """The files of a lesson."""

    out: Path | None = option("Write the page to this file, or the files of --class to this folder.")
    force: bool = flag("Overwrite existing files.")


def learn(context: typer.Context, *, lesson: Lesson, files: LessonFiles, bare: WeightSettings) -> None:
    """Open a page in the browser that explains how a small GPT reads a name.

    The page begins with a tour. It needs no network.
    """
    if lesson.class_ is not None and lesson.name is not None:
        raise InputError(f"--class reads the names from a file, and {lesson.name!r} is one more name")
    if lesson.class_ is not None and files.out is None:
        raise InputError("--class needs --out DIR, a folder for the pages")
    check_apart([("--out", files.out)], [lesson.model, lesson.class_])
    if lesson.class_ is None:
        check_file("--out", files.out, files.force)
    model = microgpt_from(lesson.model, None, bare)
    if lesson.class_ is not None:
        _write_class(model, lesson.model, lesson.class_, files)
        return
    run = trace(model, lesson.name, values=True, step=True)
    path = files.out or temporary_page("lesson")
    write_atomically(path, _page(model, lesson.model, run, command_line(context)).encode(), files.force)
    if files.out is None:
        open_page(path)
    else:
        note(f"saved a page to {path}")


EXAMPLES = (
    "microgpt learn",
    "microgpt learn olivia --model microgpt.safetensors",
    "microgpt learn --class names.txt --out lesson",
)


def _page(model: "Model", path: Path, run: "Trace", line: str) -> str:
    """Return the page of a run, which opens at the first step of the tour."""
    from ..render.page.trace_page import trace_page

    again = {"before": [str(path)], "text": run.input.text, "after": []}
    return trace_page(run, model, sections_of(run, overview=True), line, again, start="&tour=1")


def _write_class(model: "Model", path: Path, names: Path, files: LessonFiles) -> None:
    """Write a page for each name that the model can read, a worksheet, its answers and an index."""
    from ..render.page.worksheet import Pupil, index_page, worksheet_page

    assert files.out is not None
    folder, pupils, places = files.out, list[Pupil](), dict[str, Path]()
    for number, written, name in _readable(model, names):
        run = trace(model, name, values=True, step=True)
        # A file system may ignore case. No other name has the "-" of the numbered names.
        is_plain = name.isalnum() and name.islower() and name not in SHEETS
        place = places.setdefault(name, folder / f"{name if is_plain else f'name-{number}'}.html")
        pupils.append(Pupil(number, written, name, place, run))
    if not pupils:
        raise InputError(f"{names}: expected at least one name that the model can read, found none")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot make the folder ({error.strerror})") from error
    sheets = [folder / f"{title}.html" for title in SHEETS]
    check_apart([("--out", target) for target in (*sheets, *places.values())], [names, path])
    for target in (*sheets, *places.values()):
        check_target(target, files.force)
    for pupil in {pupil.name: pupil for pupil in pupils}.values():
        line = command("learn", [pupil.name], ["--model", str(path)])
        write_atomically(pupil.page, _page(model, path, pupil.run, line).encode(), files.force)
    texts = index_page(pupils), worksheet_page(pupils, model), worksheet_page(pupils, model, answers=True)
    for target, text in zip(sheets, texts, strict=True):
        write_atomically(target, text.encode(), files.force)
    note(f"saved {counted(len(places), 'page')}, a worksheet, its answers and an index to {folder}")


def _readable(model: "Model", path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each line, the name on it, and the nearest name that the model can read. A name
    that is too long, or that has no letter of the model, is reported with its line."""
    from ..microgpt.documents import read_lines

    most = model.config.block_size - 1
    for number, line in enumerate(read_lines(path), 1):
        written = line.strip()
        name = model.tokenizer.nearest(written)
        if not written:
            continue
        if not name or len(name) > most:
            reason = f"{len(name)} letters, at most {most} fit" if name else "no letter that the model knows"
            note(f"{path}:{number}: left out {on_one_line(written)!r}: {reason}")
            continue
        if name.lower() != written.lower():
            note(f"{path}:{number}: {on_one_line(written)} is read as {name}")
        yield number, written, name
