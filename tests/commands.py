"""Commands within the test's own process, with all that they print."""

import io
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from microgpt_trace.cli import build
from microgpt_trace.cli.output import run


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


def microgpt(*arguments):
    """`microgpt` with these words, or those of one command line."""
    words = shlex.split(arguments[0]) if len(arguments) == 1 else [str(word) for word in arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(lambda: build(words[:1])(words, standalone_mode=False, prog_name="microgpt"))
    return Done(code, out.getvalue(), err.getvalue())


def refused(done, *words, code=2):
    """One line on stderr that holds the words, nothing on stdout."""
    print(done.err)
    assert done.code == code
    assert done.out == ""
    assert len(done.lines) == 1
    for word in ("microgpt: ", *words):
        assert word in done.err, word
    return done.err
