"""Fitting: the number of a mistake that leaves least of a dump's error, and which others fit as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array
from .evidence import Seen

STEP = 1e-4  # between two predictions whose difference is a slope
STEPS, HALVINGS = 24, 6
SETTLED = 1e-10  # of the errors' squares: no step gains more
PROMISING, HOPEFUL, SLOW = 0.8, 0.25, 0.05  # of the errors' squares are left: nothing comes of it
WIDENINGS, NARROWINGS = 48, 9  # steps on the way out of what fits as well, and back to its edge
TIGHT = 0.01  # a number known within 1 % is said without "about"
DIGITS = range(1, 10)
PLAIN, NUMBERED, ODD, COMBINED, DESCRIBED = range(5)  # how plain an explanation is

Predict = Callable[[float], "Array | None"]  # rows that would follow; None where nothing does


class Range(NamedTuple):
    """The best number, and those around it that fit as well."""

    low: float
    best: float
    high: float


@dataclass(frozen=True, eq=False)
class Family:
    """A mistake that has a number, looked for between `low` and `high`, from `starts` and `special` ones on.

    `at` gives a plan or a transform (as of a Hypothesis), `claim` the claim from the number in words.
    `coarse` gives the same where the engine has what it computes of the number with few digits.
    `own` is the model's number, at which nothing is wrong; at those in `silent` it is what another
    hypothesis says. `usual` are numbers that people choose, `special` those with an id and a claim of
    their own. Steps are relative to the number plus `pivot`; None: absolute. A number is told within a
    share of itself, or of `unit` where that is larger.
    """

    id: str
    at: Callable[[float], Any]
    claim: Callable[[str], str]
    coarse: Callable[[float], Any] | None = None
    own: float | None = None
    starts: Sequence[float] = ()
    usual: Sequence[float] = ()
    special: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    low: float = 0.0
    high: float = math.inf
    pivot: float | None = 0.0
    unit: float = 0.0
    silent: Sequence[float] = ()
    rank: int = NUMBERED

    def step(self, value: float) -> float:
        """The number on the scale on which steps are equal."""
        if self.pivot is None or math.isinf(value):
            return value
        return math.log(value + self.pivot) if value + self.pivot > 0 else -math.inf

    def value(self, step: float) -> float:
        """The way back, within the bounds."""
        value = step if self.pivot is None else math.exp(min(step, 700.0)) - self.pivot
        return min(max(value, self.low), self.high)

    @property
    def ids(self) -> tuple[str, ...]:
        """What it may be called, by its number."""
        return (self.id, *(id for id, _ in self.special.values()))

    @property
    def not_here(self) -> tuple[float, ...]:
        """Numbers at which this is no mistake, or another."""
        return tuple(self.silent) if self.own is None else (self.own, *self.silent)

    def tells(self, known: Range) -> bool:
        """Whether the numbers of the range are as good as one."""
        size = max(abs(known.best), self.unit)
        return known.high - known.low <= 2 * TIGHT * size and known.low != self.low


def best_of(family: Family, predict: Predict, seen: Seen, right: Array) -> float | None:
    """The number that leaves least, from the best start (or the model's own number, of which follows what
    is `right`) on by least squares along the slope; None where none leaves clearly less than that."""
    tried = {value: predict(value) for value in dict.fromkeys((*family.starts, *family.special))}
    known = {value: rows for value, rows in tried.items() if rows is not None}
    if family.own is not None and math.isfinite(family.own):
        known[family.own] = right
    if not known:
        return None
    value = min(known, key=lambda v: seen.left(known[v]))
    rows, left, most = known[value], seen.left(known[value]), seen.left(right)
    for _ in range(STEPS):
        slope = _slope(family, predict, value, rows)
        if slope is None:
            break
        weighed = slope / seen.sizes
        by = float((weighed * (seen.found - rows) / seen.sizes).sum() / np.square(weighed).sum())
        moved = _moved(family, predict, seen, (value, left), by)
        if moved is None:
            break
        gain = left - moved[2]
        value, rows, left = moved
        if left > PROMISING * most or gain <= (SETTLED if left < HOPEFUL * most else SLOW) * left:
            break
    return value if left < PROMISING * most else None


def _slope(family: Family, predict: Predict, value: float, rows: Array) -> Array | None:
    """How the rows change with the number's step, from the side that lies within the bounds."""
    at = family.step(value)
    if not math.isfinite(at):  # where there is no step: from a number next to it
        return None
    size = STEP * (max(1.0, abs(at)) if family.pivot is None else 1.0)
    for by in (size, -size):
        other = family.value(at + by)
        moved = predict(other) if other != value else None
        if moved is not None:
            slope = (moved - rows) / (family.step(other) - at)
            return slope if slope.any() and np.isfinite(slope).all() else None
    return None


