"""A command of the command line in this process, where a warning is an error and nothing has to start."""

import contextlib
import io
from typing import NamedTuple

import typer

from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.cli.output import run

APP = build(COMMANDS)
PARAMS = {name: command.params for name, command in typer.main.get_command(APP).commands.items()}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def microgpt(*arguments):
    """The exit code and what the command wrote. An exception that is no error of the request passes."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(lambda: APP([*map(str, arguments)], standalone_mode=False, prog_name="microgpt"))
    return Said(code, out.getvalue(), err.getvalue())


def refused(*arguments):
    """The one line that a refused request leaves."""
    code, out, err = microgpt(*arguments)
    print(err)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("microgpt: ").rstrip("\n")
