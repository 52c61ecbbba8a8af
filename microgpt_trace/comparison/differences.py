"""What a comparison found, as plain data: an event's difference, where two runs part, how they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.logits import kl_divergence, log_softmax
from ..arrays.stats import Array, median
from ..hooks.event import EventSpec
from ..notebook import in_notebook
from ..rounding.bands import BandMeasure, Tolerance
from ..rounding.judging import Unseen
from ..rounding.row_differences import RowDifferences
from ..text.brief import frozen, one_line
from ..text.json_writing import in_document
from .compared_runs import Unpaired

GIVEN = "given its own inputs"


@frozen
class EventDifference:
    """How far two runs lie apart in one event.

    `relative` is |a - b| / max(|a|, |b|) of the row that is worst for its band, or what is left of it
    without the elements that `measured` names, or the distance that it names; `tolerance` is its band.
    `median` is the median row's, `cosine` the smallest of all rows that are finite. `alike` of the `count`
    elements are not finite and the same on both sides: nothing can be said of these, and a row or an event
    without others has NaN for its distance. `max_abs` is the largest |a - b|, at `max_index`. `position`,
    `head`, `index`, `a` and `b` tell the first row beyond its band, or the worst, and its element farthest
    apart; where `measured` says "given its own inputs", `b` is what the recording has and `a` what follows
    from these. Of statistics alone there is neither median nor cosine nor place.
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
    measured: str  # "", "in length", "without the bias", "given its own inputs", "max of the statistics"
    positions: tuple[int, ...]  # those that were compared
    by_position: tuple[float, ...]  # the worst row of each of them
    count: int
    alike: int

    @property
    def told(self) -> bool:
        """Whether it has an element to compare."""
        return self.alike < self.count

    @property
    def excess(self) -> float:
        """How far it lies in its band, or beyond: 1 at its edge, -1 where nothing was compared."""
        if not self.told:
            return -1.0
        if self.tolerance > 0:
            return self.relative / self.tolerance
        return math.inf if self.relative > 0 else 0.0


