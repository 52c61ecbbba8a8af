"""Finding: of the hypotheses that explain an operation, those that the dump's values do not speak against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..architecture.plans.event_words import words_of
from .fitting import NUMBERED, PLAIN, Family, Named, Range, common
from .hypothesis import Case, Finding, Generator, Hypothesis
from .trying import AT_MOST, NOWHERE, Outcome, at_number, called, elsewhere, judged, proposed

FEW = 8  # operations
NEAREST = 3  # are named where none explains

Others = Mapping[str, Callable[[], Case]]


def findings_of(
    case: Case, outcomes: Sequence[Outcome], others: Others, stages: Sequence[Sequence[Generator]]
) -> list[Finding]:
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


def _not_beaten(case: Case, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if not any(_beats(case, other, o) for other in outcomes if other is not o)]


def _beats(case: Case, one: Outcome, other: Outcome) -> bool:
    assert one.evidence is not None
    assert other.evidence is not None
    (first, of_first), (second, of_second), speaks = one.evidence, other.evidence, case.seen.speaks_for
    return speaks(first, second, of_first) and not speaks(second, first, of_second)


def _narrowed(case: Case, best: Sequence[Outcome], others: Others) -> list[Outcome]:
    """What is left of the best, and of their numbers, where the next wrong operations speak too."""
    if len(best) == 1 and _exact(best[0]):
        return list(best)
    ranges = {i: [o.range] for i, o in enumerate(best)}
    left = dict(enumerate(best))
    for open_case in list(others.values())[:FEW]:
        other = open_case()
        there = {i: found for i, o in left.items() if (found := elsewhere(other, o)) and found.explains}
        kept = {id(outcome) for outcome in _not_beaten(other, list(there.values()))}
        for i, outcome in there.items():
            ranges[i].append(outcome.range)
            if kept and id(outcome) not in kept:
                del left[i]
    return [_at_all(case, outcome, ranges[i]) for i, outcome in left.items()]


def _exact(outcome: Outcome) -> bool:
    family, known = outcome.family, outcome.range
    return family is None or known is None or family.tells(known)


def _at_all(case: Case, outcome: Outcome, ranges: Sequence[Range | None]) -> Outcome:
    """The outcome at the numbers that fit all operations."""
    known = common([own for own in ranges if own is not None])
    if outcome.family is None or known is None:
        return outcome
    at_all = called(case, outcome.family, known)
    return at_all if at_all.explains else outcome


def _also_explained(
    explaining: Sequence[Hypothesis], others: Others, stages: Sequence[Sequence[Generator]]
) -> list[list[str]]:
    """For each hypothesis the other operations that it explains, or its like of the same id (a gain that
    is missing in every norm is another gain in each); each operation is read once."""
    found: list[list[str]] = [[] for _ in explaining]
    stages = stages[: 2 if len(others) <= FEW else 1]  # the second reads other layers' weights
    for name, open_case in others.items():
        case = open_case()
        for own, known in zip(found, explaining, strict=True):
            if _explains(case, known) or any(_explains(case, like) for like in _alike(case, known, stages)):
                own.append(name)
    return found


def _alike(case: Case, known: Hypothesis, stages: Sequence[Sequence[Generator]]) -> Iterator[Hypothesis]:
    """What is proposed for this operation under the same id, with the same number."""
    try:
        for stage in stages:
            for like in proposed(case, stage):
                if isinstance(like, Family):
                    if known.value is not None and known.id in like.ids:
                        yield at_number(like, Named(like.id, known.value))
                elif like.id == known.id:
                    yield like
    except NOWHERE:
        return


def _explains(case: Case, hypothesis: Hypothesis) -> bool:
    try:
        return judged(case, hypothesis).explains
    except NOWHERE:
        return False


def _finding(case: Case, outcome: Outcome, also: tuple[str, ...] = ()) -> Finding:
    known, fits = outcome.hypothesis, outcome.range
    claim = f"{words_of(case.name)}: {known.claim}"
    numbers = (known.value, fits.low, fits.high) if fits else (known.value,)
    return Finding(case.name, known.id, claim, outcome.residual, outcome.explains, also, (), *numbers)
