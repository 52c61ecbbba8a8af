"""Test all hypotheses about a wrong operation, and choose the hypotheses that the values of the dump support.

The list of hypotheses is in faults/. Callers must turn NumPy's warnings off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from itertools import chain

import numpy as np

from ..arrays.stats import Array
from ..plans.event_words import words_of
from ..plans.plan import Plan
from ..rounding.evaluation import Evaluation
from ..rounding.judging import Judge, JudgedRows
from ..text.frozen import frozen
from .case import Case, Generator, Transform
from .evidence import ALL_ALIKE, best_of, common, range_of
from .hypothesis import NUMBERED, PLAIN, Family, Hypothesis, Range, named

AT_MOST = 0.5  # a reported hypothesis leaves at most this share of the error unexplained
CLEARLY = 0.5  # the search ends if the remaining error is at most this share of the tolerance
INAPPLICABLE = (KeyError, ValueError, IndexError)  # raised if a mistake is impossible in a model
FEW = 8  # maximum number of other wrong operations that are examined in detail
NEAREST = 3  # number of reported hypotheses if no hypothesis explains the error

Stages = Sequence[Sequence[Generator]]
Others = Mapping[str, Callable[[], Case]]


@frozen(slots=False)
class Finding:
    """A hypothesis about an operation, or a fact about the tokens.

    `residual` is the error that the hypothesis does not explain: the relative L2 of the worst row.
    `also_explains` lists the other wrong operations that this mistake explains. `cannot_be_told_from` lists
    other claims that fit this operation equally well. If the mistake contains a number, `value` is this
    number, and all numbers from `low` to `high` fit equally well.
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
    """The result of testing a hypothesis. `residual` is the error that the hypothesis does not explain.
    `evidence` contains the predicted rows and their tolerances, or is None if the hypothesis does not explain
    the error. `range` is the range of the family's numbers that fit."""

    hypothesis: Hypothesis
    residual: float
    evidence: tuple[Array, Array] | None = None
    clearly: bool = False
    family: Family | None = None
    range: Range | None = None

    @property
    def explains(self) -> bool:
        return self.evidence is not None


# --- Test hypotheses --------------------------------------------------------------------------------


def try_all(case: Case, stages: Stages) -> tuple[list[Outcome], list[str]]:
    """Test the hypotheses stage by stage until a hypothesis clearly explains the error. Return the outcomes,
    and the ids of all tested hypotheses."""
    outcomes, tried = list[Outcome](), list[str]()
    enough = len(stages) - 1  # the last stage only describes wrong values
    for number, stage in enumerate(stages, 1):
        for proposal in chain.from_iterable(generator(case) for generator in stage):
            tried += proposal.ids if isinstance(proposal, Family) else [proposal.id]
            outcome = _fit(case, proposal) if isinstance(proposal, Family) else assess(case, proposal)
            outcomes += [outcome] if outcome else []
        if any(o.clearly or (o.explains and number == enough) for o in outcomes):
            break
    return outcomes, list(dict.fromkeys(tried))


def assess(case: Case, hypothesis: Hypothesis) -> Outcome:
    """Test a hypothesis. The outcome contains evidence if the hypothesis explains the error."""
    change, judge = hypothesis.change, case.judge

    def noisy(draw: Evaluation) -> Array:  # unchanged values are not computed again
        return _predict(case, change, draw, draw.output(case.name, case.positions))

    expected = _predict(case, change, judge.plain, case.expected)
    judge = Judge(judge.plain.under(change), judge.draws) if isinstance(change, Plan) else judge
    most = AT_MOST * case.largest
    rows = judge.rows(case.name, case.found, expected, case.positions, noisy, most, ALL_ALIKE)
    residual, holds = residual_of(rows, hypothesis.of_no_number, case.measured)
    # `case.error` exceeds 1 if the dump's row is much larger than the expected row.
    if not holds or residual > AT_MOST * min(case.error, 1.0):
        return Outcome(hypothesis, residual)
    clearly = not bool((rows.errors / rows.tolerances > CLEARLY).any())
    evidence = case.seen.rows_of(expected), case.seen.of_rows(rows.tolerances)
    return Outcome(hypothesis, residual, evidence, clearly)


