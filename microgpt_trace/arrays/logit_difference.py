"""Two tokens whose logits are told apart at one position. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from ..text.brief import one_line
from .logits import best_tokens
from .stats import Array


@dataclass(frozen=True, slots=True, repr=False)
class LogitDifference:
    """How much more a position says `target` than `against`: the difference of their logits."""

    position: int
    seen: str  # the token or text at that position
    target: int
    target_label: str
    against: int
    against_label: str

    __repr__ = one_line

    def difference(self, logits: Array) -> float:
        """logit(target) - logit(against): [V] -> a number"""
        return float(logits[self.target]) - float(logits[self.against])


def runner_up(logits: Array, token: int) -> int:
    """The most probable token of [V] other than this one."""
    best = best_tokens(logits, 2)
    return best[1] if best[0] == token else best[0]