def _moved(
    family: Family, predict: Predict, seen: Seen, start: tuple[float, float], by: float
) -> tuple[float, Array, float] | None:
    """The number after a step, or after a part of it, that leaves less; None where none does."""
    value, left = start
    for _ in range(HALVINGS):
        other = family.value(family.step(value) + by)
        rows = predict(other) if other != value else None
        if rows is not None and seen.left(rows) < left:
            return other, rows, seen.left(rows)
        by /= 4
    return None


def range_of(
    family: Family, predicts: Sequence[Predict], seen: Seen, best: float, tolerances: Array
) -> Range:
    """The numbers on both sides of the best that the values do not speak against, of one way at least in
    which they may be computed; the best is that of the first."""
    rows = predicts[0](best)
    assert rows is not None

    def fits(value: float) -> bool:
        others = (predict(value) for predict in predicts)
        return any(o is not None and not seen.speaks_for(rows, o, tolerances) for o in others)

    return Range(_edge(family, best, fits, -1), best, _edge(family, best, fits, 1))


def _edge(family: Family, best: float, fits: Callable[[float], bool], side: int) -> float:
    """How far numbers fit on one side: steps that double until one does not, then halves of the last."""
    bound = family.high if side > 0 else family.low
    if best == bound:
        return best
    start = family.step(best)
    inner, outer = 0.0, 1e-9 * (max(1.0, abs(start)) if family.pivot is None else 1.0)
    for _ in range(WIDENINGS):
        value = family.value(start + side * outer)
        if not fits(value):
            break
        if value == bound or not math.isfinite(family.step(value)):
            return bound
        inner, outer = outer, 2 * outer
    else:
        return bound
    for _ in range(NARROWINGS):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if fits(family.value(start + side * middle)) else (inner, middle)
    return family.value(start + side * outer)


def common(ranges: Sequence[Range]) -> Range | None:
    """The numbers that fit everywhere; None where there is none."""
    if not ranges:
        return None
    low, high = max(r.low for r in ranges), min(r.high for r in ranges)
    best = ranges[0].best
    return Range(low, min(max(best, low), high), high) if low <= high else None


class Named(NamedTuple):
    """A number as it is called: `value` is the roundest that fits as well as any."""

    id: str
    value: float
    claim: str = ""


def named(family: Family, known: Range) -> Named:
    """What the range is called: by a special number in it, by the usual ones, or by the roundest."""
    special, usual = (_inside(family, known, values) for values in (family.special, family.usual))
    value = special[0] if special else usual[0] if usual else next(_rounded(known), known.best)
    around = "" if family.tells(known) else f" ({_ends(family, known)})"
    if special:
        id, claim = family.special[value]
        return Named(id, value, claim + around.replace(" fit", f" in place of {in_words(value)} fit"))
    several = len(usual) > 1 and around
    words = " or ".join(map(in_words, sorted(usual[:4]))) if several else in_words(value)
    return Named(family.id, value, family.claim(words) + around)


def _inside(family: Family, known: Range, values: Iterable[float]) -> list[float]:
    """Those of the numbers that lie in the range, the nearest to the best first."""
    best = family.step(known.best)
    found = [value for value in values if known.low <= value <= known.high]
    return sorted(found, key=lambda value: abs(family.step(value) - best) if value != known.best else -1.0)


def _ends(family: Family, known: Range) -> str:
    """420,000 to 610,000 fit as well"""
    low, high = (in_words(float(f"{end:.3g}")) for end in (known.low, known.high))
    if known.high == family.high:
        return f"{low} and more fit as well"
    if known.low == family.low:
        return f"anything up to {high} fits as well"
    return f"{low} to {high} fit as well"


def _rounded(known: Range) -> Iterator[float]:
    """The best number with ever more digits, as far as that still fits."""
    for digits in DIGITS:
        value = float(f"{known.best:.{digits - 1}e}")
        if known.low <= value <= known.high:
            yield value


def in_words(value: float) -> str:
    """500,000 or 1e-06"""
    return f"{value:,.6g}"
