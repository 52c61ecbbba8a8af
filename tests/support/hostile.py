"""Open files of any bytes. A reader must return or fail with one line, soon, and with little memory."""

import signal
import time
import tracemalloc
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from microgpt_trace import load
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.readers import apr, gguf_model, huggingface_folder  # noqa: F401 (imported before memory is measured)
from microgpt_trace.text.printable import on_one_line

SLACK = 1 << 20  # bytes
SECONDS = 5  # of CPU time

fuzzing = settings(
    derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@contextmanager
def time_limit(seconds=60):
    """Interrupt code that waits, such as for a pipe, if the system has SIGALRM."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def wake(number, frame):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, wake)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _size(path):
    files = path.parent.rglob("*") if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files)


def open_safely(path, opened=load, memory=1, room=None):
    """Open a file and return its error, or "" if it opens. Check that memory stays below `room` bytes, or
    `memory` times the size of the files."""
    tracemalloc.start()
    began = time.process_time()
    try:
        with time_limit():
            opened(path)
        message = ""
    except (FileFormatError, InputError) as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    print(message)
    assert time.process_time() - began < SECONDS
    name = on_one_line(str(path))
    assert message.isprintable(), message
    assert len(message) < 1000 + len(name), message
    assert not message or name in message or any(file.name in message for file in path.iterdir()), message
    allowed = room or memory * (_size(path) + SLACK)
    assert peak < allowed, f"{peak:,} bytes, {allowed:,} are allowed"
    return message


def rejection(path, opened=load):
    """Return the error of a file that must be refused."""
    with pytest.raises(FileFormatError) as caught:
        opened(path)
    assert str(caught.value).isprintable()
    print(caught.value)
    return str(caught.value)
