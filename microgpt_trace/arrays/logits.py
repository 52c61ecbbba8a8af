"""Functions of logits: the most likely tokens, ranks, losses, KL and differences of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..text.frozen import frozen
from .stats import Array

PART = 1 << 21  # number of logits to compute at a time: 8 MB
GROUPS = 512  # the number of groups of values whose maxima are compared first
HELD = 8  # number of parts to compute with one product, because each product unpacks the matrix


def rows_of_a_part(vocab_size: int, together: int = 1, most: int | None = None) -> int:
    """Return how many rows of logits to compute at a time, with at most `most` logits (default:
    PART). If `together` is set, return the number of groups of `together` rows."""
    return max(1, (PART if most is None else most) // (vocab_size * max(1, together)))


def rows_held(vocab_size: int) -> int:
    """Return how many rows of logits to compute with one product: 64 MB."""
    return HELD * rows_of_a_part(vocab_size)


def in_products(count: int, vocab_size: int) -> Iterator[slice]:
    """Yield slices of `count` rows of logits to compute with one product each."""
    return in_parts(count, vocab_size, HELD * PART)


def in_small_parts(count: int, vocab_size: int) -> Iterator[slice]:
    """Yield slices of half a part, for work on logits that makes copies in float64."""
    return in_parts(count, 2 * vocab_size)


def in_parts(count: int, vocab_size: int, most: int | None = None) -> Iterator[slice]:
    """Yield slices of `count` rows. A slice has at most `most` logits, but at least one row."""
    size = rows_of_a_part(vocab_size, most=most)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def best_tokens(row: Array, k: int) -> list[int]:
    """Return the ids of the k largest values of `row` [V], the largest first. Ties are ordered by id."""
    k = min(k, row.size)
    # k groups have maxima that are at least their kth largest: 40 us for 49,152 values instead of 300.
    maxima = row[: row.size // GROUPS * GROUPS].reshape(-1, GROUPS).max(axis=0, initial=-np.inf)
    values = maxima if k <= GROUPS <= row.size else row
    ids = np.flatnonzero(row >= np.partition(values, len(values) - k)[len(values) - k])
    return ids[np.argsort(-row[ids], kind="stable")][:k].tolist()


def rank_of(row: Array, token: int) -> int:
    """Return the rank of a token by its value in `row` [V]. The largest value has rank 1. Ties are ranked by
    id."""
    return 1 + int(np.count_nonzero(row > row[token]) + np.count_nonzero(row[:token] == row[token]))


def softmax(logits: Array) -> Array:
    """Return the probabilities of logits: [..., V] -> [..., V]"""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(logits: Array) -> Array:
    """Return log P in float64: [N, V] -> [N, V]"""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def kl_divergence(log_p: Array, log_q: Array) -> Array:
    """Return sum p log(p / q) of each row, in nats: [..., V], [..., V] -> [...] 0 log 0 counts as 0. If an
    input is NaN, the result is NaN."""
    p = np.exp(log_p)
    return np.where(p == 0, 0.0, p * (log_p - log_q)).sum(axis=-1)


def divergences(a: Array, b: Array) -> Array:
    """Return KL(a || b) of each row of logits in nats: [n, V], [n, V'] -> [n]

    Tokens that only b has count as probability 0 in a. Tokens that only a has, such as rows that fill up the
    matrix, are left out of a. If a logit is NaN, the result is NaN.
    """
    size = min(a.shape[1], b.shape[1])
    return np.maximum(kl_divergence(log_softmax(a[:, :size]), log_softmax(b)[:, :size]), 0)


def compared_predictions(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the divergences of two models' predictions, and the most likely tokens of both, from their
    logits: [n, V], [n, V'] -> [n], [n, 2]"""
    return divergences(a, b), np.stack([a.argmax(axis=1), b.argmax(axis=1)], axis=1)


@np.errstate(over="ignore", invalid="ignore")  # logits may be NaN or infinite
def losses_of(logits: Array, targets: npt.ArrayLike) -> Array:
    """Return -log P(target) of every row in float64, even if P underflows: [N, V], [N] -> [N]"""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), np.asarray(targets)]


@np.errstate(divide="ignore", invalid="ignore")  # a hook may have replaced P by 0 or less
def used_losses(targets: Sequence[int], logits: Array, probs: Array, replaced: bool) -> Array:
    """Return -log P(target) of every row of logits [N, V], or of probs [N, V] if a hook `replaced` probs."""
    return -np.log(probs[range(len(targets)), targets]) if replaced else losses_of(logits, targets)


@frozen
class LogitDifference:
    """The difference of the logits of two tokens, `target` and `against`, at one position."""

    position: int
    seen: str  # the token at the position, or the text up to the position
    target: int
    target_label: str
    against: int
    against_label: str

    def difference(self, logits: Array) -> float:
        """Return logit(target) - logit(against): [V] -> a number"""
        return float(logits[self.target]) - float(logits[self.against])


def runner_up(logits: Array, token: int) -> int:
    """Return the most likely token besides `token`, by logits [V]."""
    best = best_tokens(logits, 2)
    return best[1] if best[0] == token else best[0]
