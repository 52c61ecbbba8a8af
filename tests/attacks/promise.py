"""What every command owes whoever calls it, whatever it is given: runs one in this process and says which
promises it broke. Knows no attack."""

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

from support.terminal import BAR, STYLE, obeyed
from typer.main import get_command

from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.cli.output import exit_code_of

from .documents import wrong_in
from .surroundings import Stream, alarm, descriptors, peak, surroundings

CODES = (0, 1, 2, 130)
LONGEST = 2100  # characters of a line on stderr
GROWTH = 512  # MiB that one attack on small files may take beyond the largest before it
NO_RUN = {"-h", "--help", "--version"}

Snapshot = dict[str, tuple[int, ...]]


@dataclass
class Ended:
    """How a command ended."""

    code: int | None = None  # None: it did not end by itself
    out: str = ""
    err: str = ""
    past: str = ""  # what was written to the descriptors and not to sys.stdout or sys.stderr
    trace: str = ""
    seconds: float = 0.0
    changed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@cache
def click_command(name: str | None) -> Any:
    """The program as click has it, with this command or with all."""
    return get_command(build(COMMANDS if name is None else [name]))


def snapshot(folder: Path) -> Snapshot:
    """Everything below the folder: what it is, and of files the size, the time and the inode."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = Path(base, name).lstat()
            is_folder = stat.S_ISDIR(status.st_mode)
            rest = () if is_folder else (status.st_size, status.st_mtime_ns, status.st_ino)
            found[os.path.relpath(os.path.join(base, name), folder)] = (status.st_mode, *rest)  # noqa: PTH118
    return found


def attacked(
    words: Sequence[str], folder: Path, *, environment: dict[str, str], seconds: float = 20.0,
    own_fault: bool = False,
) -> Ended:  # fmt: skip
    """Run `microgpt` with the words. `own_fault`: they may ask for more memory than there is."""
    before, memory = snapshot(folder), peak()
    ended = _run(words, folder, environment, seconds)
    after = snapshot(folder)
    ended.changed = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    terminal = "FORCE_COLOR" in environment or bool(NO_RUN & set(words))  # Typer looks once, when it loads
    ended.broken = [
        *_of_the_end(words, ended, seconds, own_fault),
        *_of_the_text(ended, terminal),
        *_of_the_files(ended),
        *_of_json(words, ended, folder),
    ]
    if peak() - memory > GROWTH and not own_fault:
        ended.broken.append(f"it took {peak() - memory:,} MiB more than any attack before it")
    return ended


def _run(words: Sequence[str], folder: Path, environment: dict[str, str], seconds: float) -> Ended:
    out, err, ended, began = Stream(1), Stream(2), Ended(), time.monotonic()
    command = click_command(words[0] if words and words[0] in COMMANDS else None)
    with ExitStack() as stack:
        past = stack.enter_context(descriptors())
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
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            ended.trace = "".join(traceback.format_exception(error))
        gc.collect(0)  # what a finalizer has to say is said here
        past.seek(0)
        ended.past = past.read().decode(errors="replace")
    ended.out, ended.err, ended.seconds = out.getvalue(), err.getvalue(), time.monotonic() - began
    return ended


def _of_the_end(words: Sequence[str], ended: Ended, seconds: float, own_fault: bool) -> Iterator[str]:
    if ended.code is None:
        yield f"an exception gets out\n{ended.trace}"
        return
    if ended.code not in CODES:
        yield f"exit code {ended.code}"
    if ended.seconds > seconds:
        yield f"it took {ended.seconds:.1f} s"
    lines = BAR.sub("", ended.err).splitlines()
    if ended.code == 2:
        if len(lines) != 1:
            yield f"{len(lines)} lines on stderr beside exit code 2"
        if ended.out and "sample" not in words:  # whose names are drawn and written one by one
            yield f"exit code 2, and results: {ended.out[:200]!r}"
    if ended.code == 2 and not (lines and "microgpt: " in lines[-1]):
        yield f"exit code {ended.code} without a reason"
    if ended.code == 1 and not (ended.out or ended.err or ended.changed):
        yield "exit code 1 without a word"
    if "not enough memory" in ended.err and not own_fault:
        yield "small files asked for more memory than there is"
    if "cannot write the output" in ended.err:
        yield "it blames the output, which can be written"
    if "Traceback" in ended.err:
        yield "a traceback on stderr"


def _of_the_text(ended: Ended, terminal: bool) -> Iterator[str]:
    for name, text in (("stdout", ended.out), ("stderr", ended.err)):
        shown = BAR.sub("", text) if terminal else text
        bad = obeyed(shown, terminal)
        if bad:
            yield f"{name} has {sorted(bad)}"
        longest = max(map(len, STYLE.sub("", shown).split("\n")))
        if name == "stderr" and longest > LONGEST:
            yield f"a line of {longest:,} characters on stderr"
    if ended.past:
        yield f"written past stdout and stderr: {ended.past[:1000]!r}"


def _of_the_files(ended: Ended) -> Iterator[str]:
    if ended.code == 2 and ended.changed:
        yield f"exit code 2, and changed files: {ended.changed}"
    left = [name for name in ended.changed if name.endswith((".tmp", ".lock"))]
    if left:
        yield f"left behind: {left}"


def _takes_a_value(word: str, command: str) -> bool:
    """Whether the word after this one is its value, whatever it looks like."""
    return command in COMMANDS and word in _with_values(command)


@cache
def _with_values(command: str) -> set[str]:
    params: Any = get_command(build([command])).commands[command].params
    return {opt for param in params if not getattr(param, "is_flag", False) for opt in param.opts}


def _of_json(words: Sequence[str], ended: Ended, folder: Path) -> Iterator[str]:
    asked = {"--json", "--jsonl", "--schema"} & {
        word for before, word in pairwise(("", *words)) if not _takes_a_value(before, words[0])
    }
    if ended.code not in (0, 1) or not asked or NO_RUN & set(words):
        return
    text = "" if ("--html", "-") in pairwise(words) else ended.out  # where a page goes
    if "--out" in words:
        files = [folder / name for name in ended.changed if (folder / name).is_file()]
        text = text or (files[0].read_text(encoding="utf-8") if len(files) == 1 else "")
    if not text and (ended.code == 1 or "--out" in words):
        return
    in_lines = "--jsonl" in words and "--schema" not in words
    pieces = text.splitlines() if in_lines else [text]
    yield from islice((said for piece in pieces for said in wrong_in(piece, in_lines)), 1)
