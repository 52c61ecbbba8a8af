"""Writes results to stdout or --out, and notes to stderr."""

import sys
from collections.abc import Callable, Iterable, Sequence
from os.path import realpath  # unlike Path.resolve, realpath accepts a loop of links
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import FileFormatError, InputError
from ..files import check_target, write_atomically
from ..render.documents.schemas import schema_of_document
from ..text.json_writing import dump, result_json
from ..text.printable import as_message, in_lines
from ..untrusted_files import read_json
from .common_options import HelpPanel
from .option_groups import flag, group, option

if TYPE_CHECKING:
    from ..render.sections import Section

STDOUT = Path("-")
_OF_A_MODEL = ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")


@group(HelpPanel.SAVING)
class Output:
    """The form of a result, and the file to write the result to."""

    as_json: bool = flag("Print one JSON document.", "--json")
    out: Path | None = option("File to write the result to. - means standard output.")
    schema: bool = flag("Print the JSON Schema of the JSON document and run nothing.")

    @property
    def target(self) -> Path | None:
        """The file to write, or None for standard output."""
        return None if self.out == STDOUT else self.out

    def check(self) -> None:
        """Raise InputError if the file exists, cannot be written, or is in the folder of a model."""
        check_file("--out", self.target, False, "choose another name")

    def give(self, result: Any, sections: Callable[[], Sequence["Section"]], overwrite: bool = False) -> None:
        """Write the result as a JSON document, or show its sections."""
        if self.as_json:
            put([result_json(result)], self.target, overwrite)
        else:
            show(sections(), self.target, overwrite)


def show(sections: Sequence["Section"], out: Path | None, overwrite: bool = False) -> None:
    """Print the sections. On a pipe or in a file, the lines have no trailing spaces."""
    from ..render.terminal.printing import print_sections
    from ..render.terminal.screen import Screen, text_screen

    screen = Screen() if out is None else text_screen()
    if screen.is_terminal:
        print_sections(sections, screen)
        return
    with screen.capture() as captured:
        print_sections(sections, screen)
    put((f"{line.rstrip()}\n" for line in captured.get().splitlines()), out, overwrite)


def put(pieces: Iterable[str], out: Path | None, overwrite: bool = False) -> None:
    """Write lines of text to standard output, or to the file as UTF-8."""
    if out is not None:
        write_atomically(out, "".join(map(in_lines, pieces)).encode(), overwrite)
        return
    for piece in pieces:
        sys.stdout.write(in_lines(piece))


def check_apart(written: Iterable[tuple[str, Path | None]], reads: Iterable[Path | None] = ()) -> None:
    """Raise InputError if two options name one file, or an option names a file that the command reads."""
    small = Path("small")  # the model of the package, not a file
    read, names = {realpath(path) for path in reads if path not in (None, small)}, dict[str, str]()
    for name, path in written:
        if path is None:
            continue
        place = realpath(path)
        if place in read:
            raise InputError(f"{name} {path}: this command reads the file; choose another name")
        if place in names:
            both = f"{names[place]} and {name} both name {path}"
            raise InputError(f"{name} names {path} twice" if names[place] == name else both)
        names[place] = name


def check_file(
    option: str, path: Path | None, overwrite: bool, hint: str = "--force overwrites the file", *,
    is_own: Callable[[Path], bool] | None = None, own: str = "",
) -> None:  # fmt: skip
    """Raise InputError if the file of an option cannot be written, is in the folder of a model, or exists and
    `overwrite` is not set. If `is_own` is set, only a file of the kind `own` can be overwritten.
    """
    if path is None:
        return
    check_target(path, overwrite, hint)
    if is_own is None or not (path.exists() and is_own(path)):
        _refuse_over_model(option, path)
        if is_own is not None and path.exists():
            raise InputError(f"{option} {path}: expected {own}, which may be overwritten; found another file")


def _refuse_over_model(option: str, path: Path) -> None:
    """Raise InputError if the target is a production model or in its folder, even with --force."""
    is_model = any(map(_is_model_folder, {path.parent, Path(realpath(path)).parent}))
    if path.is_file():
        with path.open("rb") as file:
            is_model = is_model or file.read(3) in (b"GGU", b"APR")
    if is_model:
        raise InputError(f"{option} {path}: this would write into a model; choose another place")


def _is_model_folder(folder: Path) -> bool:
    """Return True if the folder has a config.json that seems to belong to a Hugging Face model."""
    if not (folder / "config.json").is_file():
        return False
    if any((folder / name).exists() for name in _OF_A_MODEL):
        return True
    try:
        config = read_json(folder / "config.json")
    except FileFormatError:
        return True
    return "model_type" in config or "architectures" in config


def put_schema(name: str, out: Path | None) -> None:
    """Write the JSON Schema of a document that render.documents.schemas.DOCUMENTS lists. Raises InputError if
    `out` exists or cannot be written."""
    target = None if out == STDOUT else out
    check_file("--out", target, False, "choose another name")
    put([dump(schema_of_document(name), indent=2) + "\n"], target)


def exit_unless(holds: bool) -> None:
    """End the command with exit code 1 unless its result holds."""
    if not holds:
        raise typer.Exit(1)


def note(text: str) -> None:
    """Write a note to stderr, on one line."""
    sys.stderr.write(f"{as_message(text)}\n")
