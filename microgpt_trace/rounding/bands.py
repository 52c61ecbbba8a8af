"""Bands: how much two correct runs may differ in each row of each event.

In float32, a band is computed from the depth of the event and from the attention scores. If a difference
exceeds this band, and for narrower types, the band is measured: our model runs several times, and each pass
rounds to another grid.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..arrays.rounding import BLOCK
from ..arrays.stats import Array, causal_mask, median
from ..decoder.catalogue import kind_named
from ..hooks.bus import Run, Tap
from ..hooks.event import EventSpec
from ..interpreter.event_stream import EventStream, Piece, Put
from ..models.language_model import LanguageModel, TapOf, TraceInput
from ..plans.kinds import Choice, Experts, Linear, Loss, Probabilities, Rotation, Routing, Scores, Softmax
from ..text.frozen import frozen
from .precision import PERTURBED, PRECISIONS, ROUNDINGS, Precision, block_of
from .row_differences import RowDifferences

# Relative error of a float32 engine after one layer. In 44 recordings of SmolLM2 by PyTorch (a third with
# repetitive texts), the distance of every row is at most 0.93 of its band.
ROUNDING = 1e-5
UNITS = 8.0  # the same for an engine with 16 bits, in units of its precision, if no model measures the band
AMPLIFIED = 4.0  # factor for scores, because terms cancel, and for attention weights and other exponentials
SUMS = 8.0  # number of roundings in a score, which is a sum of many products
LARGEST = 1e4  # largest score that is not treated as masked
# Correct engines round differently, but equal rows of one pass have equal errors. So the band is computed
# from the largest distance of eight passes, each with another grid. In 70 recordings of SmolLM2 by PyTorch in
# bf16 and f16 (half with repetitive texts), all rows lie within these bands.
PASSES, FACTOR = 8, 8.0  # number of passes; the band divided by the largest distance of the passes
# Limits for the median row, as shares of the band: for the distance, and for the difference in length.
TYPICAL, TYPICAL_LENGTH = 0.5, 0.75
# Predictions have similar errors in all engines. In 88 recordings by PyTorch in bf16 and f16, the predictions
# of every row, and of the median row, differ by at most 1.5 times the largest distance of our passes.
PREDICTED, TYPICAL_PREDICTED = 4.0, 0.625
FACTOR_OF_ONE, TYPICAL_OF_ONE = 12.0, 0.25  # FACTOR and TYPICAL if one calibration run determines the band
# In float32, the band is at least this multiple of the distance of the perturbed passes. In 132 recordings of
# PyTorch in float32 and float64, some with sums of 1e5 that cancel, each row differs by at most 0.8 times it.
FACTOR_OF_F32 = 2.0
PEAKED = 1.5  # factor for attention weights and other exponentials: two elements may dominate a row
# The allowed difference in length of the median row is at least this share of the distance of the passes. The
# length of a single row may change by its whole distance, if its attention moves to another key.
ALONG = 0.25
# The largest limit for the median row: unrelated rows of equal size have a relative distance of 1.4. A single
# row has no such limit, because rounding may decide which key wins its attention.
UNRELATED = 1.2
MOST, ENOUGH = 0.9, 4  # quantile of the rows' distances; fewest rows or distinct tokens for a median


@frozen(slots=False)
class Tolerance:
    """The tolerance of a comparison, with a `reason` in words. The band is `factor` times a measured
    distance. `factor` is None if no distance was measured."""

    kind: str  # "float32", "bf16", "f16", "q8", "calibrated", "given"
    reason: str
    factor: float | None = None
    rtol: float | None = None
    atol: float | None = None

    @property
    def precision(self) -> Precision | None:
        """The precision of the engine, or None if the precision is unknown."""
        return PRECISIONS.get("f32" if self.kind == "float32" else self.kind)


class BandMeasure(NamedTuple):
    """The distances of rows and their bands, by the measure `words` ("" for the usual relative distance)."""

    words: str
    distances: Array
    band: Array


class Bands:
    """Computes the band of each row. Events must be passed in order of computation. `varied` is False if a
    text has very few different tokens, because the rows of the text are then nearly equal."""

    def __init__(
        self, tolerance: Tolerance, layers: int, compute: Precision | None = None, varied: bool = True
    ) -> None:
        self.tolerance, self._layers, self.atol = tolerance, layers, tolerance.atol or 0.0
        self._floor = 0.0 if compute is None or compute.into_products else compute.unit
        precision, self._error, self._unit = tolerance.precision, ROUNDING, PRECISIONS["f32"].unit
        if precision is not None and precision.narrow and tolerance.factor is None:
            self._error, self._unit = UNITS * precision.unit, precision.unit
        self._varied = varied
        self._noise = {-1: 1.0}  # squared noise after each layer, in units of `_error`

    def note(self, spec: EventSpec, values: Sequence[Array]) -> None:
        """Record the magnitude of attention scores, [H, T, S]. Softmax turns the absolute rounding error of a
        score into a relative error. The run with the smallest scores counts, because large scores may be
        wrong or masked."""
        if not isinstance(kind_named(spec), Scores) or spec.layer is None:
            return
        visible = [np.where(causal_mask(*value.shape[-2:]), value, 0) for value in values]
        largest = min(float(np.nanmax(np.abs(scores), initial=0.0)) for scores in visible)
        own = SUMS * self._unit * min(largest, LARGEST) / self._error
        self._noise[spec.layer] = self._before(spec.layer) + 1 + own * own

    def _before(self, layer: int) -> float:
        earlier = max(i for i in self._noise if i < layer)
        return self._noise[earlier] + (layer - 1 - earlier)

    def of(
        self, spec: EventSpec, rows: RowDifferences, thirds: Sequence[RowDifferences]
    ) -> list[BandMeasure]:
        """Return the distance and the band of every row. `thirds` contains the distances of the runs that
        determine the band, if any. If several runs determine the band of a narrower type, also return
        bands for the length of each row and for the predictions of logits."""
        tolerance, everywhere, distances = self.tolerance, np.ones(len(rows.d)), rows.strict()
        if tolerance.rtol is not None:
            return [BandMeasure("", distances, tolerance.rtol * everywhere)]
        peaked = is_peaked(spec)
        amplified = peaked or isinstance(kind_named(spec), Scores)
        layer = -1 if spec.stage == "embedding" else self._layers if spec.layer is None else spec.layer
        noise = self._noise.get(layer) or self._before(layer) + 1
        own = self._error * math.sqrt(noise) * (AMPLIFIED if amplified else 1.0)
        if not thirds or tolerance.factor is None:
            return [BandMeasure("", distances, own * everywhere)]
        factor = tolerance.factor * (PEAKED if peaked else 1.0)
        most = 1.0 if isinstance(kind_named(spec), Softmax) else MOST  # a tie of two keys may be in any row
        plain = _reach([third.strict() for third in thirds], self._floor * everywhere, self._floor, most)
        typical = TYPICAL_OF_ONE if tolerance.kind == "calibrated" else TYPICAL
        band = self._band(distances, plain, factor, typical, UNRELATED)
        if tolerance.kind == "float32":
            return [BandMeasure("", distances, np.maximum(own, band))]
        band = own + band
        measures = [BandMeasure("", distances, band)]
        if len(thirds) == 1:  # the rows of a single run may by chance have the right length
            return measures
        few = math.sqrt(PASSES / len(thirds))  # by chance, few passes may have small distances
        reach = _reach([third.in_length() for third in thirds], plain.rows, ALONG * plain.median)
        length, band = rows.in_length(), self._band(rows.in_length(), reach, factor * few, TYPICAL_LENGTH)
        measures.append(BandMeasure("in length", np.abs(length), own + band))
        if not np.isnan(rows.kl).all():
            reach = _reach([third.in_prediction() for third in thirds], 0 * everywhere, 0.0)
            predicted, times = rows.in_prediction(), tolerance.factor / FACTOR * PREDICTED * few
            band = own * AMPLIFIED + self._band(predicted, reach, times, TYPICAL_PREDICTED)
            band = np.where(measures[0].band < UNRELATED, band, math.inf)  # unrelated rows predict anything
            measures.append(BandMeasure("in its prediction (sqrt(2 KL))", predicted, band))
        return measures

    def _band(
        self, distances: Array, reach: _Reach, factor: float, typical: float, unrelated: float = 0.0
    ) -> Array:
        """Return the band of every row: `factor` times the reach. If the median row exceeds its limit, this
        limit is also the largest band of a row. If the text has few different tokens, there is no limit for
        the median row. With `unrelated`, a limit above 1 becomes `unrelated`. There is no limit if the median
        rows of the runs have at least this distance."""
        band, most = factor * reach.rows, factor * typical * reach.median
        if unrelated and most > 1:
            most = unrelated if reach.median < unrelated else math.inf
        off = self._varied and len(distances) >= ENOUGH and abs(median(distances)) > most
        return np.minimum(band, most) if off else band


class _Reach(NamedTuple):
    """The largest distances of several runs. `rows` contains the largest distance of each row. Distances
    below the quantile `most` of `_reach` are raised to it. `median` is the largest of the runs' medians."""

    rows: Array
    median: float


