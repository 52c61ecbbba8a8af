"""`microgpt` as the tests run it: in their own process, where a warning is an error and nothing has to
start, or in one of its own, for what needs one."""

import io
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.cli.output import exit_code_of
from microgpt_trace.cli.standard_streams import Notes, Results

ROOT = Path(__file__).parents[2]
WIDTH = 80
PROGRAM = typer.main.get_command(build(COMMANDS))  # what every call would build anew
PARAMS = {name: command.params for name, command in PROGRAM.commands.items()}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


def microgpt(*arguments, cwd=None, width=WIDTH, encoding="utf-8", **environment):
    """The command with these words, or those of one command line. An exception that is no error of the
    request passes."""
    one_line = len(arguments) == 1 and isinstance(arguments[0], str)
    words = shlex.split(arguments[0]) if one_line else [str(word) for word in arguments]
    out, err = (
        kind(io.BytesIO(), encoding, "backslashreplace", write_through=True) for kind in (Results, Notes)
    )
    with ExitStack() as stack:
        surroundings = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {"COLUMNS": str(width), **environment}.items():
            surroundings.setenv(name, value)
        if cwd is not None:
            surroundings.chdir(cwd)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        code = exit_code_of(lambda: PROGRAM(args=words, standalone_mode=False, prog_name="microgpt"))
    return Done(code, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err)))


def environment(**more):
    """What a process of our own needs to find this package."""
    return {**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT), **more}


def process(*arguments, cwd=None, code=None, **more):
    """The same in a process of its own; with `code` it is `python -c CODE` with these words."""
    start = ["-m", "microgpt_trace"] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)], cwd=cwd, env=environment(**more),
        capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def started(*arguments, **how):
    """The running process, whose streams are pipes; Ctrl-C ends it even where a shell's & ignores it."""
    return subprocess.Popen(
        [sys.executable, "-m", "microgpt_trace", *map(str, arguments)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how,
    )  # fmt: skip


def refused(done, *words):
    """One line on stderr that holds the words, nothing on stdout; the line."""
    print(done.err)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert done.err.startswith("microgpt: ")
    for word in words:
        assert word in done.err, word
    return done.err.removeprefix("microgpt: ").rstrip("\n")


def refusal(*arguments, **options):
    """The one line that a wrong request leaves."""
    return refused(microgpt(*arguments, **options))
