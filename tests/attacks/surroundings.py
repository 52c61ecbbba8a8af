"""The surroundings of a command in this process: streams, a folder, a time limit and a memory limit."""

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

MEMORY = 3 << 30  # bytes that a command may add to the data of this process


class Hung(BaseException):
    """The time is over. This is not an Exception, because a command may catch those."""


class Stream(io.StringIO):
    """A stream in memory with a file descriptor, like sys.stdout."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def peak() -> int:
    """Return the peak memory of this process in MiB, or 0 if the system does not measure it."""
    try:
        import resource
    except ImportError:
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used >> (20 if sys.platform == "darwin" else 10)


@contextmanager
def memory_limited(most: int = MEMORY) -> Iterator[None]:
    """Limit what is added to the data of this process, if the system can. Earlier tests may have filled
    gigabytes, and a thread that finds no memory to start waits forever. Mapped files do not count: a sparse
    file may be larger than the memory."""
    try:
        import resource
    except ImportError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data() -> int:
    """Return the size of this process's data in bytes, or 0 if the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def descriptors() -> Iterator[Any]:
    """Redirect file descriptors 1 and 2 to a file."""
    copies = [(number, os.dup(number)) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for number, _ in copies:
            os.dup2(file.fileno(), number)
        try:
            yield file
        finally:
            for number, copy in copies:
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def surroundings(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Change the folder, the environment and standard input, and restore them at the end."""
    here, variables, stdin = Path.cwd(), dict(os.environ), sys.stdin
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
        os.environ.update(variables)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise Hung when the time is over, if the system has such a timer."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise Hung(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, in case the exception is swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
