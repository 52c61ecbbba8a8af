"""The insights of a trace: predicates about a run, each with a sentence. A predicate is evaluated if the plan
and the input have what the predicate needs: norms with a gain, ReLU, a target at every position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .collector import TracedRun
from .findings import Insight, Outcome, unknown


class Predicate(NamedTuple):
    """A predicate: `about` returns the event that shows the insight, and `needs` whether it is evaluated."""

    id: str
    title: str
    evaluate: Callable[[TracedRun], Outcome]
    about: Callable[[TracedRun], str] | None = None
    needs: Callable[[TracedRun], bool] = lambda run: True


def insights_of(predicates: Sequence[Predicate], seen: TracedRun) -> Iterator[Insight]:
    """Evaluate every predicate that the plan and the input allow."""
    reason, of = _not_measurable(seen), seen.norms.of
    for predicate in predicates:
        if predicate.needs(seen):
            measures = predicate.about is not None
            outcome = unknown(reason) if reason and measures else predicate.evaluate(seen)
            about = predicate.about(seen) if predicate.about else ""
            name = predicate.id.format(of.partition(" ")[0].lower())
            yield Insight(name, predicate.title.format(of), *outcome, about)


def _not_measurable(seen: TracedRun) -> str:
    """Return why the measurements cannot be judged, or an empty text."""
    layers, norms = seen.layers, seen.norms
    counts = [row.nan_count + row.inf_count for row in layers]
    if any(counts or [stats.nonfinite_count for stats in seen.stats.values()]):
        return "the run contains values that are not finite"
    figures = [v for row in layers for v in (row.row_norm, row.turn, row.peak)]
    figures += [*norms.off.values()] * bool(layers)
    zero = "a row of the residual stream is zero, or too large to be squared"
    return "" if all(map(math.isfinite, figures)) else zero


def first_of(kind: type) -> Callable[[TracedRun], str]:
    """Return a function that names the first event of a kind."""
    return lambda run: run.plan.of_kind(kind)[0].name
