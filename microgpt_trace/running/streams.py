"""A model's pass as an iterator, so that two passes can advance side by side.

The pass runs in a thread of its own, at most AHEAD values before what has been taken of it: memory
does not grow with depth, and two passes have two cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Queue
from threading import Event, Thread
from typing import NamedTuple, Protocol

import numpy as np

from ..arrays.logits import PART, softmax, used_losses
from ..decoder import Decoder
from ..hooks.bus import HookBus, Tap
from ..hooks.event import TraceEvent
from ..hooks.replacements import differs
from ..llama import forward as decode
from ..llama import head_forward
from ..model import Model
from ..passes import logits_of
from ..stats import Array
from .inputs import TraceInput

AHEAD = 2  # values
TapOf = Callable[[Sequence[int]], Tap]  # the tap of some of several sequences, by their numbers


class Piece(NamedTuple):
    """An event's value at some positions: all of them, or those of one part where it comes in parts."""

    name: str
    value: Array  # [n, W], [H, n, S] or []
    positions: Sequence[int]  # of the n rows

    def at(self, wanted: Sequence[int]) -> Array:
        """The rows at these positions, which are among its own."""
        if tuple(wanted) == tuple(self.positions):
            return self.value
        rows = [self.positions.index(position) for position in wanted]
        return self.value.take(rows, axis=-2)


class Passes(Protocol):
    """Several passes over the same tokens, each of which sees values of its own."""

    @property
    def count(self) -> int:
        """How many they are."""

    def taps(
        self, model: Model | Decoder, bus: HookBus, names: Sequence[str],
        put: Callable[[str, Array, int], None],
    ) -> TapOf:  # fmt: skip
        """Makes the tap of some of the passes: the bus's hooks alter each, and `put` is told of `names`."""


class _Stopped(Exception):
    """Nobody takes the values any more."""


class EventStream:
    """The events `names` of one pass over the tokens, piece by piece in order of computation.

    The hooks that are subscribed to the model's bus take part, or those of another `bus`: values come as
    the computation uses them. With `draws` there are several passes, whose pieces come in any order.
    Close it, or use it as a context manager, where it is not read to its end.
    """

    def __init__(
        self, model: Model | Decoder, inputs: TraceInput, names: Sequence[str], bus: HookBus | None = None,
        draws: Passes | None = None,
    ) -> None:  # fmt: skip
        self._queue: Queue[Piece | BaseException | None] = Queue(AHEAD * (draws.count if draws else 1))
        self._stop = Event()
        self._starts: dict[tuple[int, str], int] = {}
        used = model.hooks if bus is None else bus
        self._thread = Thread(target=self._run, args=(model, inputs, names, used, draws), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Piece]:
        while True:
            piece = self._queue.get()
            if piece is None:
                self._queue.put(None)  # for whoever asks again
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the pass, wherever it is."""
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

    def _observe(self, event: TraceEvent, value: Array) -> None:
        self._put(event.name, value)

    def _run(
        self, model: Model | Decoder, inputs: TraceInput, names: Sequence[str], bus: HookBus,
        draws: Passes | None,
    ) -> None:  # fmt: skip
        try:
            with np.errstate(all="ignore"):
                if draws is not None:
                    _passes(model, inputs, draws.taps(model, bus, names, self._put), draws.count)
                else:
                    observing = bus.subscription(self._observe, *names)
                    tap = bus.begin(after=[observing], keep=False).tap("forward")
                    _passes(model, inputs, lambda numbers: tap, 1)
        except _Stopped:
            pass
        except BaseException as error:
            self._queue.put(error)
        self._queue.put(None)


def _passes(model: Model | Decoder, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
    """n times forward through the whole model: a decoder with all sequences in each product, the logits in
    parts where they are many and somebody listens."""
    if isinstance(model, Model):
        for number in range(n):
            logits_of(model, inputs, (), tap_of([number]))
        return
    final = decode(model, np.array(inputs.tokens), tap_of(range(n)), n=n).reshape(n, len(inputs.tokens), -1)
    if not any(tap_of([0]).wants(name) for name in ("logits", "probs", "loss")):
        return
    most = max(1, PART // model.config.vocab_size)  # rows of logits at a time
    size = min(most, final.shape[1])
    losses: list[list[float]] = [[] for _ in range(n)]
    for start in range(0, final.shape[1], size):
        for first in range(0, n, max(1, most // size)):
            numbers = range(first, min(n, first + max(1, most // size)))
            rows = final[numbers.start : numbers.stop, start : start + size]
            found = _losses(model, rows, inputs.targets[start : start + size], tap_of(numbers))
            for number, own in zip(numbers, found, strict=True):
                losses[number] += own
    for number, own in enumerate(losses):
        if own:
            tap_of([number]).emit("loss", np.asarray(np.float32(math.fsum(own) / len(own))))


def _losses(
    model: Decoder, final: Array, targets: Sequence[int | None], tap: Tap
) -> list[list[float]]:  # fmt: skip
    """What the head makes of some rows [n, T, C] of each sequence; the losses where somebody wants them."""
    n, length, width = final.shape
    logits = tap.emit("logits", head_forward(model, final.reshape(n * length, width)))
    if not tap.wants("probs") and not tap.wants("loss"):
        return [[]] * n
    computed = softmax(logits)
    probs = tap.emit("probs", computed)
    known = [target or 0 for target in targets] * n
    of_rows = used_losses(known, logits, probs, differs(probs, computed)).reshape(n, length)
    return [[float(x) for x, t in zip(row, targets, strict=True) if t is not None] for row in of_rows]
