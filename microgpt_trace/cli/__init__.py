"""The command line. Typer only: parse, call the library, render. Loads no NumPy before a command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..threads import VARIABLES
from .inspect import gradcheck, inspect, sample
from .output import run
from .trace import trace
from .train import train

app = typer.Typer(
    name="microgpt",
    help="Shows every number a transformer computes.",
    epilog="Try: microgpt trace emma · microgpt train · microgpt trace emma --model microgpt.safetensors",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (trace, train, sample, inspect, gradcheck):
    app.command(epilog=getattr(command, "epilog", None))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"microgpt {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
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
    for name in VARIABLES:  # read by the BLAS when NumPy loads; more threads only wait at this size
        os.environ.setdefault(name, "1")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run(lambda: app(standalone_mode=False, prog_name="microgpt")))
