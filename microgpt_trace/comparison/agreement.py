"""How the predictions of two runs agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arrays.logits import compared_predictions
from ..arrays.stats import Array
from ..text.frozen import frozen


@frozen
class Agreement:
    """The agreement of the predictions of two runs.

    The KL divergence of a position is sum p_a log(p_a / p_b), in nats. `mean_kl` and `max_kl` cover the
    positions where both sides have probabilities, and are NaN if there are no such positions. `unknown`
    counts the positions where a side predicts no token, because a logit is NaN.
    """

    positions: int
    unknown: int
    same_argmax: int
    mean_kl: float
    max_kl: float
    max_kl_position: int
    first_other: int | None  # the first position where the most likely tokens differ


class AgreementMeter:
    """Measures how the predictions of two runs agree, a few rows of logits at a time."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array, Array]] = []  # KL; known predictions; equal predictions
        self._positions: list[int] = []

    def add(self, a: Array, b: Array, positions: Sequence[int]) -> None:
        """Add the logits of both runs at these positions. `a` and `b` are [n, V]."""
        with np.errstate(all="ignore"):
            kl, top = compared_predictions(a, b)
        known = np.asarray(~(np.isnan(a) | np.isnan(b)).any(axis=1))
        self._parts.append((kl, known, known & (top[:, 0] == top[:, 1])))
        self._positions += positions

    def result(self) -> Agreement | None:
        if not self._positions:
            return None
        kl, known, same = map(np.concatenate, zip(*self._parts, strict=True))
        other, measured = known & ~same, ~np.isnan(kl)
        worst = int(np.where(measured, kl, -1.0).argmax())
        mean = float(kl[measured].mean()) if measured.any() else math.nan
        return Agreement(
            len(same), int((~known).sum()), int(same.sum()), mean, float(kl[worst]), self._positions[worst],
            self._positions[int(other.argmax())] if other.any() else None,
        )  # fmt: skip
