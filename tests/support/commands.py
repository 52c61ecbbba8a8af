"""Run `microgpt` in the process of the tests, which is fast and turns warnings into errors, or in its own."""

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

from microgpt_trace.cli import COMMANDS, build, exit_code_of
from microgpt_trace.cli.standard_streams import Notes, Results

ROOT = Path(__file__).parents[2]
WIDTH = 80
PROGRAM = typer.main.get_command(build(COMMANDS))  # built once for all calls
PARAMS = {name: command.params for name, command in PROGRAM.commands.items()}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


def microgpt(*arguments, cwd=None, width=WIDTH, encoding="utf-8", **environment):
    """Run a command, given as one command line or as separate words. Exceptions other than errors of the
    request are not caught."""
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
    """Return environment variables with which another process finds this package."""
    return {**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT), **more}


def process(*arguments, cwd=None, code=None, **more):
    """Run a command in its own process, or `python -c CODE` with these words."""
    start = ["-m", "microgpt_trace"] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)], cwd=cwd, env=environment(**more),
        capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def start_process(*arguments, **how):
    """Start a process with pipes as streams. Ctrl-C ends it, even if a shell's & makes children ignore it."""
    return subprocess.Popen(
        [sys.executable, "-m", "microgpt_trace", *map(str, arguments)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how,
    )  # fmt: skip


def refused(done, *words):
    """Check that a command printed nothing but one line on stderr with the words, and return the line."""
    print(done.err)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert done.err.startswith("microgpt: ")
    for word in words:
        assert word in done.err, word
    return done.err.removeprefix("microgpt: ").rstrip("\n")


def refusal(*arguments, **options):
    """Return the line that a wrong request prints."""
    return refused(microgpt(*arguments, **options))
