"""A model's pass as an iterator, so that two passes can advance side by side.

The pass runs in a thread of its own, at most AHEAD values before what has been taken of it: memory
does not grow with depth, and two passes have two cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from queue import Empty, Queue
from threading import Event, Thread
from typing import NamedTuple

import numpy as np

from ..decoder import Decoder
from ..events import HookBus, Run, Subscription, TraceEvent
from ..model import Model
from ..passes import logits_of
from ..predictions import PART, softmax, used_losses
from ..replacements import differs
from ..stats import Array
from ..traces import TraceInput
from .rounding import INTO_PRODUCTS_OF_MICROGPT, Compute

AHEAD = 2  # values


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


class _Stopped(Exception):
    """Nobody takes the values any more."""


class EventStream:
    """The events `names` of one pass over the tokens, piece by piece in order of computation.

    The hooks that are subscribed to the model's bus take part, or those of another `bus`: values come as
    the computation uses them. With `compute` each is rounded as an engine does that computes so. Close
    it, or use it as a context manager, where it is not read to its end.
    """

    def __init__(
        self, model: Model | Decoder, inputs: TraceInput, names: Sequence[str],
        compute: Compute | None = None, bus: HookBus | None = None,
    ) -> None:  # fmt: skip
        self._queue: Queue[Piece | BaseException | None] = Queue(AHEAD)
        self._stop = Event()
        self._starts: dict[str, int] = {}
        used = model.hooks if bus is None else bus
        self._thread = Thread(target=self._run, args=(model, inputs, names, compute, used), daemon=True)
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

    def _put(self, event: TraceEvent, value: Array) -> None:
        if self._stop.is_set():
            raise _Stopped
        start = self._starts.get(event.name, 0)
        stop = self._starts[event.name] = start + (value.shape[-2] if value.ndim else 0)
        self._queue.put(Piece(event.name, value, range(start, stop)))

    def _run(
        self, model: Model | Decoder, inputs: TraceInput, names: Sequence[str], compute: Compute | None,
        bus: HookBus,
    ) -> None:  # fmt: skip
        try:
            observing = bus.subscription(self._put, *names)
            with np.errstate(all="ignore"):
                _pass(model, inputs, _begin(model, bus, observing, compute))
        except _Stopped:
            pass
        except BaseException as error:
            self._queue.put(error)
        self._queue.put(None)


def _begin(model: Model | Decoder, bus: HookBus, observing: Subscription, compute: Compute | None) -> Run:
    """A run in which values are rounded before they are looked at, or only on their way into products."""
    if compute is None:
        return bus.begin(after=[observing], keep=False)
    decoder = model.family == "decoder"
    inputs = compute.inputs and (compute.inputs if decoder else INTO_PRODUCTS_OF_MICROGPT)
    names = inputs or [name for name in model.hooks.specs if name not in model.config.shapes()]
    rounding = bus.subscription(partial(_rounded, compute=compute), *names)
    order = [observing, rounding] if inputs else [rounding, observing]
    return bus.begin(after=order, keep=False)


def _rounded(event: TraceEvent, value: Array, compute: Compute) -> Array:
    return compute.round(value).astype(value.dtype)


def _pass(model: Model | Decoder, inputs: TraceInput, run: Run) -> None:
    """Forward through the whole model, the logits in parts where they are many and somebody listens."""
    tap = run.tap("forward")
    if isinstance(model, Model):
        logits_of(model, inputs, (), tap)
        return
    from ..llama import forward as decode
    from ..llama import head_forward

    final, losses = decode(model, np.array(inputs.tokens), tap), list[float]()
    if not any(tap.wants(name) for name in ("logits", "probs", "loss")):
        return
    size = max(1, PART // model.config.vocab_size)
    for start in range(0, len(final), size):
        logits = tap.emit("logits", head_forward(model, final[start : start + size]))
        computed = softmax(logits)
        probs, targets = tap.emit("probs", computed), inputs.targets[start : start + size]
        known = [target or 0 for target in targets]
        of_rows = used_losses(known, logits, probs, differs(probs, computed))
        losses += [float(loss) for loss, target in zip(of_rows, targets, strict=True) if target is not None]
    if losses:
        tap.emit("loss", np.asarray(np.float32(math.fsum(losses) / len(losses))))
