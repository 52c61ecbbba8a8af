"""How far apart two right runs may lie: a band for every row of every event, with its
reason. For low precisions several of our own passes that round on grids of their own say how far."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel, TapOf, TraceInput
from ..architecture.plans.catalogue import kind_named
from ..architecture.plans.kinds import Linear, Loss, Probabilities, Scores, Softmax
from ..arrays.rounding import BLOCK
from ..arrays.stats import Array, causal_mask, median
from ..hooks.bus import Run, Tap
from ..hooks.event import EventSpec
from ..running.event_stream import EventStream, Piece, Put
from ..text.brief import frozen
from .precision import PRECISIONS, Precision, block_of
from .row_differences import RowDifferences

# Relative error of a float32 engine after one layer. On SmolLM2 PyTorch's worst row of any event lies
# within 0.93 of the band that this gives, over 44 recordings, a third of them repetitions.
ROUNDING = 1e-5
AMPLIFIED = 4.0  # in scores, where products cancel, and in weights and probs, where errors are exponents
SUMS = 8.0  # roundings that a score of many products has
LARGEST = 1e4  # a score beyond is no score: it stands for a mask
# Two right engines stray in different ways, and equal rows of ours all in one: of eight passes of ours on
# grids of their own the farthest counts. Over 70 recordings of SmolLM2, half of them repetitions, PyTorch's
# rows in bf16 and f16 lie within what these allow.
DRAWS, FACTOR = 8, 8.0  # passes, and the times what the farthest of them strays
TYPICAL, TYPICAL_LENGTH = 0.5, 0.75  # share of it that the median row may stray, and in length
# Predictions stray alike whoever rounds: PyTorch's lie at most 1.5 times as far as what the farthest of ours
# does, in a row and in the median row, over 88 recordings in bf16 and f16.
PREDICTED, TYPICAL_PREDICTED = 4.0, 0.625
FACTOR_OF_ONE, TYPICAL_OF_ONE = 12.0, 0.25  # the same of a third run's distance
PEAKED = 1.5  # more in attention weights, where a row may have two elements
ALONG = 0.25  # of what strays, which may lie in a row's length whatever that of our passes is
UNRELATED = 1.2  # rows of a size that have nothing to do with each other lie 1.4 apart
MOST, ENOUGH = 0.9, 4  # of the rows; rows, or tokens of a text, whose median says something


@frozen(slots=False)
class Tolerance:
    """What was allowed, in words. `factor` multiplies a measured distance; None where none was."""

    kind: str  # "float32", "bf16", "f16", "q8", "calibrated", "given"
    reason: str
    factor: float | None = None
    rtol: float | None = None
    atol: float | None = None

    @property
    def precision(self) -> Precision | None:
        """That of the engine; None where it is not known."""
        return PRECISIONS.get("f32" if self.kind == "float32" else self.kind)


def _largest_seen(scores: Array) -> float:
    """The largest magnitude among scores [H, T, S] that a query may look at."""
    seen = np.where(causal_mask(*scores.shape[-2:]), scores, 0)
    return float(np.nanmax(np.abs(seen), initial=0.0))


class BandMeasure(NamedTuple):
    """A way to tell how far rows lie apart, in words where it is not the distance of whole rows: what it
    found, and the band of each row."""

    words: str
    found: Array
    band: Array


class Bands:
    """Gives the band of each row, as the events come by in order of computation."""

    def __init__(
        self, tolerance: Tolerance, layers: int, compute: Precision | None = None, varied: bool = True
    ) -> None:
        self.tolerance, self._layers, self.atol = tolerance, layers, tolerance.atol or 0.0
        self._floor = 0.0 if compute is None or compute.into_products else compute.unit
        self._varied = varied  # the text has some tokens
        self._noise = {-1: 1.0}  # after layer i, in units of ROUNDING, squared

    def note(self, spec: EventSpec, values: Sequence[Array]) -> None:
        """Scores of a large magnitude round to an absolute error, which softmax makes a relative one. The
        side with the smaller ones counts: the other's may be wrong, or hold what stands for a mask."""
        if not isinstance(kind_named(spec), Scores) or spec.layer is None:
            return
        largest = min(_largest_seen(value) for value in values)
        own = SUMS * PRECISIONS["f32"].unit * min(largest, LARGEST) / ROUNDING
        self._noise[spec.layer] = self._before(spec.layer) + 1 + own * own

    def _before(self, layer: int) -> float:
        """The squared noise that enters a layer."""
        known = max(i for i in self._noise if i < layer)
        return self._noise[known] + (layer - 1 - known)

    def _noise_in(self, spec: EventSpec) -> float:
        layer = -1 if spec.stage == "embedding" else self._layers if spec.layer is None else spec.layer
        return self._noise.get(layer) or self._before(layer) + 1

    def of(
        self, spec: EventSpec, rows: RowDifferences, thirds: Sequence[RowDifferences]
    ) -> list[BandMeasure]:
        """How far the rows lie apart and the bands of that; then what only several third runs give a band
        of, how far in length and, of logits, in what they predict. What third runs stray widens all."""
        given, everywhere, found = self.tolerance, np.ones(len(rows.d)), rows.strict()
        if given.rtol is not None:
            return [BandMeasure("", found, given.rtol * everywhere)]
        peaked = is_peaked(spec)
        amplified = peaked or isinstance(kind_named(spec), Scores)
        own = ROUNDING * math.sqrt(self._noise_in(spec)) * (AMPLIFIED if amplified else 1.0)
        if not thirds or given.factor is None:
            return [BandMeasure("", found, own * everywhere)]
        factor = given.factor * (PEAKED if peaked else 1.0)
        apart = _reach([third.strict() for third in thirds], self._floor * everywhere, self._floor)
        typical = TYPICAL_OF_ONE if given.kind == "calibrated" else TYPICAL
        band = own + self._band(found, apart, factor, typical)
        related = apart.rows < UNRELATED  # else rounding alone may bring anything
        band = np.where(related, np.minimum(band, UNRELATED), band)
        measures = [BandMeasure("", found, band)]
        if len(thirds) == 1:  # by luck its rows have the right length
            return measures
        few = math.sqrt(DRAWS / len(thirds))  # what all of few passes do by luck
        reach = _reach([third.in_length() for third in thirds], ALONG * apart.rows, ALONG * apart.median)
        length, band = rows.in_length(), self._band(rows.in_length(), reach, factor * few, TYPICAL_LENGTH)
        measures.append(BandMeasure("in length", np.abs(length), own + band))
        if not np.isnan(rows.kl).all():
            reach = _reach([third.in_prediction() for third in thirds], 0 * everywhere, 0.0)
            predicted, times = rows.in_prediction(), given.factor / FACTOR * PREDICTED * few
            band = own * AMPLIFIED + self._band(predicted, reach, times, TYPICAL_PREDICTED)
            measures.append(BandMeasure("in its prediction (sqrt(2 KL))", predicted, band))
        return measures

    def _band(self, found: Array, reach: _Reach, factor: float, typical: float) -> Array:
        """`factor` times the reach of every row. Where the median row strays farther than a median can, no
        row may; but where the text has few tokens rows are equal, and their median is one of them."""
        band, most = factor * reach.rows, factor * typical * reach.median
        off = self._varied and len(found) >= ENOUGH and abs(median(found)) > most
        return np.minimum(band, most) if off else band


