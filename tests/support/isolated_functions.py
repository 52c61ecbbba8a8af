"""What the tests of `isolated` have a process do. Imports nothing slow: the process imports this module."""

import os
import sys
import time

from microgpt_trace.errors import InputError

CALLS = []


def count():
    """How many calls this process has had."""
    CALLS.append(1)
    return len(CALLS)


def slowly(value, seconds):
    time.sleep(seconds)
    return value


def endless(*given):
    while True:
        pass


def much(size):
    return len(bytearray(size))


def noisy(size):
    sys.stdout.write("{" * size)
    sys.stderr.write("panic\n" * (size // 6))
    sys.stderr.flush()
    return "done"


def abort(said):
    os.write(2, said.encode())
    os.abort()


def fail(message):
    raise ValueError(message)


def refuse(message):
    raise InputError(message)


def loaded():
    return sorted(sys.modules)
