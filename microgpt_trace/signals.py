"""Handles signals that ask the process to end, so that work can be completed or cleaned up first."""

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
    """Let `handler` handle the signals that ask the process to end, except signals that are ignored (as with
    nohup). If `instead_of` is set, `handler` replaces only the handlers in `instead_of`. Outside the main
    thread `handled` does nothing, because Python sets handlers only in the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _NUMBERS:
            current = signal.getsignal(number)
            if current in instead_of if instead_of else current not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt in the block on a signal that asks the process to end. The yielded list then
    contains the number of the signal."""
    received = list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with handled(stop):
        yield received


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay the signals that ask the process to end until the block has ended."""
    received: dict[int, None] = {}
    try:
        with handled(lambda number, frame: received.setdefault(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


@contextmanager
def tidied(clean: Callable[[], object]) -> Iterator[None]:
    """Call `clean` at the end of the block, or when a signal is about to end the process. If blocks are
    nested, a signal calls only the `clean` of the outermost block."""
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
