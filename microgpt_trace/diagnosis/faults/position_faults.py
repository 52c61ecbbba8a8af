"""Mistakes in numbers that depend only on positions: the factor of queries, and the slopes of ALiBi."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...plans.kinds import Alibi, PositionScale
from ...plans.plan import Plan
from ..case import Case
from ..hypothesis import Family, Hypothesis, multiplied
from .changes import with_attributes


def query_factors(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: queries have no factor, one that grows by another number, or other positions."""
    kind = case.kind(PositionScale)
    if kind is None:
        return
    first, other = kind.shift, int(not kind.shift)
    claim = f"the positions in the factor of q are counted from {other}, not from {first}"
    yield Hypothesis("query-positions", claim, with_attributes(case.plan, PositionScale, shift=other))
    claim = "q is not multiplied by the factor of its position"
    yield Family(
        "query-growth", lambda strength: with_attributes(case.plan, PositionScale, strength=strength),
        f"the factor of q grows by {{}} * ln(...), not by {kind.strength:g} * ln(...)".format,
        own=kind.strength, special={0.0: ("query-factor-missing", claim)}, pivot=None, low=-math.inf,
        unit=kind.strength,
    )  # fmt: skip


def slopes(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: the slopes of ALiBi are those of other heads, or multiplied by a number."""
    kind = case.kind(Alibi)
    if kind is None:
        return
    own, count = kind.slopes, len(kind.slopes)
    others = {
        "are in the reverse order of heads": own[::-1],
        "are in order of size, the largest first": tuple(sorted(own, reverse=True)),
        f"are 2^(-8 h / {count}) for every head": tuple(2 ** (-8 * (h + 1) / count) for h in range(count)),
    }
    for words, other in others.items():
        if other != own:
            yield Hypothesis("slopes", f"the slopes of ALiBi {words}", _sloped(case.plan, other))
    yield multiplied(
        "slopes", lambda by: _sloped(case.plan, tuple(by * slope for slope in own)), "the bias of ALiBi",
        "is multiplied by {}", "is missing", "is added twice", "is subtracted, not added",
        usual=(0.5, 0.25, 4.0),
    )  # fmt: skip


def _sloped(plan: Plan, slopes: tuple[float, ...]) -> Plan:
    return with_attributes(plan, Alibi, slopes=slopes)