@frozen
class Jump:
    """The event at which the distance grew most, over the largest before it or its own band."""

    name: str
    ratio: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two runs' predictions agree. KL is sum p_a log(p_a / p_b), in nats, by position, over those
    where both have probabilities, and NaN where none has.

    `unknown` are the positions where one of the two has no most probable token, being NaN somewhere.
    """

    positions: int
    unknown: int
    same_argmax: int
    mean_kl: float
    max_kl: float
    max_kl_position: int
    first_other: int | None  # the first position with another most probable token


@frozen
class SideSummary:
    """One of the two sides."""

    origin: str
    kind: str
    notes: tuple[str, ...]
    unpaired: tuple[Unpaired, ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two runs compared event by event, in order of computation.

    `first` is the first event beyond its band, `since` the last one before it that was compared and
    holds, `between` those in between, and `missed` how many before it, that were not. `left_out` are the
    events of the pass (of either recording, where there is no model) that were not compared at all.
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
    of_statistics: bool  # one side has nothing else: no value was compared
    hint: str = ""  # what else to ask for
    unseen: Unseen | None = None  # of a recording in a precision that was named

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"a": self.a.origin, "b": self.b.origin, "same": self.same, "first": self.first}
        return one_line(self, **about, events=len(self.events))

    @property
    @in_document
    def agree(self) -> bool:
        """Every event that was compared lies within its band."""
        return self.first is None

    @property
    @in_document
    def same(self) -> bool:
        """They agree, and nothing of the pass was left out."""
        return self.agree and self.complete

    @property
    def complete(self) -> bool:
        """Every value of every event of the pass was compared."""
        return not (self.left_out or self.in_part or self.of_statistics)

    @property
    def in_part(self) -> tuple[EventDifference, ...]:
        """The events of which some positions, or elements that are not finite, could not be compared."""
        return tuple(event for event in self.events if event.alike or self.rows_of(event) < self.length)

    @property
    def length(self) -> int:
        """How many positions the pass has."""
        return len(self.tokens or ())

    def rows_of(self, event: EventDifference) -> int:
        """At how many positions an event was compared; one number is that of all."""
        return event.shape[-2] if len(event.shape) > 1 else self.length

    def event(self, name: str) -> EventDifference:
        return next(event for event in self.events if event.name == name)

    @property
    def worst(self) -> EventDifference:
        """The event that lies farthest from its band."""
        return max(self.events, key=lambda event: event.excess)


def difference(
    spec: EventSpec, shape: tuple[int, ...], rows: RowDifferences, measures: Sequence[BandMeasure],
    positions: Sequence[int], atol: float, statistic: str = "",
) -> EventDifference:  # fmt: skip
    """The difference of an event from its rows [n], or [H * n], at these positions (none of one number, or of
    a `statistic`); of several measures that counts which a row lies farthest in, or beyond, its band by."""
    plain, strict = rows.relative(), rows.strict()
    by = np.argmax([_share(measure.found, measure.band) for measure in measures], axis=0)
    found = np.choose(by, [measure.found for measure in measures])
    bands = np.choose(by, [measure.band for measure in measures])
    told = rows.told
    finite = told & (rows.odd < 0)
    beyond = ~(found <= bands)
    if atol:
        beyond &= rows.largest > atol
    count = max(1, len(positions))
    worst = int(_share(found, bands).argmax())
    row = _first(beyond, count) if beyond.any() else worst
    grid = np.where(told, strict, np.nan).reshape(-1, count)
    left_out = _what_was_left_out(rows, worst, float(plain[worst]), float(strict[worst]))
    measured = measures[by[worst]].words or left_out
    largest = int(rows.largest.argmax())
    return EventDifference(
        name=spec.name,
        stage=spec.stage,
        layer=spec.layer,
        expr=spec.expr,
        shape=shape,
        relative=float(found[worst]) if told.any() else math.nan,
        median=None if statistic or not finite.any() else median(plain[finite]),
        cosine=None if statistic or not finite.any() else float(rows.cosine[finite].min()),
        max_abs=float(rows.largest[largest]),
        max_index=_index(largest, int(rows.column[largest]), shape, positions),
        tolerance=float(bands[worst]),
        holds=not beyond.any(),
        position=positions[row % count] if positions else None,
        head=row // count if len(shape) == 3 and positions else None,
        index=_index(row, int(rows.column[row]), shape, positions),
        a=float(rows.of_a[row]),
        b=float(rows.of_b[row]),
        measured=statistic or measured,
        positions=tuple(positions),
        by_position=tuple(np.fmax.reduce(grid).tolist()) if positions else (),
        count=int(rows.count.sum()),
        alike=int(rows.alike.sum()),
    )


def _share(found: Array, bands: Array) -> Array:
    """How much of its band each row takes."""
    return np.divide(found, bands, out=np.where(found > 0, np.inf, 0.0), where=bands > 0)


def _first(beyond: Array, count: int) -> int:
    """The row beyond its band at the smallest position: the diverging one causes the later ones."""
    grid = beyond.reshape(-1, count)
    position = int(grid.any(axis=0).argmax())
    return int(grid[:, position].argmax()) * count + position


def _index(row: int, column: int, shape: tuple[int, ...], positions: Sequence[int]) -> tuple[int, ...]:
    """Where an element stands in the whole tensor; of one number, and of statistics, nowhere."""
    if not positions:
        return ()
    head, position = divmod(row, len(positions))
    return (head, positions[position], column) if len(shape) == 3 else (positions[position], column)


def _what_was_left_out(rows: RowDifferences, row: int, plain: float, strict: float) -> str:
    if not strict > plain * 1.0001 or np.isinf(strict):
        return ""
    unbiased = rows.d[row] / rows.plain_a[row] if rows.plain_a[row] > 0 else 0.0
    return "without the bias" if unbiased > 0.999 * strict else "without outlying elements"


def jump_of(events: Sequence[EventDifference]) -> Jump | None:
    """Where the distance grew most, if it grew beyond a band anywhere."""
    found, before = None, 0.0
    for event in (event for event in events if event.told):
        base = max(before, event.tolerance)
        ratio = event.relative / base if base > 0 else float("inf") * (event.relative > 0) or 0.0
        if ratio > 1 and (found is None or ratio > found.ratio):
            found = Jump(event.name, ratio, before, event.relative)
        before = max(before, event.relative)
    return found


class Agreeing:
    """Takes logits of both runs, rows at a time, and tells how the predictions agree."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array, Array]] = []  # KL, where both predict, where they do the same
        self._positions: list[int] = []

    def add(self, a: Array, b: Array, positions: Sequence[int]) -> None:
        """Logits [n, V] of both."""
        with np.errstate(all="ignore"):
            kl = kl_divergence(log_softmax(a), log_softmax(b))
        known = np.asarray(~(np.isnan(a) | np.isnan(b)).any(axis=1))
        self._parts.append((kl, known, known & (a.argmax(axis=1) == b.argmax(axis=1))))
        self._positions += positions

    def result(self) -> Agreement | None:
        if not self._positions:
            return None
        kl, known, same = map(np.concatenate, zip(*self._parts, strict=True))
        kl = np.maximum(kl, 0.0)  # NaN stays
        other, found = known & ~same, ~np.isnan(kl)
        worst = int(np.where(found, kl, -1.0).argmax())
        return Agreement(
            len(same), int((~known).sum()), int(same.sum()),
            float(kl[found].mean()) if found.any() else math.nan, float(kl[worst]), self._positions[worst],
            self._positions[int(other.argmax())] if other.any() else None,
        )  # fmt: skip
