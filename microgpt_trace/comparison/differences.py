"""The result of a comparison as plain data: differences of events, and the agreement of predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arrays.stats import Array, median
from ..hooks.event import EventSpec
from ..notebook import in_notebook
from ..rounding.bands import BandMeasure, Tolerance
from ..rounding.judging import Unseen
from ..rounding.offers import Offer
from ..rounding.row_differences import RowDifferences, element_index
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document
from .agreement import Agreement
from .compared_runs import Unpaired

GIVEN, RECORDED_EXPERTS = "given its own inputs", "with the recorded experts"


@frozen
class EventDifference:
    """The difference of two runs in one event.

    The worst row is the row with the largest distance relative to its band.

    - `relative`, `tolerance`: |a - b| / max(|a|, |b|) of the worst row, and its band. `measured` is not empty
      if `relative` is another distance, or ignores the bias or outliers.
    - `median`, `cosine`: the median relative difference and the smallest cosine of all finite rows. If only
      statistics were compared, `median`, `cosine` and `position` are None.
    - `max_abs`: the largest |a - b|, at `max_index`.
    - `position`, `head`, `index`, `a`, `b`: the element that differs most in the first row beyond its band,
      or else in the worst row. If `measured` contains "given its own inputs", `b` is the recorded value, and
      `a` is computed from the recorded inputs. If `measured` contains "with the recorded experts", the value
      of the model is from a pass that makes the dump's choices of experts.
    - `count`: the number of elements. `alike`: how many elements are the same NaN or infinity on both sides.
      Elements that are alike are not compared. If no element of a row or event can be compared, the distance
      is NaN.
    """

    name: str
    stage: str
    layer: int | None
    expr: str
    shape: tuple[int, ...]
    relative: float
    median: float | None
    cosine: float | None
    max_abs: float
    max_index: tuple[int, ...]
    tolerance: float
    holds: bool
    position: int | None
    head: int | None
    index: tuple[int, ...]
    a: float
    b: float
    measured: str  # "", "in length", "without the bias", "given its own inputs", "with the recorded experts"
    positions: tuple[int, ...]  # the positions that were compared
    by_position: tuple[float, ...]  # the largest distance at each of these positions
    count: int
    alike: int

    @property
    def comparable(self) -> bool:
        """True if at least one element of the event can be compared."""
        return self.alike < self.count

    @property
    def excess(self) -> float:
        """The distance as a multiple of the band, or -1 if nothing was compared."""
        if not self.comparable:
            return -1.0
        if self.tolerance > 0:
            return self.relative / self.tolerance
        return math.inf if self.relative > 0 else 0.0


@frozen
class RoutingFlip:
    """A position where two runs choose different experts.

    - `only_a`, `only_b`: the experts that only one run chooses.
    - `margin`: the smallest router logit of `only_a` minus the largest of `only_b`, in run a.
    - `explained`: the largest margin that rounding explains: CHANCE standard deviations of the difference of
      two logits. The RMS of the logits' errors is measured in the passes that determine the band, or else is
      the band times the RMS of the row.
    - `follows`: True if the logits of `only_b` are the larger ones in run b.

    `margin`, `explained` and `follows` are None if the logits of these experts are missing or not
    finite.
    """

    name: str
    layer: int
    position: int
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    margin: float | None
    explained: float | None
    follows: bool | None

    @property
    def by_rounding(self) -> bool:
        """True if rounding explains that other experts were chosen."""
        if self.margin is None or self.explained is None or not self.follows:
            return False
        return abs(self.margin) <= self.explained

    @property
    def wrong(self) -> str:
        """The run ("A" or "B") whose experts do not have the largest of its own logits, or "" if no run is
        known to choose wrongly."""
        if self.margin is None or self.by_rounding:
            return ""
        return "A" if self.margin < 0 else "" if self.follows else "B"


@frozen
class Jump:
    """The event at which the distance grew most. `before` is the largest distance of earlier events, and
    `after` the distance of this event. `ratio` is `after` / max(`before`, band)."""

    name: str
    ratio: float
    before: float
    after: float


@frozen
class SideSummary:
    """A summary of a compared run."""

    origin: str
    kind: str
    notes: tuple[str, ...]
    unpaired: tuple[Unpaired, ...]


@frozen
class JudgedSide:
    """One of two dumps, judged by its own inputs: the precision of its engine, how many of its operations
    were judged, which are wrong, the relative `error` of the first, and the causes that explain it."""

    compute: str
    clean: bool
    judged: int
    of: int
    first_wrong: str | None
    error: float | None
    wrong: tuple[str, ...]
    claims: tuple[str, ...]


@frozen(slots=False)
class Comparison:
    """Two runs compared event by event, in order of computation.

    - `first`: the first event beyond its band, if it does not follow from a choice of experts that rounding
      explains.
    - `since`: the last event before `first` that was compared.
    - `between`: the events between `since` and `first`, which were not compared.
    - `missed`: the number of events before `since` that were not compared.
    - `left_out`: all events of the pass (or of two recordings) that were not compared.
    """

    SCHEMA = "microgpt.diff/1"

    a: SideSummary
    b: SideSummary
    tokens: tuple[int, ...] | None
    labels: tuple[str, ...]
    tolerance: Tolerance
    events: tuple[EventDifference, ...]
    first: str | None
    since: str | None
    between: tuple[str, ...]
    missed: int
    jump: Jump | None
    agreement: Agreement | None
    positions: tuple[int, ...]
    left_out: tuple[str, ...]
    of_statistics: bool  # True if only statistics were compared, because a side has no values
    offer: Offer | None = None  # a precision that may explain the differences
    unseen: Unseen | None = None  # the differences that the requested precision hides
    routing: tuple[RoutingFlip, ...] = ()  # the positions where the runs choose different experts
    consequences: tuple[str, ...] = ()  # the events that only differ where other experts were chosen before
    judged: tuple[JudgedSide, ...] = ()  # both dumps, if a model judged their operations
    where: str = ""  # the heads, rows and channels of `first` that differ, if both sides are dumps

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"a": self.a.origin, "b": self.b.origin, "same": self.same, "first": self.first}
        return one_line(self, **about, events=len(self.events))

    @property
    @in_document
    def agree(self) -> bool:
        """True if every compared event lies within its band or follows from choices of experts that rounding
        explains"""
        return self.first is None and len({side.clean for side in self.judged}) < 2

    @property
    @in_document
    def same(self) -> bool:
        """True if the runs agree in every value of every event of the pass."""
        whole = not (self.left_out or self.partly_compared or self.of_statistics)
        return self.agree and whole and not self.routing

    @property
    def compared(self) -> tuple[EventDifference, ...]:
        """The events with at least one element that could be compared."""
        return tuple(event for event in self.events if event.comparable)

    @property
    def partly_compared(self) -> tuple[EventDifference, ...]:
        """The events with positions or elements that could not be compared."""
        return tuple(event for event in self.events if event.alike or self.positions_of(event) < self.length)

    @property
    def length(self) -> int:
        """The number of positions of the pass."""
        return len(self.tokens or ())

    def positions_of(self, event: EventDifference) -> int:
        """Count the positions at which an event was compared. An event without positions counts for all."""
        return event.shape[-2] if len(event.shape) > 1 else self.length

    def event(self, name: str) -> EventDifference:
        return next(event for event in self.events if event.name == name)

    @property
    def worst(self) -> EventDifference:
        """The event with the largest distance relative to its band."""
        return max(self.events, key=lambda event: event.excess)


def difference(
    spec: EventSpec, shape: tuple[int, ...], rows: RowDifferences, measures: Sequence[BandMeasure],
    positions: Sequence[int], atol: float, statistic: str = "",
) -> EventDifference:  # fmt: skip
    """Summarise the rows of an event, [n] or [H * n], at these positions. `positions` is empty for a single
    number or a `statistic`. For each row, the measure with the largest distance relative to its band is
    used."""
    plain, strict = rows.relative(), rows.strict()
    by = np.argmax([_share(measure.distances, measure.band) for measure in measures], axis=0)
    distances = np.choose(by, [measure.distances for measure in measures])
    bands = np.choose(by, [measure.band for measure in measures])
    comparable = rows.comparable
    finite = comparable & (rows.odd < 0)
    beyond = ~(distances <= bands)
    if atol:
        beyond &= rows.largest > atol
    count = max(1, len(positions))
    worst = int(_share(distances, bands).argmax())
    row = _first(beyond, count) if beyond.any() else worst
    grid = np.where(comparable, strict, np.nan).reshape(-1, count)
    left_out = _words_for_left_out(rows, worst, float(plain[worst]), float(strict[worst]))
    measured = measures[by[worst]].words or left_out
    largest = int(rows.largest.argmax())
    return EventDifference(
        spec.name, spec.stage, spec.layer, spec.expr, shape,
        relative=float(distances[worst]) if comparable.any() else math.nan,
        median=None if statistic or not finite.any() else median(plain[finite]),
        cosine=None if statistic or not finite.any() else float(rows.cosine[finite].min()),
        max_abs=float(rows.largest[largest]),
        max_index=element_index(largest, int(rows.column[largest]), shape, positions) if positions else (),
        tolerance=float(bands[worst]), holds=not beyond.any(),
        position=positions[row % count] if positions else None,
        head=row // count if len(shape) == 3 and positions else None,
        index=element_index(row, int(rows.column[row]), shape, positions) if positions else (),
        a=float(rows.of_a[row]), b=float(rows.of_b[row]), measured=statistic or measured,
        positions=tuple(positions),
        by_position=tuple(np.fmax.reduce(grid).tolist()) if positions else (),
        count=int(rows.count.sum()), alike=int(rows.alike.sum()),
    )  # fmt: skip


def _share(distances: Array, bands: Array) -> Array:
    """Return the distance of each row as a multiple of its band."""
    return np.divide(distances, bands, out=np.where(distances > 0, np.inf, 0.0), where=bands > 0)


def _first(beyond: Array, count: int) -> int:
    """Return the first row beyond its band, by position, because an error spreads to later positions."""
    grid = beyond.reshape(-1, count)
    position = int(grid.any(axis=0).argmax())
    return int(grid[:, position].argmax()) * count + position


def _words_for_left_out(rows: RowDifferences, row: int, plain: float, strict: float) -> str:
    """Return what `strict` leaves out: the bias, outliers, or "" if `strict` equals `plain`."""
    if not strict > plain * 1.0001 or np.isinf(strict):
        return ""
    unbiased = rows.d[row] / rows.plain_a[row] if rows.plain_a[row] > 0 else 0.0
    return "without the bias" if unbiased > 0.999 * strict else "without outlying elements"


def jump_of(events: Sequence[EventDifference]) -> Jump | None:
    """Return the event at which the distance grew most, or None if no distance grew beyond a band."""
    jump, before = None, 0.0
    for event in (event for event in events if event.comparable):
        base = max(before, event.tolerance)
        ratio = event.relative / base if base > 0 else float("inf") * (event.relative > 0) or 0.0
        if ratio > 1 and (jump is None or ratio > jump.ratio):
            jump = Jump(event.name, ratio, before, event.relative)
        before = max(before, event.relative)
    return jump
