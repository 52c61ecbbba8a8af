"""Signals that ask the process to end, and how what has begun is ended first. Knows no command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that this platform has


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Give every signal that asks to end to `handler`, but for those that the caller lets be ignored
    (nohup). Outside the main thread, where no handler can be set, nothing changes."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is within ends before a signal that asks to end takes effect."""
    received: dict[int, None] = {}
    try:
        with handled(lambda number, frame: received.setdefault(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)
