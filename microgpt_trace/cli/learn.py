"""microgpt learn"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from ..errors import InputError
from ..files import check_target, write_atomically, write_into
from ..render.shown import sections_of
from ..text.brief import brief
from ..text.printable import command
from ..text.wording import counted
from ..tracing.trace import trace
from .browser import open_page, temporary_page
from .common_options import HelpPanel, WeightSettings
from .named_model import microgpt_from
from .option_checks import command_line
from .option_groups import argument, flag, group, option
from .output import check_apart, check_file, note
from .progress_line import progress

if TYPE_CHECKING:
    from ..microgpt.model import Model
    from ..tracing.result import Trace


SHEETS = ("index", "worksheet", "teacher/answers")  # the files of a class besides the pages of names
# Names that every file system can store as the name of a page. Windows reserves the names from con to lpt.
PLAIN = re.compile(r"(?!(index|worksheet|con|prn|aux|nul|(com|lpt)[0-9¹²³])$)[^\W_]{1,40}")
MOST = 200  # largest number of names without --limit: a page takes about 200 kB


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
    limit: int | None = option(
        "Read only the first N names of --class.", min=1, show_default=f"all, if there are at most {MOST}"
    )


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
        _write_class(model, lesson, files)
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
    "microgpt learn --class class.txt --out lesson",
)


def _page(model: "Model", path: Path, run: "Trace", line: str) -> str:
    """Return the page of a run, which opens at the first step of the tour."""
    from ..render.page.trace_page import trace_page

    again = {"before": [str(path)], "text": run.input.text, "after": []}
    return trace_page(run, model, sections_of(run, overview=True), line, again, start="&tour=1")


def _write_class(model: "Model", lesson: Lesson, files: LessonFiles) -> None:
    """Write a page for each name that the model can read, and the sheets of the class, or write nothing."""
    from ..render.page.worksheet import Pupil, index_page, questions_of, worksheet_page

    folder, file, pupils = cast(Path, files.out), cast(Path, lesson.class_), list[Pupil]()
    names, notes = _readable(model, file, lesson.limit)
    plain = {name for _, _, name in names if name.islower() and PLAIN.fullmatch(name)}  # case may be ignored
    pages = {name: f"{name if name in plain else f'name-{number}'}.html" for number, _, name in names[::-1]}
    targets = [folder / name for name in (*(f"{sheet}.html" for sheet in SHEETS), *pages.values())]
    check_apart([("--out", target) for target in targets], [file, lesson.model])
    for target in filter(os.path.lexists, targets):
        check_target(target, files.force)
    with write_into(folder, files.force) as temporary, progress("page") as report:
        questions = dict[str, tuple[tuple[str, str], ...]]()
        for number, written, name in names:
            if name not in questions:
                report(len(questions), len(pages))
                run = trace(model, name, values=True, step=True)
                line = command("learn", [name], ["--model", str(lesson.model)])
                (temporary / pages[name]).write_bytes(_page(model, lesson.model, run, line).encode())
                questions[name] = tuple(questions_of(run, model))
            pupils.append(Pupil(number, written, name, pages[name], questions[name]))
        (temporary / "teacher").mkdir()
        texts = index_page(pupils), worksheet_page(pupils), worksheet_page(pupils, answers=True)
        for sheet, text in zip(SHEETS, texts, strict=True):
            (temporary / f"{sheet}.html").write_bytes(text.encode())
    saved = f"saved {counted(len(pages), 'page')}, a worksheet and an index to {folder}"
    for text in (*notes, f"{saved}, and the answers to {folder / SHEETS[-1]}.html"):
        note(text)


def _readable(model: "Model", path: Path, limit: int | None) -> tuple[list[tuple[int, str, str]], list[str]]:
    """Return the names that the model can read, and notes about other names. A name is the number of its
    line, the name as written, and the nearest name that the model can read. Raises InputError if there are
    too many names, or no such name."""
    from ..microgpt.documents import read_lines

    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    if limit is None and len(lines) > MOST:
        raise InputError(f"{path}: found {len(lines):,} names; for more than {MOST} pages, add --limit N")
    names, notes, most = [], list[str](), model.config.block_size - 1
    for number, written in lines[:limit]:
        name = model.tokenizer.nearest(written)
        if not name or len(name) > most:
            reason = f"{len(name):,} letters, at most {most} fit" if name else "no letter of the model"
            notes.append(f"{path}:{number}: left out {brief(written)}: {reason}")
            continue
        if name.lower() != written.lower():
            notes.append(f"{path}:{number}: {brief(written)} is read as {brief(name)}")
        names.append((number, written, name))
    if not names:
        raise InputError(f"{path}: expected a name that the model can read, found none ({notes[0]})")
    return names, notes
