"""Trying: every hypothesis about a wrong operation is held against the dump. Knows none by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial as bind
from typing import Any

import numpy as np

from ..architecture.plans.plan import Plan
from ..arrays.stats import Array
from ..rounding.evaluation import Evaluation
from ..rounding.judging import Judge, JudgedRows
from ..text.brief import frozen
from .evidence import ALL_ALIKE
from .fitting import NUMBERED, ODD, PLAIN, Family, Named, Range, best_of, in_words, named, range_of
from .hypothesis import Case, Generator, Hypothesis, Transform

AT_MOST = 0.5  # of the error is left by a hypothesis worth naming
CLEARLY = 0.5  # of the tolerance is left by one that lets nothing else be looked for
NOWHERE = (KeyError, ValueError, IndexError)  # the mistake cannot be made here


@frozen(slots=False, eq=False)
class Outcome:
    """What is left of the error under a hypothesis.

    Of one that explains `evidence` are the rows that follow and their tolerances; `range` are the numbers
    that fit, of a `family`.
    """

    hypothesis: Hypothesis
    residual: float
    evidence: tuple[Array, Array] | None = None
    clearly: bool = False
    family: Family | None = None
    range: Range | None = None

    @property
    def explains(self) -> bool:
        return self.evidence is not None


def try_all(case: Case, stages: Sequence[Sequence[Generator]]) -> tuple[list[Outcome], list[str]]:
    """The outcomes of one stage after the other until one explains clearly, and the ids of what was tried."""
    outcomes, tried = list[Outcome](), list[str]()
    for number, stage in enumerate(stages):
        for proposal in proposed(case, stage):
            tried += proposal.ids if isinstance(proposal, Family) else [proposal.id]
            outcome = _fitted(case, proposal) if isinstance(proposal, Family) else judged(case, proposal)
            if outcome is not None:
                outcomes.append(outcome)
        described = len(stages) - 1  # what only describes the values is for those that nothing explains
        if any(o.clearly or (o.explains and number + 1 == described) for o in outcomes):
            break
    return outcomes, list(dict.fromkeys(tried))


def proposed(case: Case, stage: Sequence[Generator]) -> Iterator[Hypothesis | Family]:
    for generator in stage:
        with np.errstate(all="ignore"):
            yield from generator(case)


def judged(case: Case, hypothesis: Hypothesis) -> Outcome:
    """What a hypothesis leaves, and whether all rows are within their tolerances."""
    change, judge, most = hypothesis.change, case.judge, AT_MOST * case.largest
    with np.errstate(all="ignore"):
        expected = _expected(case, change)
        if isinstance(change, Plan):
            judge, of_noisy = Judge(judge.plain.under(change), _Under(change, case)), None
        else:
            of_noisy = bind(change, case)
        rows = judge.rows(case.name, case.found, expected, case.positions, of_noisy, most, ALL_ALIKE)
    residual, holds = residual_of(rows, hypothesis.of_no_number, case.measured)
    # A small row beside a large one errs by more than all of itself.
    if not holds or residual > AT_MOST * min(case.error, 1.0):
        return Outcome(hypothesis, residual)
    clearly = not bool((rows.errors / rows.tolerances > CLEARLY).any())
    evidence = case.seen.rows_of(expected), case.seen.of_rows(rows.tolerances)
    return Outcome(hypothesis, residual, evidence, clearly)


def _fitted(case: Case, family: Family) -> Outcome | None:
    """What a family leaves at its best number; None where it has none."""
    best = best_of(family, bind(_rows_at, case, family), case.seen, case.seen.rows_of(case.expected))
    if best is None:
        return None
    outcome = judged(case, at_number(family, Named(family.id, best, family.claim(in_words(best)))))
    if outcome.evidence is None:
        return outcome
    ways = [family, *([replace(family, at=family.coarse)] if family.coarse else [])]
    predicts = [bind(_rows_at, case, way) for way in ways]
    known = range_of(family, predicts, case.seen, best, outcome.evidence[1])
    if any(known.low <= number <= known.high for number in family.not_here):
        return None
    return called(case, family, known)


def called(case: Case, family: Family, known: Range) -> Outcome:
    """The outcome of a family under the name that its numbers have."""
    outcome = judged(case, at_number(family, named(family, known)))
    return replace(outcome, family=family, range=known)


def elsewhere(case: Case, outcome: Outcome) -> Outcome | None:
    """What the hypothesis of another operation's outcome leaves here, with the number that is best here."""
    try:
        if outcome.family is None or outcome.hypothesis.value is None:
            return judged(case, outcome.hypothesis)
        return _fitted(case, replace(outcome.family, starts=(outcome.hypothesis.value,)))
    except NOWHERE:
        return None


def at_number(family: Family, name: Named) -> Hypothesis:
    """The hypothesis that a family is at a number."""
    few_digits = name.value == float(f"{name.value:.2e}") and abs(name.value) >= 1e-3 * family.unit
    rank = family.rank if few_digits or name.value in family.usual else max(family.rank, ODD)
    rank = PLAIN if name.value in family.special and family.rank == NUMBERED else rank
    return Hypothesis(name.id, name.claim, family.at(name.value), rank, name.value)


def _rows_at(case: Case, family: Family, value: float) -> Array | None:
    """What follows at a number of the family; None where it cannot be or is not finite."""
    try:
        with np.errstate(all="ignore"):
            follows = _expected(case, family.at(value))
    except NOWHERE:
        return None
    if (np.isfinite(case.expected) & ~np.isfinite(follows)).any():
        return None
    return case.seen.rows_of(follows)


def _expected(case: Case, change: Plan | Transform) -> Array:
    """What follows for the operation with a mistake."""
    if isinstance(change, Plan):
        return case.judge.plain.under(change).output(case.name, case.positions)
    return change(case, case.expected)


class _Under(Sequence[Evaluation]):
    """The noisy evaluations by another plan, made where they are asked for."""

    def __init__(self, plan: Plan, case: Case) -> None:
        self._plan, self._case = plan, case

    def __len__(self) -> int:
        return len(self._case.judge.noisy)

    def __getitem__(self, index: Any) -> Any:
        noisy = self._case.judge.noisy[index]
        noisy.output(self._case.name, self._case.positions)  # what does not change is worked out once
        return noisy.under(self._plan)


def residual_of(rows: JudgedRows, of_no_number: bool, measured: str = "") -> tuple[float, bool]:
    """The residual of the worst row, or what is left of the factor where that was wrong, and whether all
    hold; infinite where most rows cannot be judged, unless that is what is claimed of them."""
    unknown = np.isnan(rows.errors)
    if of_no_number and unknown.all():
        return 0.0, True
    if not of_no_number and 2 * np.count_nonzero(unknown) > len(unknown):
        return math.inf, False
    return abs(rows.factor) if measured and rows.holds else rows.error, rows.holds
