"""The program that `sandbox` starts. For each line on stdin, the program calls a function within limits. To
start fast, this program imports only what the function needs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from ..errors import MicrogptError
from ..text.json_reading import from_json

_LINE = 300  # largest number of characters of a foreign message


def one_line(error: BaseException) -> str:
    """Return the message of a foreign error on one short line, without memory addresses."""
    line = " ".join(str(error)[: 2 * _LINE].split()) or type(error).__name__
    line = re.sub(r" at 0x[0-9A-Fa-f]+", "", line)
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."


def serve() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # foreign code prints to stderr, not among the answers
    for line in sys.stdin.buffer:
        request = from_json(line)
        _limit(request["seconds"], request["memory"])
        answers.write(_answer(request) + b"\n")
        answers.flush()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # stop the clock
    os._exit(0)  # ends without running destructors of foreign code


def _answer(request: dict[str, Any]) -> bytes:
    try:
        module, name = request["function"].split(":")
        answer = {"value": getattr(import_module(module), name)(*request["arguments"])}
        line = json.dumps(answer).encode()
        if len(line) <= request["answer"]:
            return line
        failure = f"returns more than {request['answer'] >> 20:,} MiB"
    except MemoryError:
        failure = f"takes more than {request['memory'] >> 20:,} MiB of memory"
    except MicrogptError as error:
        return json.dumps({"refusal": [type(error).__name__, str(error)]}).encode()
    except BaseException as error:  # a panic of Rust code is not an Exception
        failure = f"fails: {one_line(error)}"
    return json.dumps({"failure": failure}).encode()


def _limit(seconds: float, memory: int) -> None:
    """Limit the time and memory of this process as far as the system supports limits. The timer works even if
    the caller has died."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        soft, hard = resource.getrlimit(kind)
        bounds = [bound for bound in (most, soft, hard) if bound != resource.RLIM_INFINITY]
        with suppress(ValueError, OSError):  # macOS refuses to limit the address space
            resource.setrlimit(kind, (min(bounds), hard))
