"""What a row of logits predicts: the best tokens, a target's rank, its loss. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .ops import losses_of
from .stats import Array
from .traces import Candidate, Prediction

Label = Callable[[int], str]
PART = 1 << 21  # logits worked out at a time: 8 MB


def best_tokens(row: Array, k: int) -> list[int]:
    """The ids of the k largest values of [V], the largest first; ties go by id."""
    k = min(k, row.size)
    least = np.partition(row, row.size - k)[row.size - k]
    among = np.flatnonzero(row >= least)
    return among[np.argsort(-row[among], kind="stable")][:k].tolist()


def rank_of(row: Array, token: int) -> int:
    """1 for the largest value of [V]; ties go by id."""
    return 1 + int(np.count_nonzero(row > row[token]) + np.count_nonzero(row[:token] == row[token]))


def softmax(logits: Array) -> Array:
    """[N, V] -> [N, V]"""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(logits: Array) -> Array:
    """In float64: [N, V] -> [N, V]"""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def kl_divergence(log_p: Array, log_q: Array) -> Array:
    """sum p log(p / q) of every row, in nats: [..., V], [..., V] -> [...]. NaN stays, and 0 log 0 is 0."""
    p = np.exp(log_p)
    return np.where(p == 0, 0.0, p * (log_p - log_q)).sum(axis=-1)


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


@np.errstate(divide="ignore", invalid="ignore")  # of a P that a hook made 0 or less
def used_losses(targets: Sequence[int], logits: Array, probs: Array, replaced: bool) -> Array:
    """-log P(target) of every row of logits [N, V], or of probs [N, V] where these were `replaced`."""
    return -np.log(probs[range(len(targets)), targets]) if replaced else losses_of(logits, targets)


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
