"""Foreign code at arm's length: a function of ours called in a process of its own, which may hang, crash
or want all memory without this one.

Knows nothing of templates and tokenizers. `sandbox_process` is the other side: a request is a line of JSON on
its stdin, the answer one on its stdout. A fresh interpreter, as neither fork nor multiprocessing would
do: forking with threads is unsafe, and `spawn` runs the main module of whoever uses this library again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import errors
from ..errors import FileFormatError, RunError
from ..text.json_reading import MANY_VALUES, from_json

MIB = 1 << 20
_HEARD = 4096  # bytes kept of what the process says on stderr
_START = f"import sys; sys.path[:] = sys.argv[1:]; from {__package__}.sandbox_process import serve; serve()"


@dataclass(frozen=True)
class Limits:
    """What one call may take: seconds on the clock (starting the process included), bytes of memory
    (where the system bounds them: Linux), bytes of its answer as JSON."""

    seconds: float
    memory: int
    answer: int = 16 * MIB


class Isolated:
    """The function "module:name" in a process that stays for the next call, and is replaced when one fails.

    Arguments and result are JSON values. Threads take turns. `what` is the foreign part in words, the
    subject of a sentence: "its chat template".
    """

    def __init__(self, function: str, what: str, limits: Limits) -> None:
        self.function, self.what, self.limits = function, what, limits
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Isolated, (self.function, self.what, self.limits)  # a copy has a process of its own

    def __call__(self, origin: Path, *arguments: Any) -> Any:
        """What the function returns.

        Raises what the function refuses with, as the same kind of error; FileFormatError naming the
        origin where it fails otherwise, or takes more than its limits; RunError where no process starts.
        """
        request = {"function": self.function, "arguments": arguments, **vars(self.limits)}
        with self._lock:
            try:
                if self._running is None or not self._running.alive():
                    self._running = _Running()
            except OSError as error:
                raise RunError(f"{origin}: cannot start Python for {self.what} ({error})") from error
            running = self._running
            try:
                answer = running.ask(json.dumps(request).encode(), self.limits)
            except BaseException:  # Ctrl-C: the answer may still come, and must not meet the next question
                running.end()
                raise
            if "value" in answer:
                return answer["value"]
            running.end()
        if "refusal" in answer:
            kind, message = answer["refusal"]
            raise getattr(errors, kind)(f"{origin}: {message}")
        raise FileFormatError(f"{origin}: {self.what} {answer['failure']}")


class _Running:
    """A process that serves. It ends with this object, with ours, or when it is out of time."""

    def __init__(self) -> None:
        command = [sys.executable or "python", "-s", "-S", "-X", "utf8", "-c", _START, *_import_paths()]
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for us, who end it
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        pipe = subprocess.PIPE
        quiet = {**os.environ, "RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=quiet, **apart)
        self._heard = bytearray()
        self._owner = os.getpid()
        listener = threading.Thread(target=_listen, args=(self._process.stderr, self._heard), daemon=True)
        listener.start()
        self.end = weakref.finalize(self, _end, self._process, listener, self._owner)

    def alive(self) -> bool:
        """Whether it can be asked; that of a process we were forked from is not ours to ask."""
        return self._owner == os.getpid() and self.end.alive and self._process.poll() is None

    def ask(self, request: bytes, limits: Limits) -> Mapping[str, Any]:
        """The answer: {"value": ...}, {"refusal": [kind, message]} or {"failure": words}."""
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
            with suppress(OSError):  # it ended before it was asked: its silence is the answer
                process.stdin.write(request + b"\n")
                process.stdin.flush()
            line = process.stdout.readline(limits.answer + 2)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            return {"failure": f"is not done after {limits.seconds:g} seconds"}
        if not line.endswith(b"\n"):
            return {"failure": self._last_words(limits)}
        answer: dict[str, Any] = from_json(line, most=MANY_VALUES)
        return answer

    def _last_words(self, limits: Limits) -> str:
        self.end()
        code, lines = self._process.returncode, self._heard.decode("utf-8", "replace").splitlines()
        said = next((line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))), "")
        if said.startswith("memory allocation of"):  # Rust's last words
            return f"takes more than {limits.memory // MIB:,} MiB of memory"
        if -code == getattr(signal, "SIGALRM", None):
            return f"is not done after {limits.seconds:g} seconds"
        names = {number.value: number.name for number in signal.Signals}
        how = names.get(-code, f"signal {-code}") if code < 0 else f"exit status {code}"
        return f"crashes ({how}{': ' if said else ''}{said[:200]})"


def _import_paths() -> list[str]:
    """Where we import from, this package included, which may have come another way."""
    paths = [path or str(Path.cwd()) for path in sys.path if isinstance(path, str)]
    return [*paths, str(Path(__file__).resolve().parents[2])]


def _listen(stderr: IO[bytes], heard: bytearray) -> None:
    """Read to the end, that nobody waits for room in the pipe; keep the beginning."""
    while said := stderr.read(_HEARD):
        heard += said[: _HEARD - len(heard)]


def _end(process: subprocess.Popen[bytes], listener: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:
        return
    if process.poll() is None:
        process.kill()
    process.wait()
    listener.join()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        with suppress(OSError):  # stdin may hold what nobody took
            pipe.close()
