"""Signals that ask the process to end, and how what has begun is ended first. Knows no command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .interrupt import end_at_once

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that this platform has


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], object],
    only: Callable[[Any], bool] = lambda now: now not in (signal.SIG_IGN, None),
) -> Iterator[None]:
    """Give every signal that asks to end to `handler`, where `only` holds of its handler now: by default
    where the caller does not let it be ignored (nohup). Outside the main thread, where no handler can be set,
    nothing changes."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _numbers():
            if only(signal.getsignal(number)):
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


@contextmanager
def tidied(clean: Callable[[], object]) -> Iterator[None]:
    """Call `clean` in the end, which is also where a signal ends the process at once."""
    with handled(_CleanEnd(clean), only=_ends_at_once):
        try:
            yield
        finally:
            with uninterrupted():
                clean()


class _CleanEnd:
    """A handler of signals that cleans up and leaves the rest to the handlers before."""

    def __init__(self, clean: Callable[[], object]) -> None:
        self.clean = clean
        self.before = {number: signal.getsignal(number) for number in _numbers()}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.clean()
        signal.signal(number, self.before[number])
        signal.raise_signal(number)


def _ends_at_once(handler: Any) -> bool:
    return handler in (signal.SIG_DFL, end_at_once) or isinstance(handler, _CleanEnd)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
