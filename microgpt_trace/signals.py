"""Signals that ask the process to end, and how what has begun is ended first. Knows no command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .interrupt import end_at_once

_NUMBERS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, n)]


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], object], instead_of: tuple[Any, ...] = ()
) -> Iterator[None]:
    """Give every signal that asks to end to `handler`, but for those that the caller lets be ignored
    (nohup), or with `instead_of` only those that one of these handlers has. Outside the main thread, where no
    handler can be set, nothing changes."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _NUMBERS:
            now = signal.getsignal(number)
            if now in instead_of if instead_of else now not in (signal.SIG_IGN, None):
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
    """Call `clean` in the end, or before a signal ends the process at once (of nested ones the outermost)."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def end(number: int, frame: FrameType | None) -> None:
        clean()
        signal.signal(number, before[number])
        signal.raise_signal(number)

    with handled(end, instead_of=(signal.SIG_DFL, end_at_once)):
        try:
            yield
        finally:
            with uninterrupted():
                clean()
