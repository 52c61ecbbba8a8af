"""The command line: parses options, calls the library and prints results. Printing --help does not load
NumPy."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from .. import __version__
from ..arrays.threads import VARIABLES
from .option_checks import Command, Program
from .option_groups import flat
from .output import exit_code_of
from .standard_streams import prepare, release

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


def _prepare_exit() -> None:
    """Flush the output and skip the last garbage collection, which would take 30 ms after a trace. Functions
    registered with atexit still run."""
    with suppress(ValueError):  # signal.signal fails outside the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not change the exit code
    release()
    gc.freeze()
