"""Our own forward as engines of a lower precision compute it: some passes that round on grids of their own.

One pass that rounds is one sample of what rounding does. Where rows are equal it has one error for all
of them, and where values cancel an error may by luck be next to nothing; so that there are several.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..architecture.kinds import Linear
from ..architecture.model import LanguageModel, TapOf, TraceInput
from ..arrays.rounding import BLOCK
from ..arrays.stats import Array
from ..hooks.bus import Run, Tap
from ..running.event_stream import EventStream, Piece, Put
from .bands import DRAWS
from .precision import Precision, block_of

FEWEST = 3  # passes of a long text
ROWS = 256  # of all passes together, beyond which they become fewer


@dataclass(frozen=True)
class _RoundingTap:
    """The tap of the passes `numbers`, one after another in every value.

    Values are rounded before they are looked at, or afterwards, only on their way into products.
    """

    compute: Precision
    rounded: Mapping[str, int]  # by event, in blocks of so many elements
    names: frozenset[str]
    put: Put
    runs: Sequence[Run]
    numbers: Sequence[int]
    prefix: str = ""

    def emit(self, name: str, value: Array) -> Array:
        name = self.prefix + name
        each = np.asarray(value).reshape(len(self.numbers), -1, *value.shape[1:])
        if self.runs[0].listeners("forward", name):
            taps = [self.runs[number].tap("forward") for number in self.numbers]
            each = np.stack([tap.emit(name, own) for tap, own in zip(taps, each, strict=True)])
        after = each
        if name in self.rounded:
            after = on_other_grids(each, self.compute, name, self.numbers, self.rounded[name])
            after = after.astype(value.dtype, copy=False)
        if name in self.names:
            shown = each if self.compute.into_products else after
            for number, own in zip(self.numbers, shown, strict=True):
                self.put(name, own.reshape(()) if value.ndim == 0 else own, number)
        return after.reshape(value.shape)

    def wants(self, name: str) -> bool:
        name = self.prefix + name
        return name in self.names or bool(self.runs[0].listeners("forward", name))

    def layer(self, index: int) -> Tap:
        return replace(self, prefix=f"layer{index}.")


class RoundedPasses:
    """Passes of a model that are rounded; what they have of an event are several pieces."""

    def __init__(self, model: LanguageModel, inputs: TraceInput, compute: Precision) -> None:
        self.model, self.inputs, self.compute = model, inputs, compute
        self.count = max(FEWEST, min(DRAWS, ROWS // len(inputs.tokens)))
        self._pieces: Iterator[Piece] = iter(())
        self._waiting: dict[tuple[str, Sequence[int]], list[Piece]] = {}

    def run(self, names: Sequence[str]) -> EventStream:
        taps = partial(self._taps, frozenset(names))
        stream = EventStream(self.model, self.inputs, names, taps=taps, count=self.count)
        self._pieces, self._waiting = iter(stream), {}
        return stream

    def _taps(self, names: frozenset[str], put: Put) -> TapOf:
        """Makes the tap of some of the passes: the model's hooks alter each, and `put` is told of `names`."""
        runs = [self.model.hooks.begin(keep=False) for _ in range(self.count)]
        tap = _RoundingTap(self.compute, _rounded(self.model, self.compute), names, put, runs, ())
        return lambda numbers: replace(tap, numbers=numbers)

    def take_all(self, piece: Piece) -> list[Piece]:
        """What every pass has beside another side's piece."""
        key = piece.name, piece.positions
        while len(self._waiting.get(key, ())) < self.count:
            own = next(self._pieces)
            self._waiting.setdefault((own.name, own.positions), []).append(own)
        return self._waiting.pop(key)


def _rounded(model: LanguageModel, compute: Precision) -> dict[str, int]:
    """The events that are rounded, all but parameters or those that go into products; the sizes of the blocks
    in which they are."""
    if not compute.into_products:
        return dict.fromkeys(model.plan, BLOCK)
    found: dict[str, int] = {}
    for row in model.plan.of_kind(Linear):
        assert isinstance(row.kind, Linear)
        name = row.inputs[0]
        if row.kind.columns is not None or name in model.plan.streams:
            continue  # what reads the stream itself takes it as it is
        block = block_of(model.tensors[row.kind.weight].encoding.name) if model.tensors else BLOCK
        found[name] = max(found.get(name, 0), block)
    return found


def on_other_grids(
    value: Array, compute: Precision, name: str, numbers: Sequence[int], block: int = BLOCK
) -> Array:
    """[n, ..., K] rounded as `compute` says, each of the n on a grid of its number's, of another spacing.

    Grid 0 is the usual one. Equal elements have equal errors, as in an engine: all have one spacing, or,
    where blocks share a scale and one spacing for all changes nothing, all of a channel have.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    widths = value.shape[-1] if compute.into_products else 1
    spacing = np.exp2(rng.random((max(numbers) + 1, widths)) - 1).astype(np.float32)
    spacing[0] = 1
    spacing = spacing[list(numbers)].reshape(len(numbers), *[1] * (value.ndim - 2), widths)
    rounded = (
        compute.round(value * spacing, block) if compute.into_products else compute.round(value * spacing)
    )
    return rounded / spacing