def _reach(runs: Sequence[Array], least: Array, least_median: float, most: float = MOST) -> _Reach:
    rows = np.max(np.abs(runs), axis=0)
    if len(rows):
        usual = np.sort(rows)[int(most * (len(rows) - 1))]
        rows = np.maximum(np.maximum(rows, usual), least)
    return _Reach(rows, max(least_median, *(abs(median(run)) for run in runs)))


def is_peaked(spec: EventSpec) -> bool:
    """Return True if the values are computed from exponentials: attention weights, shares, probs, loss."""
    return isinstance(kind_named(spec), Softmax | Routing | Probabilities | Loss)


def tolerance_of(
    compute: Precision | None = None, calibrated: str | None = None, factor: float | None = None,
    rtol: float | None = None, atol: float | None = None, passes: int = PASSES,
) -> Tolerance:  # fmt: skip
    """Return the requested tolerance with its reason. The default is the tolerance of float32 rounding.
    `passes` is the number of passes that round to `compute`, or 0 without a model. `calibrated` names the
    calibration run."""
    if rtol is not None or atol is not None:
        reason = f"given: rtol {rtol or 0:g}, atol {atol or 0:g}"
        return Tolerance("given", reason, None, rtol or 0.0, atol or 0.0)
    if calibrated is not None:
        times = FACTOR_OF_ONE if factor is None else factor
        typical = f"{times * TYPICAL_OF_ONE:g} times in the median row"
        reason = f"{times:g} times the distance of {calibrated} from A; {typical}"
        return Tolerance("calibrated", reason, times)
    fixed = f"float32 rounding: {ROUNDING:g} of a row after one layer, growing with the root of the depth"
    if compute is PERTURBED:
        reason = f"{fixed}, or {FACTOR_OF_F32:g} times the largest distance of {passes} perturbed passes"
        return Tolerance("float32", reason, FACTOR_OF_F32)
    if compute is not None and not passes:
        error = f"{compute.name} rounding: {UNITS * compute.unit:.1g} of a row after one layer"
        return Tolerance(compute.name, f"{error}, growing with the root of the depth")
    if compute is not None:
        times = FACTOR * math.sqrt(PASSES / passes) if factor is None else factor
        reason = (
            f"{times:.2g} times the largest distance between our own pass and {passes} passes with "
            f"{compute.words}; {times * TYPICAL:.2g} times in the median row"
        )
        return Tolerance(compute.name, reason, times)
    return Tolerance("float32", fixed)


