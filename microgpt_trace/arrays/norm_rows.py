"""What a norm made of every row: how far from what it should give it is, and how much eps takes.

Knows no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .stats import Array


@dataclass
class NormRows:
    """The norms of a run, measured as their values pass.

    `off` is by norm the largest deviation of a row's RMS, its gain divided out, from what RMSNorm gives:
    with x the row that went in, mean((y / g)^2) = mean(x^2) / (mean(x^2) + eps). That is 1 less what eps
    takes; `least` is by norm the smallest of it. A norm whose gain is all zero is not among them. `centred`
    says that they subtract the mean and add a bias: what is measured has neither.
    """

    eps: float
    off: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0  # norms of which some channels have none
    centred: bool = False

    @property
    def of(self) -> str:
        """The norm's name."""
        return "LayerNorm" if self.centred else "RMSNorm"

    @property
    def undone(self) -> str:
        """What is undone before rows are measured, in words."""
        return "bias subtracted and the gain divided out" if self.centred else "gain divided out"

    def measure(self, name: str, stream: Array, value: Array, gain: Array | None = None) -> None:
        """Take what goes into a norm and what comes out, [T, C] each."""
        mean = np.square(stream).mean(axis=1)
        used = slice(None) if gain is None or gain.all() else gain != 0
        if isinstance(used, np.ndarray):  # nothing can be divided out of channels without gain
            self.without_gain += 1
            if not used.any():
                return
        part = value[:, used] if gain is None else value[:, used] / gain[used]
        found = np.sqrt(np.square(part).mean(axis=1))
        expected = np.sqrt(np.square(stream[:, used]).mean(axis=1) / (mean + self.eps))
        self.off[name] = float(np.abs(found - expected).max(initial=0.0))
        self.least[name] = float(np.sqrt(mean / (mean + self.eps)).min(initial=math.inf))
