"""Commands within the test's own process, where a warning is an error and nothing has to start."""

import io
import shlex
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import typer

from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.cli.output import run

APP = build(COMMANDS)
PARAMS = {name: command.params for name, command in typer.main.get_command(APP).commands.items()}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


def microgpt(*arguments):
    """`microgpt` with these words, or those of one command line. An exception that is no error of the
    request passes."""
    words = shlex.split(arguments[0]) if len(arguments) == 1 else [str(word) for word in arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(lambda: APP(words, standalone_mode=False, prog_name="microgpt"))
    return Done(code, out.getvalue(), err.getvalue())


def refused(done, *words):
    """One line on stderr that holds the words, nothing on stdout; the line."""
    print(done.err)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    for word in ("microgpt: ", *words):
        assert word in done.err, word
    return done.err.removeprefix("microgpt: ").rstrip("\n")


def refusal(*arguments):
    """The one line that a wrong request leaves."""
    return refused(microgpt(*arguments))
