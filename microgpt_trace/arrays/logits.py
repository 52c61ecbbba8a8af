"""What rows of logits say: the best tokens, a rank, losses, how far two rows or two tokens lie apart. Knows
no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..text.brief import frozen
from .stats import Array

PART = 1 << 21  # logits worked out at a time: 8 MB


def rows_of_a_part(vocab_size: int, together: int = 1, most: int | None = None) -> int:
    """How many rows of logits are worked out at a time, or groups of so many rows `together`: at most so many
    logits."""
    return max(1, (PART if most is None else most) // (vocab_size * max(1, together)))


def in_parts(count: int, vocab_size: int, most: int | None = None) -> Iterator[slice]:
    """So many rows whose logits are worked out one part after another, never all at once."""
    size = rows_of_a_part(vocab_size, most=most)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


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
    """[..., V] -> [..., V]"""
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


@np.errstate(over="ignore", invalid="ignore")  # logits may be NaN or infinite
def losses_of(logits: Array, targets: npt.ArrayLike) -> Array:
    """-log P(target) of every row, in float64 from the logits, exact where P itself vanishes:
    [N, V], [N] -> [N]"""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), np.asarray(targets)]


@np.errstate(divide="ignore", invalid="ignore")  # of a P that a hook made 0 or less
def used_losses(targets: Sequence[int], logits: Array, probs: Array, replaced: bool) -> Array:
    """-log P(target) of every row of logits [N, V], or of probs [N, V] where these were `replaced`."""
    return -np.log(probs[range(len(targets)), targets]) if replaced else losses_of(logits, targets)


@frozen
class LogitDifference:
    """How much more a position says `target` than `against`: the difference of their logits."""

    position: int
    seen: str  # the token or text at that position
    target: int
    target_label: str
    against: int
    against_label: str

    def difference(self, logits: Array) -> float:
        """logit(target) - logit(against): [V] -> a number"""
        return float(logits[self.target]) - float(logits[self.against])


def runner_up(logits: Array, token: int) -> int:
    """The most probable token of [V] other than this one."""
    best = best_tokens(logits, 2)
    return best[1] if best[0] == token else best[0]
