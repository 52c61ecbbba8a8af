"""Predictions as a Trace shows them, from rows of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..architecture.model import LanguageModel, TraceInput
from ..arrays.logits import best_tokens, rank_of, used_losses
from ..arrays.stats import Array
from .result import Candidate, Prediction


def predictions_of(
    model: LanguageModel, inputs: TraceInput, positions: Sequence[int], logits: Array, probs: Array,
    replaced: bool, top_k: int,
) -> Iterator[Prediction]:  # fmt: skip
    """The prediction of each position, by its row of logits and probs [N, V] as used, which a hook may have
    replaced.

    Losses and order come from the logits, which tell apart what vanishes as a probability, unless the
    probabilities were `replaced` and the logits no longer count.
    """
    targets = [inputs.targets[position] for position in positions]
    losses = used_losses([0 if target is None else target for target in targets], logits, probs, replaced)
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        ranked, row = (probs if replaced else logits)[i], probs[i]

        def candidate(token: int, row: Array = row) -> Candidate:
            return Candidate(token, model.label(token, target=True), float(row[token]))

        finite = math.isfinite(float(row.sum()))
        best = [candidate(token) for token in best_tokens(ranked, top_k)] if finite else []
        yield Prediction(
            position=position,
            seen=model.seen(inputs, position),
            target=None if target is None else candidate(target),
            predicted=best[0] if best else None,
            rank=rank_of(ranked, target) if best and target is not None else None,
            loss=None if target is None else float(losses[i]),
            top=tuple(best),
        )