class _Reach(NamedTuple):
    """How far some runs stray at most, in a row or in nine tenths of all rows; and their median rows."""

    rows: Array
    median: float


def _reach(strayed: Sequence[Array], least: Array, least_median: float) -> _Reach:
    rows = np.max(np.abs(strayed), axis=0)
    if len(rows):
        usual = np.sort(rows)[int(MOST * (len(rows) - 1))]
        rows = np.maximum(np.maximum(rows, usual), least)
    return _Reach(rows, max(least_median, *(abs(median(run)) for run in strayed)))


def is_peaked(spec: EventSpec) -> bool:
    """Whether the values are exponentials: probabilities, or what follows from them."""
    return isinstance(kind_named(spec), Softmax | Probabilities | Loss)


def tolerance_of(
    compute: Precision | None = None, calibrated: str | None = None, factor: float | None = None,
    rtol: float | None = None, atol: float | None = None, draws: int = DRAWS,
) -> Tolerance:  # fmt: skip
    """Return the tolerance that was asked for, with its reason: by default that of float32. `compute` is
    measured on `draws` passes."""
    if rtol is not None or atol is not None:
        words = f"given: rtol {rtol or 0:g}, atol {atol or 0:g}"
        return Tolerance("given", words, None, rtol or 0.0, atol or 0.0)
    if calibrated is not None:
        times, share = FACTOR_OF_ONE if factor is None else factor, TYPICAL_OF_ONE
        reason = f"{times:g} times the distance of {calibrated}, row by row; {times * share:g} in the median"
        return Tolerance("calibrated", reason, times)
    if compute is not None:
        times = FACTOR * math.sqrt(DRAWS / draws) if factor is None else factor
        reason = (
            f"{times:.2g} times what the farthest of {draws} passes of our own strays with "
            f"{compute.words}; {times * TYPICAL:.2g} in the median"
        )
        return Tolerance(compute.name, reason, times)
    reason = f"float32 rounding: {ROUNDING:g} of a row after a layer, grown with the root of the depth"
    return Tolerance("float32", reason)


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
