"""Ctrl-C where nothing has to be kept: the process ends at once, without a word. Loads almost nothing, so
that this holds while everything else loads."""

import os
import signal

EXIT_CODE = 130


def end_at_once(number: int, frame: object) -> None:
    """A handler of signals. An exception would be raised in the middle of whatever runs, and Python would
    print a traceback or "Exception ignored"."""
    os._exit(EXIT_CODE)


def take_over() -> None:
    """End at once by Ctrl-C from now on, where Python would raise KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
