"""Collect the predictions of a run, and narrow a Trace to a part of its events and arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..arrays.logits import best_tokens, rank_of, used_losses
from ..arrays.stats import Array, TensorStats
from ..hooks.event import PHASES, Phase
from ..measuring.norm_meter import NormRows
from ..models.language_model import LanguageModel, TraceInput
from ..plans.plan import Plan
from ..selection.parts import events_named
from .result import LayerRow, Prediction, Trace, candidate_of


class TracedRun(NamedTuple):
    """The parts of a run that predicates judge. `norms` describes the rows of the norms. `losses` are the
    losses at the predicted positions, and `probs` [N, V] the probabilities after all hooks. `layers` is empty
    if the layers were not measured."""

    model: LanguageModel
    inputs: TraceInput
    stats: Mapping[str, TensorStats]  # of the forward events
    norms: NormRows
    losses: Sequence[float]
    probs: Array
    layers: Sequence[LayerRow]

    @property
    def plan(self) -> Plan:
        return self.model.plan

    @property
    def streams(self) -> Sequence[str]:
        """The residual stream after each layer."""
        return self.plan.streams[1:]

    @property
    def is_whole(self) -> bool:
        """True if the end of the text is known, so that every position has a target."""
        return None not in self.inputs.targets


def kept_events(
    model: LanguageModel, names: bool | Sequence[str], inputs: TraceInput, rows: Sequence[int]
) -> list[str]:
    """Return the events whose arrays are kept. A name may select a part of an event. `rows` are the positions
    with logits. Raises InputError if a name matches no event or part."""
    if not names or names is True:
        return []
    return events_named(model, names, len(inputs.tokens), rows)


def predictions_of(
    model: LanguageModel, inputs: TraceInput, positions: Sequence[int], logits: Array, probs: Array,
    replaced: bool, top_k: int,
) -> Iterator[Prediction]:  # fmt: skip
    """Yield the prediction at each position. `logits` and `probs` [N, V] have one row per position, after all
    hooks. Losses and ranks are computed from the logits, because small probabilities round to 0. If a hook
    replaced the probabilities (`replaced`), losses and ranks are computed from the probabilities."""
    targets = [inputs.targets[position] for position in positions]
    losses = used_losses([0 if target is None else target for target in targets], logits, probs, replaced)
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        ranked, row = (probs if replaced else logits)[i], probs[i]
        finite = math.isfinite(float(row.sum()))
        best = [candidate_of(model, row, t, True) for t in (best_tokens(ranked, top_k) if finite else ())]
        yield Prediction(
            position=position,
            seen=model.seen(inputs, position),
            target=None if target is None else candidate_of(model, row, target, True),
            predicted=best[0] if best else None,
            rank=rank_of(ranked, target) if best and target is not None else None,
            loss=None if target is None else float(losses[i]),
            top=tuple(best),
        )


def narrowed(
    trace: Trace, names: Collection[str], kept: Collection[str], phases: Collection[Phase] = PHASES
) -> Trace:
    """Return a trace with only the events in `names` and `phases`, and only the arrays in `kept`."""
    events = [e for e in trace.events if e.name in names and e.phase in phases]
    steps = [
        replace(step, events=tuple(e for e in step.events if e.name in names)) for step in trace.generation
    ]
    intervened = trace.intervened
    if intervened is not None:
        changes = tuple(change for change in intervened.changes if change.name in names)
        intervened = replace(intervened, changes=changes)
    rows = [row for row in trace.parameters if row.name in names and "backward" in phases]
    if "update" not in phases:
        rows = [replace(row, update_l2=None, update_nonfinite=0) for row in rows]
    arrays = {key: array for key, array in trace.arrays.items() if key[0] in phases and key[1] in kept}
    more = (
        replace(own, events=tuple(e for e in own.events if e.name in names)) for own in trace.more_gradients
    )
    return replace(
        trace, events=tuple(events), generation=tuple(steps), intervened=intervened, parameters=tuple(rows),
        step=trace.step if "update" in phases else None, arrays=arrays, more_gradients=tuple(more),
    )  # fmt: skip
