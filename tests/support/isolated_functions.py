"""Functions that tests of `isolated` run in a process, which imports this module: nothing slow here."""

import os
import sys
import time

from microgpt_trace.errors import InputError

CALLS = []


def count():
    """Return the number of calls in this process."""
    CALLS.append(1)
    return len(CALLS)


def wait(value, seconds):
    time.sleep(seconds)
    return value


def endless(*arguments):
    while True:
        pass


def allocate(size):
    return len(bytearray(size))


def print_much(size):
    sys.stdout.write("{" * size)
    sys.stderr.write("panic\n" * (size // 6))
    sys.stderr.flush()
    return "done"


def abort(message):
    os.write(2, message.encode())
    os.abort()


def fail(message):
    raise ValueError(message)


def refuse(message):
    raise InputError(message)


def modules():
    return sorted(sys.modules)
