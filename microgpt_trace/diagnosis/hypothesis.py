"""Hypotheses: mistakes in an engine, and families of mistakes with a number. faults/ lists the mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple

from ..text.frozen import frozen

TIGHT = 0.01  # a range of at most 1 % below and above a number is not written in the claim
DIGITS = range(1, 10)  # numbers of significant digits to try in a claim
PLAIN, NUMBERED, ODD, COMBINED, DESCRIBED = range(5)  # ranks of explanations, from the simplest


@frozen(slots=False, eq=False)
class Hypothesis:
    """A mistake. `change` is the plan of an engine with this mistake, or a function. The function computes
    the wrong values from a Case and the right values.

    `claim` continues a sentence such as "layer 0, q after RoPE: ". `rank` is PLAIN for a simple mistake,
    COMBINED for two mistakes at once, and DESCRIBED for a hypothesis that only describes the values. For a
    mistake with a number (`value`) that is measured from the dump, `rank` is NUMBERED, or ODD if nobody would
    choose this number. If `of_no_number` is True, the hypothesis predicts values that are not finite, and
    rows that cannot be judged do not refute the hypothesis. If `copies` is True, the hypothesis copies wrong
    values from the dump, so that it fits these values exactly and tells no cause.
    """

    id: str
    claim: str
    change: Any
    rank: int = PLAIN
    value: float | None = None
    of_no_number: bool = False
    copies: bool = False


class Range(NamedTuple):
    """The best number, and the range of numbers that fit equally well."""

    low: float
    best: float
    high: float


@frozen(slots=False, eq=False)
class Family:
    """A mistake that contains a number, such as a wrong eps. The search for the number begins at `starts` and
    `special`, and stays between `low` and `high`.

    - `at(number)` returns the `change` of the Hypothesis. `coarse(number)` returns the `change` for an engine
      that rounds the values computed from the number. `claim(words)` returns the claim for a number in words.
    - `own` is the model's number, which is not a mistake. The numbers in `silent` are not reported, because
      other hypotheses cover these numbers.
    - `usual` lists numbers that people choose. `special` maps numbers to a separate id and claim.
    - The search changes the logarithm of the number plus `pivot`, or the number itself if `pivot` is None.
      The precision of a number is relative to the larger of the number and `unit`.
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
        """Convert a number to the scale of the search: a logarithm, or the number if `pivot` is None."""
        if self.pivot is None or math.isinf(value):
            return value
        return math.log(value + self.pivot) if value + self.pivot > 0 else -math.inf

    def value(self, step: float) -> float:
        """Invert `step`: return the number between `low` and `high` at a place on the scale of the search."""
        value = step if self.pivot is None else math.exp(min(step, 700.0)) - self.pivot
        return min(max(value, self.low), self.high)

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.id, *(id for id, _ in self.special.values()))

    def is_narrow(self, range: Range) -> bool:
        """Return True if the range is so narrow that a claim states only one number."""
        size = max(abs(range.best), self.unit)
        return range.high - range.low <= 2 * TIGHT * size and range.low != self.low

    def hypothesis(self, value: float, id: str | None = None, claim: str | None = None) -> Hypothesis:
        """Return the hypothesis for a number. The family provides the defaults of `id` and `claim`."""
        few_digits = value == float(f"{value:.2e}") and abs(value) >= 1e-3 * self.unit
        rank = self.rank if few_digits or value in self.usual else max(self.rank, ODD)
        rank = PLAIN if value in self.special and self.rank == NUMBERED else rank
        claim = self.claim(in_words(value)) if claim is None else claim
        return Hypothesis(id or self.id, claim, self.at(value), rank, value)


def multiplied(id: str, at: Callable[[float], Any], words: str, *predicates: str, **options: Any) -> Family:
    """Return the family of mistakes that multiply a summand by a number. A claim consists of `words`, which
    name the summand, and a predicate. The four `predicates` are for any number, for 0, for 2 and for -1."""
    scaled, *of_special = (f"{words} {predicate}" for predicate in predicates)
    ids = (f"{id}-{how}" for how in ("missing", "twice", "negated"))
    special = dict(zip((0.0, 2.0, -1.0), zip(ids, of_special, strict=True), strict=True))
    return Family(
        f"{id}-scaled", at, scaled.format, own=1.0, special=special,
        low=-math.inf, pivot=None, unit=1.0, **options,
    )  # fmt: skip


def named(family: Family, range: Range) -> Hypothesis:
    """Return the hypothesis for a range of numbers. The claim states the special number in the range, or else
    the usual numbers in the range, or else the number with the fewest digits."""
    special, usual = (_inside(family, range, values) for values in (family.special, family.usual))
    rounded = (float(f"{range.best:.{digits - 1}e}") for digits in DIGITS)
    shortest = next((value for value in rounded if range.low <= value <= range.high), range.best)
    value = next(iter((*special, *usual)), shortest)
    around = "" if family.is_narrow(range) else f" ({_ends(family, range)})"
    if special:
        id, claim = family.special[value]
        around = around.replace(" fit", f" in place of {in_words(value)} fit")
        return family.hypothesis(value, id, claim + around)
    several = len(usual) > 1 and around
    words = " or ".join(map(in_words, sorted(usual[:4]))) if several else in_words(value)
    return family.hypothesis(value, claim=family.claim(words) + around)


def _inside(family: Family, range: Range, values: Iterable[float]) -> list[float]:
    """Return the values in the range, sorted by their distance from the best number."""
    best = family.step(range.best)
    inside = [value for value in values if range.low <= value <= range.high]
    return sorted(inside, key=lambda value: abs(family.step(value) - best) if value != range.best else -1.0)


def _ends(family: Family, range: Range) -> str:
    """Describe the range, such as "numbers from 420,000 to 610,000 fit equally well"."""
    low, high = (in_words(float(f"{end:.3g}")) for end in (range.low, range.high))
    if range.high == family.high:
        return f"numbers from {low} up fit equally well"
    if range.low == family.low:
        return f"numbers up to {high} fit equally well"
    return f"numbers from {low} to {high} fit equally well"


def in_words(value: float) -> str:
    """Write a number in a claim, such as "500,000" or "1e-06"."""
    return f"{value:,.6g}"
