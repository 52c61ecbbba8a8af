"""Hypotheses: a mistake that an engine may have made, or a family of them that have a number; and what it is
called. Knows no mistake by itself; they are in faults/."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..text.brief import frozen

TIGHT = 0.01  # a number known within 1 % is said without "about"
DIGITS = range(1, 10)  # that a number is told with, the fewest that fit
PLAIN, NUMBERED, ODD, COMBINED, DESCRIBED = range(5)  # how plain an explanation is


@frozen(slots=False, eq=False)
class Hypothesis:
    """A mistake: the plan by which the engine would have computed, or what it did to the right value (a
    function of a Case and that value).

    `claim` goes on after "layer 0, q after RoPE: ". `rank` is PLAIN for one mistake, NUMBERED where it
    has a number (`value`) taken from the dump, ODD where that is none that people choose, COMBINED for two at
    a time, DESCRIBED for what only tells how the values differ. Of one that is `of_no_number` a row of which
    nothing finite follows is no objection.
    """

    id: str
    claim: str
    change: Any
    rank: int = PLAIN
    value: float | None = None
    of_no_number: bool = False


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

    def tells(self, known: Range) -> bool:
        """Whether the numbers of the range are as good as one."""
        size = max(abs(known.best), self.unit)
        return known.high - known.low <= 2 * TIGHT * size and known.low != self.low

    def hypothesis(self, value: float, id: str | None = None, claim: str | None = None) -> Hypothesis:
        """The mistake at a number, under its usual name or another."""
        few_digits = value == float(f"{value:.2e}") and abs(value) >= 1e-3 * self.unit
        rank = self.rank if few_digits or value in self.usual else max(self.rank, ODD)
        rank = PLAIN if value in self.special and self.rank == NUMBERED else rank
        claim = self.claim(in_words(value)) if claim is None else claim
        return Hypothesis(id or self.id, claim, self.at(value), rank, value)


def multiplied(id: str, at: Callable[[float], Any], words: str, *told: str, **options: Any) -> Family:
    """What is added is multiplied by a number: `words` name it, and what is told of it at any number, at 0, 2
    and -1 goes on after them."""
    scaled, *of_special = (f"{words} {said}" for said in told)
    ids = (f"{id}-{how}" for how in ("missing", "twice", "negated"))
    special = dict(zip((0.0, 2.0, -1.0), zip(ids, of_special, strict=True), strict=True))
    return Family(
        f"{id}-scaled", at, scaled.format, own=1.0, special=special,
        low=-math.inf, pivot=None, unit=1.0, **options,
    )  # fmt: skip


def named(family: Family, known: Range) -> Hypothesis:
    """The mistake at all numbers of the range, called by a special number in it, by the usual ones, or by the
    roundest."""
    special, usual = (_inside(family, known, values) for values in (family.special, family.usual))
    rounded = (float(f"{known.best:.{digits - 1}e}") for digits in DIGITS)
    round = next((value for value in rounded if known.low <= value <= known.high), known.best)
    value = next(iter((*special, *usual)), round)
    around = "" if family.tells(known) else f" ({_ends(family, known)})"
    if special:
        id, claim = family.special[value]
        return family.hypothesis(
            value, id, claim + around.replace(" fit", f" in place of {in_words(value)} fit")
        )
    several = len(usual) > 1 and around
    words = " or ".join(map(in_words, sorted(usual[:4]))) if several else in_words(value)
    return family.hypothesis(value, claim=family.claim(words) + around)


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


def in_words(value: float) -> str:
    """500,000 or 1e-06"""
    return f"{value:,.6g}"
