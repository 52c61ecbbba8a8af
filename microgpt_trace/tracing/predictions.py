"""Predictions as a Trace shows them, from rows of logits. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ..arrays.logits import best_tokens, rank_of, used_losses
from ..arrays.stats import Array
from .result import Candidate, Prediction

Label = Callable[[int], str]


def predictions_of(
    positions: Sequence[int], seen: Sequence[str], targets: Sequence[int | None], logits: Array, probs: Array,
    replaced: bool, label: Label, top_k: int,
) -> Iterator[Prediction]:  # fmt: skip
    """The prediction of each row of logits and probs [N, V] as used, which a hook may have replaced.

    Losses and order come from the logits, which tell apart what vanishes as a probability, unless the
    probabilities were `replaced` and the logits no longer count.
    """
    losses = used_losses([0 if target is None else target for target in targets], logits, probs, replaced)
    ranked = probs if replaced else logits
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        loss = None if target is None else float(losses[i])
        yield prediction_of(position, seen[i], ranked[i], probs[i], target, loss, label, top_k)


def prediction_of(
    position: int, seen: str, ranked: Array, probs: Array, target: int | None, loss: float | None,
    label: Label, top_k: int,
) -> Prediction:  # fmt: skip
    """The prediction of one row: `ranked` [V] orders the tokens, `probs` [V] gives their P."""

    def candidate(token: int) -> Candidate:
        return Candidate(token, label(token), float(probs[token]))

    finite = math.isfinite(float(probs.sum()))
    best = [candidate(token) for token in best_tokens(ranked, top_k)] if finite else []
    return Prediction(
        position=position,
        seen=seen,
        target=None if target is None else candidate(target),
        predicted=best[0] if best else None,
        rank=rank_of(ranked, target) if best and target is not None else None,
        loss=loss,
        top=tuple(best),
    )
