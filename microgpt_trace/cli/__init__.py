"""The command line: parses options, calls the library and prints results. Printing --help does not load
NumPy."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from .. import __version__
from ..arrays.threads import VARIABLES
from ..errors import InputError, MicrogptError, ReaderGone, RunError
from ..interrupt import EXIT_CODE
from .option_checks import Command, Program
from .option_groups import flat
from .option_rules import counterpart
from .output import note
from .standard_streams import drop_output, prepare, release

UNCOLLECTED = 1_000_000  # new objects before a garbage collection; the default costs 10 ms per start
COMMANDS = (
    "trace", "learn", "diff", "diagnose", "certify", "explain", "attribute", "patch", "survey", "train",
    "timeline", "sample", "inspect", "gradcheck",
)  # fmt: skip


def build(names: Iterable[str]) -> typer.Typer:
    """Return the program with these commands. The module cli.NAME contains the command NAME."""
    app = typer.Typer(
        name="microgpt",
        cls=Program,
        help="Show every number that a transformer computes.",
        epilog='Try: microgpt trace emma · microgpt trace model.gguf "Paris is" · microgpt trace --help',
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module = import_module(f".{name}", __name__)
        epilog = "\n\n".join(["Examples:", *module.EXAMPLES])
        app.command(cls=Command, epilog=epilog)(flat(getattr(module, name)))
    app.callback(invoke_without_command=True)(_root)
    return app


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"microgpt {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line. NumPy uses one thread unless the user set another number in the environment."""
    gc.set_threshold(UNCOLLECTED)
    for name in VARIABLES:  # BLAS reads these variables when NumPy loads; more threads save no time here
        os.environ.setdefault(name, "1")
    prepare()
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    app = build([first] if first in COMMANDS else COMMANDS)  # Typer takes 2 ms per command
    code = exit_code_of(lambda: app(standalone_mode=False, prog_name="microgpt"))
    _prepare_exit()
    sys.exit(code)


def exit_code_of(command: Callable[[], Any]) -> int:
    """Call the command and return its exit code. An error prints at most one line."""
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
        if isinstance(error, FileNotFoundError):  # os.getcwd raises it without the name of a file
            return _fail("the current folder was deleted; change to another folder", InputError.exit_code)
        drop_output()
        return _fail(f"cannot write the output ({error.strerror})", RunError.exit_code)
    except MemoryError as error:
        return _fail(f"not enough memory ({error})", RunError.exit_code)
    except Exception as error:
        return _fail_or_raise(error)
    return code if isinstance(code, int) else 0


def _fail_or_raise(error: Exception) -> int:
    """Print an error of Click, or of Typer's copy of Click, on one line. Raise any other error as a bug."""
    if type(error).__name__ == "Abort":
        return EXIT_CODE
    message = getattr(error, "format_message", None)
    if message is None:
        raise error
    text = " ".join(message().split()).rstrip(".")
    return _fail(counterpart(text) or text, InputError.exit_code)


def _fail(message: str, code: int) -> int:
    note(f"microgpt: {message}")
    return code


def _prepare_exit() -> None:
    """Flush the output and skip the last garbage collection, which would take 30 ms after a trace. Functions
    registered with atexit still run."""
    with suppress(ValueError):  # signal.signal fails outside the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not change the exit code
    release()
    gc.freeze()
