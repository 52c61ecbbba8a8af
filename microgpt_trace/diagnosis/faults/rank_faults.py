"""Mistakes of a tensor-parallel run: one rank computes its part wrongly, or is missing in a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...arrays.stats import Array
from ...dumps.ranks import split_and_summed
from ...plans.event_words import words_of
from ...plans.kinds import Linear
from ...plans.plan import kind_of
from ...rounding.judging import Judge
from ..case import Case, PassSchedule
from ..finding import Finding
from ..hypothesis import DESCRIBED, Hypothesis


def findings(schedule: PassSchedule) -> list[Finding]:
    """Return the first event, if any, that has different values on ranks, but should be equal on all."""
    odd = [(name, own.odd) for name, own in schedule.ranks.items() if own.odd][:1]
    claims = ((name, f"{words_of(name)}: {which}, but these should be equal") for name, which in odd)
    return [Finding(name, "ranks-differ", claim, 0.0, True) for name, claim in claims]


def of_rank(case: Case) -> Case:
    """Return the case of the only rank whose part of the event is wrong, or else the case itself."""
    ranks, cases = case.schedule.ranks.get(case.name), list[Case]()
    if ranks is None or case.positions is not None:
        return case
    if ranks.how == "joined":
        cases = [_columns(case, at, ranks.per) for at in range(0, len(ranks.parts), ranks.per)]
    elif ranks.how == "summed" and isinstance(case.row.kind, Linear):
        cases = [_summand(case, rank) for rank in range(len(ranks.parts))]
    wrong = [own for own in cases if not own.judge.rows(own.name, own.found, own.expected, None).holds]
    return wrong[0] if len(wrong) == 1 < len(cases) else case


def _summand(case: Case, rank: int) -> Case:
    """Return the case of a rank's part of a product. The bias may be in the part of any rank."""
    judge = _partial(case, rank)
    found, expected = case.schedule.part(case.name, rank), judge.plain.output(case.name)
    bias = 0.0 if case.row.bias is None else case.parameter(case.row.bias)
    found = min(found, found - bias, key=lambda own: float(np.linalg.norm(own - expected)))
    where = f", the part of rank {rank} (the parts of other ranks are right)"
    return replace(case, found=found, expected=expected, judge=judge, where=where)


def _partial(case: Case, rank: int) -> Judge:
    """Return a judge of a rank's part of a product: of some columns of the input and of the matrix. Raises
    ValueError for other operations."""
    if not isinstance(case.row.kind, Linear):
        raise ValueError(f"{case.name} is no product")
    width = case.given.shapes[case.row.inputs[0]][-1] // case.schedule.rank_count
    kind = replace(case.row.kind, columns=(rank * width, (rank + 1) * width))
    plan = case.plan.changed(lambda row: replace(row, kind=kind) if row.name == case.name else row)
    return Judge(case.judge.plain.under(plan), [draw.under(plan) for draw in case.judge.draws])


def _columns(case: Case, rank: int, per: int) -> Case:
    """Return the case of the columns or heads that a rank, or `per` ranks with copies, computed."""
    parts = case.schedule.rank_count // per
    axis, what = (0, "heads") if case.found.ndim == 3 else (case.found.ndim - 1, "columns")
    width = case.found.shape[axis] // parts
    first, part = rank // per * width, np.zeros(case.found.shape, bool)
    np.moveaxis(part, axis, 0)[first : first + width] = True
    which = f"rank {rank}" if per == 1 else f"ranks {rank} to {rank + per - 1}"
    where = f": all wrong {what} ({first} to {first + width - 1}) belong to {which}"
    return replace(case, found=np.where(part, case.found, case.expected), part=part, where=where)


def sums(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypotheses that the part of a rank is missing in a sum over ranks."""
    summed = case.schedule.ranks and not case.where and kind_of(case.name) in split_and_summed()[1]
    for rank in range(case.schedule.rank_count) if summed and isinstance(case.row.kind, Linear) else ():
        claim = f"the part of rank {rank} is missing in the sum over ranks"

        def change(own: Case, right: Array, rank: int = rank) -> Array:
            return right - _partial(own, rank).plain.output(own.name, own.positions)

        yield Hypothesis("rank-missing", claim, change)


def one_rank(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that only the part of one rank is wrong, in a way that is not known."""
    if case.where:
        claim = "the part does not follow from its inputs"
        yield Hypothesis("one-rank", claim, lambda own, e: own.found, rank=DESCRIBED, copies=True)
