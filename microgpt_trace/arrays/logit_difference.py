"""Two tokens whose logits are told apart at one position. Knows no model."""

from __future__ import annotations

from ..text.brief import frozen
from .logits import best_tokens
from .stats import Array


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
