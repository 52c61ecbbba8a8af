"""Run a command in this process and report the promises that it broke. Knows no attack.

The promises hold for any input: exit codes, one line per error, valid JSON, no files changed by an error.
"""

from __future__ import annotations

import gc
import os
import stat
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from support.terminal import BAR, STYLE, controls
from typer.main import get_command

from microgpt_trace.cli import COMMANDS, build, exit_code_of

from .documents import problems_in
from .surroundings import Stream, alarm, descriptors, peak, surroundings

CODES = (0, 1, 2, 130)
LONGEST = 2100  # maximum characters of a line on stderr
GROWTH = 512  # MiB by which an attack on small files may exceed the peak memory before it
NO_RUN = {"-h", "--help", "--version"}

Snapshot = dict[str, tuple[int, ...]]


@dataclass
class Ended:
    """The end of a command."""

    code: int | None = None  # None if an exception escaped
    out: str = ""
    err: str = ""
    direct: str = ""  # text written to the file descriptors and not to sys.stdout or sys.stderr
    trace: str = ""
    seconds: float = 0.0
    changed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@cache
def click_command(name: str | None) -> Any:
    """Return the program as a click command, with one subcommand or with all."""
    return get_command(build(COMMANDS if name is None else [name]))


def snapshot(folder: Path) -> Snapshot:
    """Return the mode of everything below the folder, and the size, time and inode of files."""
    result: Snapshot = {}
    names = [""]  # of folders; every attack takes three snapshots of about 100 files
    for name in names:
        with os.scandir(folder / name) as entries:
            for entry in entries:
                path, status = f"{name}{entry.name}", entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(status.st_mode)
                if is_folder:
                    names.append(f"{path}/")
                rest = () if is_folder else (status.st_size, status.st_mtime_ns, status.st_ino)
                result[path] = (status.st_mode, *rest)
    return result


def run_command(
    words: Sequence[str], folder: Path, *, environment: dict[str, str], seconds: float = 20.0,
    may_need_memory: bool = False,
) -> Ended:  # fmt: skip
    """Run `microgpt` with these words, which `may_need_memory` that the machine does not have."""
    before, memory = snapshot(folder), peak()
    ended = _run(words, folder, environment, seconds)
    after = snapshot(folder)
    ended.changed = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    terminal = "FORCE_COLOR" in environment or bool(NO_RUN & set(words))  # Typer reads it once
    ended.broken = [
        *_check_end(words, ended, seconds, may_need_memory),
        *_check_text(ended, terminal),
        *_check_files(ended),
        *_check_json(words, ended, folder),
    ]
    if peak() - memory > GROWTH and not may_need_memory:
        ended.broken.append(f"it took {peak() - memory:,} MiB more than any attack before it")
    return ended


def _run(words: Sequence[str], folder: Path, environment: dict[str, str], seconds: float) -> Ended:
    out, err, ended, start = Stream(1), Stream(2), Ended(), time.monotonic()
    command = click_command(words[0] if words and words[0] in COMMANDS else None)
    with ExitStack() as stack:
        direct = stack.enter_context(descriptors())
        stack.enter_context(surroundings(folder, environment))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            with alarm(seconds):
                ended.code = exit_code_of(
                    lambda: command(args=list(words), standalone_mode=False, prog_name="microgpt")
                )
        except BaseException as error:  # a panic in Rust is not an Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            ended.trace = "".join(traceback.format_exception(error))
        gc.collect(0)  # finalizers write here, not later
        direct.seek(0)
        ended.direct = direct.read().decode(errors="replace")
    ended.out, ended.err, ended.seconds = out.getvalue(), err.getvalue(), time.monotonic() - start
    return ended


def _check_end(words: Sequence[str], ended: Ended, seconds: float, may_need_memory: bool) -> Iterator[str]:
    if ended.code is None:
        yield f"an exception escapes\n{ended.trace}"
        return
    if ended.code not in CODES:
        yield f"exit code {ended.code}"
    if ended.seconds > seconds:
        yield f"it took {ended.seconds:.1f} s"
    lines = BAR.sub("", ended.err).splitlines()
    if ended.code == 2:
        if len(lines) != 1:
            yield f"{len(lines)} lines on stderr beside exit code 2"
        if ended.out and "sample" not in words:  # it writes each name at once
            yield f"exit code 2, and results: {ended.out[:200]!r}"
    if ended.code == 2 and not (lines and "microgpt: " in lines[-1]):
        yield f"exit code {ended.code} without a reason"
    if ended.code == 1 and not (ended.out or ended.err or ended.changed):
        yield "exit code 1 without a word"
    if "not enough memory" in ended.err and not may_need_memory:
        yield "small files requested more memory than there is"
    if "cannot write the output" in ended.err:
        yield "it blames the output, which is writable"
    if "Traceback" in ended.err:
        yield "a traceback on stderr"


def _check_text(ended: Ended, terminal: bool) -> Iterator[str]:
    for name, text in (("stdout", ended.out), ("stderr", ended.err)):
        shown = BAR.sub("", text) if terminal else text
        bad = controls(shown, terminal)
        if bad:
            yield f"{name} has {sorted(bad)}"
        longest = max(map(len, STYLE.sub("", shown).split("\n")))
        if name == "stderr" and longest > LONGEST:
            yield f"a line of {longest:,} characters on stderr"
    if ended.direct:
        yield f"written past stdout and stderr: {ended.direct[:1000]!r}"


def _check_files(ended: Ended) -> Iterator[str]:
    if ended.code == 2 and ended.changed:
        yield f"exit code 2, and changed files: {ended.changed}"
    left = [name for name in ended.changed if name.endswith((".tmp", ".lock"))]
    if left:
        yield f"left behind: {left}"


@cache
def _options_with_values(command: str) -> set[str]:
    """Return the options of a command whose next word is a value, whatever it looks like."""
    if command not in COMMANDS:
        return set()
    params: Any = get_command(build([command])).commands[command].params
    return {opt for param in params if not getattr(param, "is_flag", False) for opt in param.opts}


def _check_json(words: Sequence[str], ended: Ended, folder: Path) -> Iterator[str]:
    requested = {"--json", "--jsonl", "--schema"} & {
        word for before, word in pairwise(("", *words)) if before not in _options_with_values(words[0])
    }
    if ended.code not in (0, 1) or not requested or NO_RUN & set(words):
        return
    text = "" if ("--html", "-") in pairwise(words) else ended.out  # stdout has the page
    if "--out" in words:
        files = [folder / name for name in ended.changed if (folder / name).is_file()]
        text = text or (files[0].read_text(encoding="utf-8") if len(files) == 1 else "")
    if not text and (ended.code == 1 or "--out" in words):
        return
    in_lines = "--jsonl" in words and "--schema" not in words
    pieces = text.splitlines() if in_lines else [text]
    yield from islice((problem for piece in pieces for problem in problems_in(piece, in_lines)), 1)