FEWEST = 3  # the fewest passes, for a long text
ROWS = 256  # limit for the rows of all passes together, so a long text has fewer passes


@frozen(slots=False)
class _RoundingTap:
    """A tap that rounds the values of the passes in `numbers`. Every value is a stack of one value per pass.
    `put` receives the rounded values, or the values before rounding if only the inputs of products are
    rounded."""

    compute: Precision
    rounded: Mapping[str, int | None]  # name of an event -> argument of `compute.round`
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
    """Several passes of a model. Each pass rounds its values to another grid."""

    def __init__(self, model: LanguageModel, inputs: TraceInput, compute: Precision) -> None:
        self.model, self.inputs, self.compute = model, inputs, compute
        self.count = max(FEWEST, min(PASSES, ROWS // len(inputs.tokens)))
        self._pieces: Iterator[Piece] = iter(())
        self._waiting: dict[tuple[str, Sequence[int]], list[Piece]] = {}

    def run(self, names: Sequence[str]) -> EventStream:
        """Start the passes, which call the model's hooks, and stream the events in `names`."""

        def taps(put: Put) -> TapOf:
            runs = [self.model.hooks.begin(keep=False) for _ in range(self.count)]
            rounded = _rounded(self.model, self.compute, len(self.inputs.tokens))
            tap = _RoundingTap(self.compute, rounded, frozenset(names), put, runs, ())
            return lambda numbers: replace(tap, numbers=numbers)

        stream = EventStream(self.model, self.inputs, names, taps=taps, count=self.count)
        self._pieces, self._waiting = iter(stream), {}
        return stream

    def take_all(self, piece: Piece) -> list[Piece]:
        """Return the piece of every pass that has the same event and positions as `piece`."""
        key = piece.name, piece.positions
        while len(self._waiting.get(key, ())) < self.count:
            own = next(self._pieces)
            self._waiting.setdefault((own.name, own.positions), []).append(own)
        return self._waiting.pop(key)


def _rounded(model: LanguageModel, compute: Precision, length: int) -> dict[str, int | None]:
    """Return the events to round: all events except the numbers of experts, or only the inputs of products.
    The number of each event is an argument of `compute.round`: the block size, or the number of bits of
    float32 to drop. The error of an angle grows with the position, so RoPE drops more bits."""
    if not compute.into_products:
        kinds = {name: row.kind for name, row in model.plan.items() if not isinstance(row.kind, Choice)}
        if compute.coarse:
            return dict.fromkeys(kinds)
        angles = {True: length, False: 0}
        units = {name: ROUNDINGS + angles[isinstance(kind, Rotation)] for name, kind in kinds.items()}
        return {name: round(math.log2(own)) for name, own in units.items()}
    blocks: dict[str, int | None] = {}
    for row in model.plan.of_kind(Linear, Experts):
        name = row.inputs[0]
        if getattr(row.kind, "columns", None) is not None or name in model.plan.streams:
            continue  # products do not round the residual stream itself
        assert isinstance(row.kind, Linear | Experts)
        block = block_of(model.tensors[row.kind.weight].encoding.name) if model.tensors else BLOCK
        blocks[name] = max(blocks.get(name) or 0, block)
    return blocks


def on_other_grids(
    value: Array, compute: Precision, name: str, numbers: Sequence[int], argument: int | None = None
) -> Array:
    """Round n values to `compute`, [n, ..., K]. Each value is rounded to a grid with another spacing. Grid 0
    is the usual grid. All elements of a value have the same spacing, so that equal elements have equal
    errors, as in an engine. With 8-bit blocks, each channel has another spacing, because the scales of blocks
    would cancel a common spacing."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    widths = value.shape[-1] if compute.into_products else 1
    spacing = np.exp2(rng.random((max(numbers) + 1, widths)) - 1).astype(np.float32)
    spacing[0] = 1
    spacing = spacing[list(numbers)].reshape(len(numbers), *[1] * (value.ndim - 2), widths)
    arguments = () if argument is None else (argument,)
    return compute.round(value * spacing, *arguments) / spacing
