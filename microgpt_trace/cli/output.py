"""Where results, notes and errors go: stdout or --out, stderr, and one line with an exit code."""

import sys
from collections.abc import Callable, Iterable, Sequence
from os.path import realpath  # which does not mind a loop of links, as Path.resolve does
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, InputError, MicrogptError, ReaderGone, RunError
from ..files import check_target, write_atomically
from ..interrupt import EXIT_CODE
from ..render.documents.schemas import schema_of_document
from ..text.json_writing import dump, result_json
from ..text.printable import as_message, in_lines
from ..untrusted_files import read_json
from .option_groups import group
from .option_rules import counterpart
from .options import Json, Out, Schema
from .standard_streams import drop_output

if TYPE_CHECKING:
    from ..render.sections import Section

STDOUT = Path("-")
_OF_A_MODEL = ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")


@group()
class Output:
    """A result as a document or on a screen, in a file or on stdout, or what such a document looks like."""

    as_json: Json = False
    schema: Schema = False
    out: Out = None

    @property
    def target(self) -> Path | None:
        """The file to write; None is stdout."""
        return None if self.out == STDOUT else self.out

    def check(self) -> None:
        """Raises InputError where the file is there already, cannot be written, or would stand in a model."""
        check_file("--out", self.target, False, "choose another name")

    def give(self, result: Any, sections: Callable[[], Sequence["Section"]], overwrite: bool = False) -> None:
        """Write the document of a result or show its sections, as was asked for."""
        give_result(result, sections, self.as_json, self.target, overwrite)


def give_result(
    result: Any, sections: Callable[[], Sequence["Section"]], as_json: bool, out: Path | None = None,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write the document of a result, or show its sections."""
    if as_json:
        put([result_json(result)], out, overwrite)
    else:
        show(sections(), out, overwrite)


def show(sections: Sequence["Section"], out: Path | None, overwrite: bool = False) -> None:
    """Print on the terminal; what goes to a pipe or a file gets no trailing blanks."""
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
    """Write lines of text to stdout, or to the file, in UTF-8."""
    if out is not None:
        write_atomically(out, "".join(map(in_lines, pieces)).encode(), overwrite)
        return
    for piece in pieces:
        sys.stdout.write(in_lines(piece))


def check_apart(written: Iterable[tuple[str, Path | None]], reads: Iterable[Path | None] = ()) -> None:
    """Raises InputError where two files that options name are the same one, or one that the command reads."""
    read, found = {realpath(path) for path in reads if path is not None}, dict[str, str]()
    for option, path in written:
        if path is None:
            continue
        place = realpath(path)
        if place in read:
            raise InputError(f"{option} {path}: the command reads it")
        if place in found:
            both = f"{found[place]} and {option} both name {path}"
            raise InputError(f"{option} names {path} twice" if found[place] == option else both)
        found[place] = option


def check_file(
    option: str, path: Path | None, overwrite: bool, hint: str = "--force overwrites it", *,
    is_own: Callable[[Path], bool] | None = None, own: str = "",
) -> None:  # fmt: skip
    """Raises InputError where the file of an option could not be written, is there already and is not to be
    overwritten, or stands in a model; with `is_own` also where it is something else than what the option
    writes, which `own` tells."""
    if path is None:
        return
    check_target(path, overwrite, hint)
    if is_own is None or not (path.exists() and is_own(path)):
        _refuse_over_model(option, path)
        if is_own is not None and path.exists():
            raise InputError(f"{option} {path}: {own}, and this is none")


def _refuse_over_model(option: str, path: Path) -> None:
    """Raises InputError for a target that is a production model, or in the folder of one: not even --force
    writes there."""
    is_model = any(map(_is_model_folder, {path.parent, Path(realpath(path)).parent}))
    if path.is_file():
        with path.open("rb") as file:
            is_model = is_model or file.read(3) in (b"GGU", b"APR")
    if is_model:
        raise InputError(f"{option} {path}: a model is there")


def _is_model_folder(folder: Path) -> bool:
    """Whether a config.json is there that a Hugging Face model has, and not that of some other program."""
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
    """Write the JSON Schema of a kind of document, one of render.documents.schemas.DOCUMENTS. Raises
    InputError where `out` is there already, or cannot be written."""
    target = None if out == STDOUT else out
    check_file("--out", target, False, "choose another name")
    put([dump(schema_of_document(name), indent=2) + "\n"], target)


def note(text: str) -> None:
    """A remark that is no result, on one line."""
    sys.stderr.write(f"{as_message(text)}\n")


def exit_code_of(command: Callable[[], Any]) -> int:
    """Call the command and turn every way it can end into an exit code and at most one line."""
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_CODE
    except SystemExit as end:
        code = end.code
    except ReaderGone:
        drop_output()
        return 0
    except MicrogptError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        if error.filename is not None:
            return _fail(f"{error.filename}: {error.strerror}", InputError.exit_code)
        drop_output()
        return _fail(f"cannot write the output ({error.strerror})", RunError.exit_code)
    except MemoryError as error:
        return _fail(f"not enough memory ({error})", RunError.exit_code)
    except Exception as error:
        return _fail_or_raise(error)
    return code if isinstance(code, int) else 0


def _fail_or_raise(error: Exception) -> int:
    """Click's own errors (Typer carries a copy of them) become one line; any other is a bug of ours."""
    if type(error).__name__ == "Abort":
        return EXIT_CODE
    message = getattr(error, "format_message", None)
    if message is None:
        raise error
    said = " ".join(message().split()).rstrip(".")
    return _fail(counterpart(said) or said, InputError.exit_code)


def _fail(message: str, code: int) -> int:
    note(f"microgpt: {message}")
    return code
