"""A pass of a model as an iterator over its events, so that two passes can advance side by side.

The pass runs in a separate thread, at most AHEAD values ahead of the reader. So the memory for values does
not grow with the depth of the model, and two passes can use two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from queue import Empty, Queue
from threading import Event, Thread
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..hooks.bus import HookBus
from ..models.language_model import LanguageModel, TapOf, TraceInput

AHEAD = 2  # the number of values that a pass computes ahead of the reader


class Piece(NamedTuple):
    """The value of an event, or one part of a value, with the positions of the rows."""

    name: str
    value: Array  # [n, W], [H, n, S] or []
    positions: Sequence[int]  # the positions of the n rows

    def at(self, positions: Sequence[int]) -> Array:
        if tuple(positions) == tuple(self.positions):
            return self.value
        rows = [self.positions.index(position) for position in positions]
        return self.value.take(rows, axis=-2)


Put = Callable[[str, Array, int], None]  # arguments: an event's name and value, and the pass number


class _Stopped(Exception):
    """The reader has closed the stream."""


class EventStream(AbstractContextManager["EventStream"]):
    """The events `names` of one pass over the tokens, piece by piece in order of computation.

    The hooks of the model's bus, or of another `bus`, are called. A value is yielded after replacements by
    hooks. If `taps` is set, the stream runs `count` passes, whose taps `taps` returns. These taps put values
    into the stream themselves, and the pieces come in any order. Use the stream as a context manager:
    leaving the context stops the pass.
    """

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, names: Sequence[str], bus: HookBus | None = None,
        taps: Callable[[Put], TapOf] | None = None, count: int = 1,
    ) -> None:  # fmt: skip
        self._queue: Queue[Piece | BaseException | None] = Queue(AHEAD * count)
        self._stop = Event()
        self._starts: dict[tuple[int, str], int] = {}
        own = model.hooks if bus is None else bus

        def run() -> None:
            if taps is not None:
                model.run(inputs, taps(self._put), count)
                return
            observing = own.subscription(lambda event, value: self._put(event.name, value), *names)
            tap = own.begin(after=[observing], keep=False).tap("forward")
            model.run(inputs, lambda numbers: tap, 1)

        self._thread = Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Piece]:
        while True:
            piece = self._queue.get()
            if piece is None:
                self._queue.put(None)  # for the next reader
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except Empty:
                continue

    def _put(self, name: str, value: Array, number: int = 0) -> None:
        if self._stop.is_set():
            raise _Stopped
        start = self._starts.get((number, name), 0)
        stop = self._starts[number, name] = start + (value.shape[-2] if value.ndim else 0)
        self._queue.put(Piece(name, value, range(start, stop)))

    def _run(self, run: Callable[[], None]) -> None:
        try:
            with np.errstate(all="ignore"):
                run()
        except _Stopped:
            pass
        except BaseException as error:
            self._queue.put(error)
        self._queue.put(None)
