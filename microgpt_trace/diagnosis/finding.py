"""Finding: every hypothesis about a wrong operation is held against the dump; of those that explain it, those
that the dump's values do not speak against. Knows none by itself. NumPy's warnings are to be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from itertools import chain

import numpy as np

from ..architecture.plans.event_words import words_of
from ..architecture.plans.plan import Plan
from ..arrays.stats import Array
from ..rounding.evaluation import Evaluation
from ..rounding.judging import Judge, JudgedRows
from ..text.brief import frozen
from .case import Case, Generator, Transform
from .evidence import ALL_ALIKE, best_of, common, range_of
from .hypothesis import NUMBERED, PLAIN, Family, Hypothesis, Range, named

AT_MOST = 0.5  # of the error is left by a hypothesis worth naming
CLEARLY = 0.5  # of the tolerance is left by one that lets nothing else be looked for
NOWHERE = (KeyError, ValueError, IndexError)  # the mistake cannot be made here
FEW = 8  # operations
NEAREST = 3  # are named where none explains

Stages = Sequence[Sequence[Generator]]
Others = Mapping[str, Callable[[], Case]]


@frozen(slots=False)
class Finding:
    """A hypothesis about an operation that was tried, or a fact about the tokens.

    `residual` is the error that it leaves (relative L2 of the worst row), `also_explains` the other
    wrong operations that the same mistake explains, `cannot_be_told_from` the claims that fit this
    operation as well. `value` is the number of a mistake that has one, and all from `low` to `high` fit
    as well as it.
    """

    operation: str
    id: str
    claim: str
    residual: float
    explains: bool
    also_explains: tuple[str, ...] = ()
    cannot_be_told_from: tuple[str, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None


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


# --- Trying ---------------------------------------------------------------------------------------


def try_all(case: Case, stages: Stages) -> tuple[list[Outcome], list[str]]:
    """The outcomes of one stage after the other until one explains clearly, and the ids of what was tried."""
    outcomes, tried = list[Outcome](), list[str]()
    described = len(stages) - 1  # what only describes the values is for those that nothing explains
    for number, stage in enumerate(stages, 1):
        for proposal in proposed(case, stage):
            tried += proposal.ids if isinstance(proposal, Family) else [proposal.id]
            outcome = _fitted(case, proposal) if isinstance(proposal, Family) else judged(case, proposal)
            outcomes += [outcome] if outcome else []
        if any(o.clearly or (o.explains and number == described) for o in outcomes):
            break
    return outcomes, list(dict.fromkeys(tried))


def proposed(case: Case, stage: Sequence[Generator]) -> Iterator[Hypothesis | Family]:
    return chain.from_iterable(generator(case) for generator in stage)


def judged(case: Case, hypothesis: Hypothesis) -> Outcome:
    """What a hypothesis leaves, and whether all rows are within their tolerances."""
    change, judge = hypothesis.change, case.judge

    def noisy(draw: Evaluation) -> Array:  # what does not change is worked out once
        return _follows(case, change, draw, draw.output(case.name, case.positions))

    expected = _follows(case, change, judge.plain, case.expected)
    judge = Judge(judge.plain.under(change), judge.draws) if isinstance(change, Plan) else judge
    most = AT_MOST * case.largest
    rows = judge.rows(case.name, case.found, expected, case.positions, noisy, most, ALL_ALIKE)
    residual, holds = residual_of(rows, hypothesis.of_no_number, case.measured)
    # A small row beside a large one errs by more than all of itself.
    if not holds or residual > AT_MOST * min(case.error, 1.0):
        return Outcome(hypothesis, residual)
    clearly = not bool((rows.errors / rows.tolerances > CLEARLY).any())
    evidence = case.seen.rows_of(expected), case.seen.of_rows(rows.tolerances)
    return Outcome(hypothesis, residual, evidence, clearly)


def _fitted(case: Case, family: Family) -> Outcome | None:
    """What a family leaves at its best number; None where it has none."""
    predicts = [bind(_rows_at, case, at) for at in (family.at, family.coarse) if at]
    best = best_of(family, predicts[0], case.seen, case.seen.rows_of(case.expected))
    if best is None:
        return None
    outcome = judged(case, family.hypothesis(best))
    if outcome.evidence is None:
        return outcome
    known = range_of(family, predicts, case.seen, best, outcome.evidence[1])
    silent = (*family.silent, *([] if family.own is None else [family.own]))
    return None if any(known.low <= own <= known.high for own in silent) else _in_range(case, family, known)


def _in_range(case: Case, family: Family, known: Range) -> Outcome:
    """The outcome of a family under the name that its numbers have."""
    return replace(judged(case, named(family, known)), family=family, range=known)


def elsewhere(case: Case, hypothesis: Hypothesis, family: Family | None = None) -> Outcome | None:
    """What the hypothesis of another operation leaves here, of a family with the number that is best here;
    None where the mistake cannot be made."""
    try:
        if family is None or hypothesis.value is None:
            return judged(case, hypothesis)
        return _fitted(case, replace(family, starts=(hypothesis.value,)))
    except NOWHERE:
        return None


def _rows_at(case: Case, at: Callable[[float], Plan | Transform], value: float) -> Array | None:
    """What follows at a number of a family; None where it cannot be or is not finite."""
    try:
        follows = _follows(case, at(value), case.judge.plain, case.expected)
    except NOWHERE:
        return None
    unknown = np.isfinite(case.expected) & ~np.isfinite(follows)
    return None if unknown.any() else case.seen.rows_of(follows)


def _follows(case: Case, change: Plan | Transform, evaluation: Evaluation, right: Array) -> Array:
    """What follows for the operation with a mistake, where without it what is right does."""
    if isinstance(change, Plan):
        return evaluation.under(change).output(case.name, case.positions)
    return change(case, right)


def residual_of(rows: JudgedRows, of_no_number: bool, measured: str = "") -> tuple[float, bool]:
    """The residual of the worst row, or what is left of the factor where that was wrong, and whether all
    hold; infinite where most rows cannot be judged, unless that is what is claimed of them."""
    unknown = np.isnan(rows.errors)
    if of_no_number and unknown.all():
        return 0.0, True
    if not of_no_number and 2 * np.count_nonzero(unknown) > len(unknown):
        return math.inf, False
    return abs(rows.factor) if measured and rows.holds else rows.error, rows.holds


# --- Choosing -------------------------------------------------------------------------------------


def findings_of(case: Case, outcomes: Sequence[Outcome], others: Others, stages: Stages) -> list[Finding]:
    """The findings: those that explain and that no other explains better, first what explains most of the
    others too, then what is plainest; else the nearest, that leave at most half.

    `others` are the other wrong operations, which a mistake of the same kind may explain as well.
    """
    best = unbeaten(case, [outcome for outcome in outcomes if outcome.explains])
    if not best:
        near = [o for o in outcomes if o.residual <= AT_MOST * min(case.error, 1.0)]
        return [_finding(case, o) for o in sorted(near, key=lambda o: o.residual)[:NEAREST]]
    best = unbeaten(case, _narrowed(case, best, others))
    also = _also_explained([o.hypothesis for o in best], others, stages)
    findings = [_finding(case, o, tuple(own)) for o, own in zip(best, also, strict=True)]
    findings.sort(key=lambda finding: -len(finding.also_explains))
    claims = [finding.claim for finding in findings]
    return [replace(f, cannot_be_told_from=tuple(c for c in claims if c != f.claim)) for f in findings]


def unbeaten(case: Case, explaining: Sequence[Outcome]) -> list[Outcome]:
    """Those that the values do not speak against, in favour of another: the plainest first, then those that
    leave least. What is combined or described is left out where something plainer fits as well."""
    left = _not_beaten(case, explaining) or sorted(explaining, key=lambda o: o.residual)[:1]
    plainest = min((o.hypothesis.rank for o in left), default=PLAIN)
    by_claim: dict[str, Outcome] = {}
    for outcome in sorted(left, key=lambda o: (o.hypothesis.rank, o.residual)):
        if outcome.hypothesis.rank <= max(plainest, NUMBERED):
            by_claim.setdefault(outcome.hypothesis.claim, outcome)
    return list(by_claim.values())


def _not_beaten(case: Case, outcomes: Collection[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if not any(_beats(case, other, o) for other in outcomes if other is not o)]


def _beats(case: Case, one: Outcome, other: Outcome) -> bool:
    assert one.evidence is not None
    assert other.evidence is not None
    (first, of_first), (second, of_second), speaks = one.evidence, other.evidence, case.seen.speaks_for
    return speaks(first, second, of_first) and not speaks(second, first, of_second)


def _narrowed(case: Case, best: Sequence[Outcome], others: Others) -> list[Outcome]:
    """What is left of the best, and of their numbers, where the next wrong operations speak too."""
    family, known = best[0].family, best[0].range
    if len(best) == 1 and (family is None or known is None or family.tells(known)):
        return list(best)
    ranges = {i: [o.range] for i, o in enumerate(best)}
    left = dict(enumerate(best))
    for open_case in list(others.values())[:FEW]:
        other = open_case()
        found = {i: elsewhere(other, o.hypothesis, o.family) for i, o in left.items()}
        there = {i: outcome for i, outcome in found.items() if outcome and outcome.explains}
        kept = {id(outcome) for outcome in _not_beaten(other, there.values())}
        for i, outcome in there.items():
            ranges[i].append(outcome.range)
            if kept and id(outcome) not in kept:
                del left[i]
    return [_at_all(case, outcome, ranges[i]) for i, outcome in left.items()]


def _at_all(case: Case, outcome: Outcome, ranges: Sequence[Range | None]) -> Outcome:
    """The outcome at the numbers that fit all operations."""
    known = common([own for own in ranges if own is not None])
    if outcome.family is None or known is None:
        return outcome
    at_all = _in_range(case, outcome.family, known)
    return at_all if at_all.explains else outcome


def _also_explained(explaining: Sequence[Hypothesis], others: Others, stages: Stages) -> list[list[str]]:
    """For each hypothesis the other operations that it explains, or its like of the same id (a gain that
    is missing in every norm is another gain in each); each operation is read once."""
    found: list[list[str]] = [[] for _ in explaining]
    stages = stages[: 2 if len(others) <= FEW else 1]  # the second reads other layers' weights
    for name, open_case in others.items():
        case = open_case()
        for own, known in zip(found, explaining, strict=True):
            outcomes = (elsewhere(case, like) for like in chain([known], _alike(case, known, stages)))
            own += [name] if any(outcome and outcome.explains for outcome in outcomes) else []
    return found


def _alike(case: Case, known: Hypothesis, stages: Stages) -> Iterator[Hypothesis]:
    """What is proposed for this operation under the same id, with the same number."""
    try:
        for like in (proposal for stage in stages for proposal in proposed(case, stage)):
            if isinstance(like, Family):
                if known.value is not None and known.id in like.ids:
                    yield like.hypothesis(known.value)
            elif like.id == known.id:
                yield like
    except NOWHERE:
        return


def _finding(case: Case, outcome: Outcome, also: tuple[str, ...] = ()) -> Finding:
    known, fits = outcome.hypothesis, outcome.range
    claim = f"{words_of(case.name)}: {known.claim}"
    numbers = (known.value, fits.low, fits.high) if fits else (known.value,)
    return Finding(case.name, known.id, claim, outcome.residual, outcome.explains, also, (), *numbers)
