"""The command line. Typer only: parse, call the library, render. Loads no NumPy before a command."""

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

UNCOLLECTED = 1_000_000  # objects before Python looks for circles of them, which costs 10 ms of a start
COMMANDS = (
    "trace", "diff", "diagnose", "explain", "attribute", "patch", "survey", "train", "timeline", "sample",
    "inspect", "gradcheck",
)  # fmt: skip


def build(names: Iterable[str]) -> typer.Typer:
    """The program with these commands; each is loaded from the module of its name only now."""
    app = typer.Typer(
        name="microgpt",
        cls=Program,
        help="Shows every number a transformer computes.",
        epilog=(
            'Try: microgpt trace emma · microgpt trace model.gguf "Paris is" · '
            "microgpt diff model.gguf dumps/"
        ),
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module = import_module(f".{name}", __name__)
        app.command(cls=Command, epilog=f"Examples: {module.EXAMPLES}")(flat(getattr(module, name)))
    app.callback(invoke_without_command=True)(_root)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
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
    """Entry point of `microgpt`: one BLAS thread unless the user says otherwise, one line per error."""
    gc.set_threshold(UNCOLLECTED)
    for name in VARIABLES:  # read by the BLAS when NumPy loads; more threads only wait at this size
        os.environ.setdefault(name, "1")
    prepare()
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    app = build([first] if first in COMMANDS else COMMANDS)  # typer takes 2 ms to look at a command
    code = exit_code_of(lambda: app(standalone_mode=False, prog_name="microgpt"))
    _prepare_to_leave()
    sys.exit(code)


def _prepare_to_leave() -> None:
    """What is left is Python's own end and what others have asked to be called there. Of its 40 ms after a
    trace 30 are spent on circles among 50,000 objects that end with the process anyway."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C changes nothing of how this ended
    release()
    gc.freeze()
