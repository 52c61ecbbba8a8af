"""Call a function in a separate process, where foreign code may hang, crash or use up memory.

The process runs `sandbox_process`, which reads a request as a line of JSON on stdin and writes the answer as
a line on stdout. This process is a new Python interpreter, because forking a process with threads is unsafe,
and multiprocessing's `spawn` runs the user's main module again.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import IO, Any

from .. import errors
from ..errors import FileFormatError, RunError
from ..text.frozen import frozen
from ..text.json_reading import MANY_VALUES, from_json

MIB = 1 << 20
_STDERR = 4096  # number of bytes of stderr to keep
_START = f"import sys; sys.path[:] = sys.argv[1:]; from {__package__}.sandbox_process import serve; serve()"
_limit = ContextVar("limit", default=(math.inf, math.inf))  # the end of `within`, and its number of seconds


@frozen(slots=False)
class Limits:
    """The limits of one call. `seconds` includes the start of the process, `memory` is in bytes and enforced
    only on Linux, and `answer` is the number of bytes of the answer as JSON."""

    seconds: float
    memory: int
    answer: int = 16 * MIB


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all tokenizers and chat templates in a `with` statement take at most `seconds` together."""
    token = _limit.set(min(_limit.get(), (monotonic() + seconds, seconds)))
    try:
        yield
    finally:
        _limit.reset(token)


def seconds_left() -> float:
    """Return how many seconds of `within` are left. Raises RunError if none are left."""
    end, seconds = _limit.get()
    if (left := end - monotonic()) > 0:
        return left
    raise RunError(f"All tokenizers and chat templates together do not finish within {seconds:,.0f} seconds")


class Isolated:
    """Calls the function "module:name" in a separate process. The process serves calls until a call fails.
    Arguments and results are JSON values. Only one thread calls at a time. `subject` names the foreign code
    in errors, such as "its chat template"."""

    def __init__(self, function: str, subject: str, limits: Limits) -> None:
        self.function, self.subject, self.limits = function, subject, limits
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Isolated, (self.function, self.subject, self.limits)  # a copy starts its own process

    def __call__(self, origin: Path, *arguments: Any) -> Any:
        """Call the function and return its result. Errors begin with `origin`. If the function raises a
        MicrogptError, the call raises an error of the same class. Raises FileFormatError if the function
        fails in any other way or exceeds its limits, and RunError if no process starts or `within` ends."""
        limits = replace(self.limits, seconds=min(self.limits.seconds, seconds_left()))
        request = {"function": self.function, "arguments": arguments, **vars(limits)}
        with self._lock:
            try:
                if self._running is None or not self._running.alive():
                    self._running = _Running()
            except OSError as error:
                raise RunError(f"{origin}: cannot start Python for {self.subject} ({error})") from error
            running = self._running
            try:
                answer = running.ask(json.dumps(request).encode(), limits)
            except BaseException:  # after Ctrl-C, the next request must not read a late answer
                running.end()
                raise
            if "value" in answer:
                return answer["value"]
            running.end()
        if "refusal" in answer:
            kind, message = answer["refusal"]
            raise getattr(errors, kind)(f"{origin}: {message}")
        seconds_left()  # raises if this call used them up
        raise FileFormatError(f"{origin}: {self.subject} {answer['failure']}")


class _Running:
    """A process that serves calls. The process ends when this object or the parent process ends, or when the
    time limit is reached."""

    def __init__(self) -> None:
        command = [sys.executable or "python", "-s", "-S", "-X", "utf8", "-c", _START, *_import_paths()]
        session: dict[str, Any] = {"start_new_session": True}  # so that Ctrl-C does not reach the process
        if sys.platform == "win32":
            session = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        pipe = subprocess.PIPE
        quiet = {**os.environ, "RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=quiet, **session)
        self._stderr = bytearray()
        self._owner = os.getpid()
        listener = threading.Thread(target=_listen, args=(self._process.stderr, self._stderr), daemon=True)
        listener.start()
        self.end = weakref.finalize(self, _end, self._process, listener, self._owner)

    def alive(self) -> bool:
        """Return True if the process is running and was started by this process, not before a fork."""
        return self._owner == os.getpid() and self.end.alive and self._process.poll() is None

    def ask(self, request: bytes, limits: Limits) -> Mapping[str, Any]:
        """Send a request and return {"value": ...}, {"refusal": [class, message]} or {"failure": reason}."""
        process, late = self._process, threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limits.seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            with suppress(OSError):  # the process has ended; `readline` detects the end
                process.stdin.write(request + b"\n")
                process.stdin.flush()
            line = process.stdout.readline(limits.answer + 2)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            return {"failure": _too_late(limits)}
        if not line.endswith(b"\n"):
            return {"failure": self._cause_of_death(limits)}
        answer: dict[str, Any] = from_json(line, most=MANY_VALUES)
        return answer

    def _cause_of_death(self, limits: Limits) -> str:
        self.end()
        code, lines = self._process.returncode, self._stderr.decode("utf-8", "replace").splitlines()
        line = next((line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))), "")
        if line.startswith("memory allocation of"):  # how Rust reports that memory ran out
            return f"takes more than {limits.memory // MIB:,} MiB of memory"
        if -code == getattr(signal, "SIGALRM", None):
            return _too_late(limits)
        names = {number.value: number.name for number in signal.Signals}
        status = names.get(-code, f"signal {-code}") if code < 0 else f"exit status {code}"
        return f"crashes ({status}{': ' if line else ''}{line[:200]})"


def _too_late(limits: Limits) -> str:
    return f"does not finish within {limits.seconds:g} seconds"


def _import_paths() -> list[str]:
    """Return the import paths of this process, and the folder of this package in case the paths lack it."""
    paths = [path or str(Path.cwd()) for path in sys.path if isinstance(path, str)]
    return [*paths, str(Path(__file__).resolve().parents[2])]


def _listen(stderr: IO[bytes], start: bytearray) -> None:
    """Read stderr to its end, so that its writer never blocks. Keep only the beginning in `start`."""
    while text := stderr.read(_STDERR):
        start += text[: _STDERR - len(start)]


def _end(process: subprocess.Popen[bytes], listener: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:
        return
    if process.poll() is None:
        process.kill()
    process.wait()
    listener.join()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        with suppress(OSError):  # an OSError means that the process did not read all of stdin
            pipe.close()
