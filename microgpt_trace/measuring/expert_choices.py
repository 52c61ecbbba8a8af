"""The experts that the positions of a text choose in a layer, as plain data. A trace without experts loads no
more than this module."""

from __future__ import annotations

import math

import numpy as np

from ..arrays.stats import Array
from ..text.frozen import frozen
from ..text.json_writing import in_document


@frozen
class ClosestChoice:
    """The position that chose its experts by the smallest margin. The margin is the logit of the last chosen
    expert minus the logit of the best `other` expert, which was not chosen."""

    position: int
    chosen: int
    other: int
    margin: float


@frozen
class ExpertChoices:
    """The experts that the positions of a text choose in a layer. The event `event` has their numbers.

    Each position chooses `count` experts. For each expert, `load` has the number of positions that chose this
    expert. `median_margin` is the median of the margins of all positions. `tied_in_bf16` counts the positions
    whose margin is 0 after the logits are rounded to bfloat16. If a position chooses all experts, there is no
    margin, and the last three fields are None.
    """

    layer: int
    event: str
    positions: int
    count: int
    load: tuple[int, ...]
    median_margin: float | None
    closest: ClosestChoice | None
    tied_in_bf16: int | None

    @property
    @in_document
    def used(self) -> int:
        """The number of experts that at least one position chose."""
        return sum(load > 0 for load in self.load)

    @property
    @in_document
    def load_entropy(self) -> float:
        """The entropy in bits of the experts' shares of all choices."""
        return float(entropy(np.array(self.load) / sum(self.load)))

    @property
    @in_document
    def most_entropy(self) -> float:
        """The entropy in bits of equal shares of all experts, or of as many experts as there are choices."""
        return math.log2(min(len(self.load), self.positions * self.count))


def entropy(shares: Array) -> Array:
    """Return the entropy of each row in bits: [..., E] -> [...]"""
    return 0.0 - (shares * np.log2(np.maximum(shares, np.finfo(np.float64).tiny))).sum(axis=-1)
