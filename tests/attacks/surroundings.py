"""What a command that runs in this process is put into: streams, a folder, a clock and a limit of memory."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 3 << 30  # bytes


class Hung(BaseException):
    """The time is up. Not an Exception, which a command may catch."""


class Stream(io.StringIO):
    """A stream in memory with a descriptor, as the program's own have."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def peak() -> int:
    """MiB that this process has held at most, 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used >> (20 if sys.platform == "darwin" else 10)


@contextmanager
def memory_limited(most: int = MEMORY) -> Iterator[None]:
    """So many bytes of data at most, where the system can say so. Files that are mapped to be read are none:
    a sparse one may be larger than any memory."""
    try:
        import resource
    except ImportError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def descriptors() -> Iterator[Any]:
    """A file in the place of descriptors 1 and 2."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for number, _ in kept:
            os.dup2(file.fileno(), number)
        try:
            yield file
        finally:
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def surroundings(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    here, kept, stdin = Path.cwd(), dict(os.environ), sys.stdin
    for name in ("FORCE_COLOR", "NO_COLOR"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    os.chdir(folder)
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"emma\nava\n"))
    try:
        yield
    finally:
        sys.stdin = stdin
        os.chdir(here)
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise Hung when the time is up, where the system has such a clock."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def up(*_: object) -> None:
        raise Hung(f"not ended after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, if somebody swallows it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