def _fit(case: Case, family: Family) -> Outcome | None:
    """Return the outcome of a family at the number that fits best, or None if no number fits."""
    predicts = [bind(_rows_at, case, at) for at in (family.at, family.coarse) if at]
    best = best_of(family, predicts[0], case.seen, case.seen.rows_of(case.expected))
    if best is None:
        return None
    outcome = assess(case, family.hypothesis(best))
    if outcome.evidence is None:
        return outcome
    range = range_of(family, predicts, case.seen, best, outcome.evidence[1])
    silent = (*family.silent, *([] if family.own is None else [family.own]))
    return None if any(range.low <= own <= range.high for own in silent) else _in_range(case, family, range)


def _in_range(case: Case, family: Family, range: Range) -> Outcome:
    """Return the outcome of a family for a range of numbers, with the claim for this range."""
    return replace(assess(case, named(family, range)), family=family, range=range)


def elsewhere(case: Case, hypothesis: Hypothesis, family: Family | None = None) -> Outcome | None:
    """Test if a hypothesis that was formed for another operation also explains this case. For a `family`, fit
    the number to this case. Return None if the mistake is impossible in this case."""
    try:
        if family is None or hypothesis.value is None:
            return assess(case, hypothesis)
        return _fit(case, replace(family, starts=(hypothesis.value,)))
    except INAPPLICABLE:
        return None


def _rows_at(case: Case, at: Callable[[float], Plan | Transform], value: float) -> Array | None:
    """Return the rows that a family predicts for a number. Return None if the mistake is impossible or a
    predicted row is not finite."""
    try:
        predicted = _predict(case, at(value), case.judge.plain, case.expected)
    except INAPPLICABLE:
        return None
    unknown = np.isfinite(case.expected) & ~np.isfinite(predicted)
    return None if unknown.any() else case.seen.rows_of(predicted)


def _predict(case: Case, change: Plan | Transform, evaluation: Evaluation, right: Array) -> Array:
    """Return the values of the operation with the mistake. `right` contains the values without a mistake."""
    if isinstance(change, Plan):
        predicted = evaluation.under(change).output(case.name, case.positions)
    else:
        predicted = change(case, right)
    return predicted if case.part is None else np.where(case.part, predicted, right)


def residual_of(rows: JudgedRows, of_no_number: bool, measured: str = "") -> tuple[float, bool]:
    """Return the error of the worst row, and True if all rows are within their tolerance. If only the common
    factor of the rows was wrong, return the error of this factor. If most rows cannot be judged, the error is
    infinite. If the hypothesis predicts rows that are not finite, rows that cannot be judged do not count."""
    unknown = np.isnan(rows.errors)
    if of_no_number and unknown.all():
        return 0.0, True
    if not of_no_number and 2 * np.count_nonzero(unknown) > len(unknown):
        return math.inf, False
    of_factor = [abs(own.value) for own in rows.factors if own.measured == measured and rows.holds]
    return next(iter(of_factor), rows.error), rows.holds


# --- Choose among the outcomes ----------------------------------------------------------------------


def findings_of(case: Case, outcomes: Sequence[Outcome], others: Others, stages: Stages) -> list[Finding]:
    """Return the hypotheses that explain the error and that no other hypothesis beats. If no hypothesis
    explains the error, return the nearest hypotheses that leave at most half of the error. `others` contains
    the other wrong operations, which one of the hypotheses may also explain. Hypotheses are sorted by the
    number of explained operations, and then by simplicity."""
    best = unbeaten(case, [outcome for outcome in outcomes if outcome.explains])
    if not best:
        near = [o for o in outcomes if o.residual <= AT_MOST * min(case.error, 1.0)]
        return [_finding(case, o) for o in sorted(near, key=lambda o: o.residual)[:NEAREST]]
    best = unbeaten(case, _narrow(case, best, others))
    also = _also_explained([o.hypothesis for o in best], others, stages)
    findings = [_finding(case, o, tuple(own)) for o, own in zip(best, also, strict=True)]
    findings.sort(key=lambda finding: -len(finding.also_explains))
    claims = [finding.claim for finding in findings]
    return [replace(f, cannot_be_told_from=tuple(c for c in claims if c != f.claim)) for f in findings]


def unbeaten(case: Case, explaining: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that no other outcome beats, sorted by simplicity and then by error. Omit combined
    and descriptive hypotheses if a simpler hypothesis also fits. Hypotheses that copy the dump's values do
    not compete with others, because the copied values fit even better than a right cause."""
    explaining = [o for o in explaining if not o.hypothesis.copies] or explaining
    remaining = _not_beaten(case, explaining) or sorted(explaining, key=lambda o: o.residual)[:1]
    simplest = min((o.hypothesis.rank for o in remaining), default=PLAIN)
    by_claim: dict[str, Outcome] = {}
    for outcome in sorted(remaining, key=lambda o: (o.hypothesis.rank, o.residual)):
        if outcome.hypothesis.rank <= max(simplest, NUMBERED):
            by_claim.setdefault(outcome.hypothesis.claim, outcome)
    return list(by_claim.values())


def _not_beaten(case: Case, outcomes: Collection[Outcome]) -> list[Outcome]:
    prefers = case.seen.prefers

    def beats(one: Outcome, other: Outcome) -> bool:
        assert one.evidence is not None
        assert other.evidence is not None
        (first, of_first), (second, of_second) = one.evidence, other.evidence
        return prefers(first, second, of_first) and not prefers(second, first, of_second)

    return [o for o in outcomes if not any(beats(other, o) for other in outcomes if other is not o)]


def _narrow(case: Case, best: Sequence[Outcome], others: Others) -> list[Outcome]:
    """Remove hypotheses that later wrong operations exclude, and narrow the ranges of numbers."""
    family, range = best[0].family, best[0].range
    if len(best) == 1 and (family is None or range is None or family.is_narrow(range)):
        return list(best)
    ranges = {i: [o.range] for i, o in enumerate(best)}
    remaining = dict(enumerate(best))
    for open_case in list(others.values())[:FEW]:
        other = open_case()
        outcomes = {i: elsewhere(other, o.hypothesis, o.family) for i, o in remaining.items()}
        explaining = {i: outcome for i, outcome in outcomes.items() if outcome and outcome.explains}
        kept = {id(outcome) for outcome in _not_beaten(other, explaining.values())}
        for i, outcome in explaining.items():
            ranges[i].append(outcome.range)
            if kept and id(outcome) not in kept:
                del remaining[i]
    return [_in_common_range(case, outcome, ranges[i]) for i, outcome in remaining.items()]


def _in_common_range(case: Case, outcome: Outcome, ranges: Sequence[Range | None]) -> Outcome:
    """Return the outcome for the range of numbers that fits all operations, if there is such a range."""
    range = common([own for own in ranges if own is not None])
    if outcome.family is None or range is None:
        return outcome
    narrowed = _in_range(case, outcome.family, range)
    return narrowed if narrowed.explains else outcome


def _also_explained(explaining: Sequence[Hypothesis], others: Others, stages: Stages) -> list[list[str]]:
    """Return for each hypothesis the names of the other operations that the hypothesis explains. A hypothesis
    with an equal id also counts: the hypothesis "the gain is missing" names another gain in each norm."""
    explained: list[list[str]] = [[] for _ in explaining]
    stages = stages[: 2 if len(others) <= FEW else 1]  # the second stage reads many weights
    for name, open_case in others.items():
        case = open_case()
        for names, hypothesis in zip(explained, explaining, strict=True):
            alike = chain([hypothesis], _alike(case, hypothesis, stages))
            outcomes = (elsewhere(case, like) for like in alike)
            names += [name] if any(outcome and outcome.explains for outcome in outcomes) else []
    return explained


def _alike(case: Case, hypothesis: Hypothesis, stages: Stages) -> Iterator[Hypothesis]:
    """Yield the hypotheses about the operation of `case` with the id and number of `hypothesis`."""
    try:
        for proposal in chain.from_iterable(generator(case) for stage in stages for generator in stage):
            if isinstance(proposal, Family):
                if hypothesis.value is not None and hypothesis.id in proposal.ids:
                    yield proposal.hypothesis(hypothesis.value)
            elif proposal.id == hypothesis.id:
                yield proposal
    except INAPPLICABLE:
        return


def _finding(case: Case, outcome: Outcome, also: tuple[str, ...] = ()) -> Finding:
    hypothesis, range = outcome.hypothesis, outcome.range
    claim = f"{words_of(case.name)}{case.where}: {hypothesis.claim}"
    numbers = (hypothesis.value, range.low, range.high) if range else (hypothesis.value,)
    return Finding(case.name, hypothesis.id, claim, outcome.residual, outcome.explains, also, (), *numbers)
