"""Integrals of gradient * d value along a path, with an error for each part. This module knows no model.

The path is cut into panels of STEPS steps. Simpson's rule integrates each panel twice, with all steps and
with half the steps. The error of a part is the sum over all panels of the distances between both results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..architecture.edits import Report
from ..arrays.stats import Array

STEPS = 4  # the number of steps of a panel
FIRST, MOST = 16, 768  # the smallest and the largest number of steps of a path
SMALLEST = 1e-6  # the smallest panel, as a share of its end
LEFT = 0.1  # share of the errors whose panels are not halved yet
TOLERANCE = 0.01  # allowed error of a part, as a share of the change
KNOWN = 1 << 28  # bytes of the values and gradients that are kept for smaller panels

Panel = tuple[float, float]  # the shares of the path at which the panel starts and ends
# a run at one point: the logit difference, and values and gradients by event; token embeddings come first
Point = tuple[float, Mapping[str, Array], Mapping[str, Array]]
Parts = Callable[[Mapping[str, Array]], Array]  # numbers by event [T, W] -> sums over the parts [P]


class Integral(NamedTuple):
    """The integrals of the parts, and their errors: [P] each. `total` is the sum over the tokens."""

    values: Array
    errors: Array
    total: float
    change: float  # of the logit difference
    steps: int = STEPS

    @property
    def largest(self) -> float:
        """The largest error of a part, or the distance of `total` from `change` if it is larger."""
        return float(np.max([*self.errors, abs(self.total - self.change)]))


def integrate(
    run: Callable[[list[float]], list[Point]], at_a_time: int, parts: Parts, report: Report
) -> tuple[Integral, bool]:
    """Integrate over the path, and return True if KeyboardInterrupt ended it after the first FIRST steps.

    `run` returns the points at some shares of the path, at most `at_a_time` shares. Panels are halved until
    the errors are small, or there are MOST steps.
    """
    known, panels, done, interrupted = dict[float, Point](), dict[Panel, Integral](), set[Panel](), False

    def over(*panels: Panel) -> dict[Panel, Integral]:
        shares = np.concatenate([np.linspace(a, b, STEPS + 1) for a, b in panels]).tolist()
        missing = [share for share in dict.fromkeys(shares) if share not in known]
        for first in range(0, len(missing), at_a_time):
            some = missing[first : first + at_a_time]
            known.update(zip(some, run(some), strict=True))
        points = [known[share] for share in shares]
        stored = sum(array.nbytes for numbers in points[0][1:] for array in numbers.values())
        for share in [*known][: -max(1, KNOWN // stored)]:
            del known[share]
        size = STEPS + 1
        return {own: _integral(points[i * size : (i + 1) * size], parts) for i, own in enumerate(panels)}

    chosen, per = [*pairwise(np.linspace(0, 1, FIRST // STEPS + 1).tolist())], max(1, at_a_time // STEPS)
    while chosen:
        panels |= over(*chosen[:per])
        chosen = chosen[per:]
    allowed = TOLERANCE * abs(sum(own.change for own in panels.values()))
    try:
        while chosen := chosen or _to_halve(panels, done, allowed):
            now, chosen = chosen[:per], chosen[per:]
            halves = {(a, b): ((a, (a + b) / 2), ((a + b) / 2, b)) for a, b in now}
            new = over(*(half for both in halves.values() for half in both))
            for ends, both in halves.items():
                if all(math.isfinite(new[half].largest) for half in both):
                    kept = {other: own for other, own in panels.items() if other != ends}
                    panels = kept | {half: new[half] for half in both}
                else:  # gradients overflow next to zero embeddings, so this panel cannot be halved
                    done.add(ends)
            report(STEPS * len(panels), MOST)
    except KeyboardInterrupt:
        interrupted = True
    return Integral(*(sum(numbers) for numbers in zip(*panels.values(), strict=True))), interrupted


def _integral(points: Sequence[Point], parts: Parts) -> Integral:
    """Integrate over the panel of these points."""
    halved, whole = dict[str, Array](), dict[str, Array]()
    for name in points[0][1]:
        value = np.array([values[name] for _, values, _ in points], np.float64)
        slope = np.array([gradients[name] for *_, gradients in points], np.float64)
        slope[0] = np.where(np.isfinite(slope[0]), slope[0], slope[1])  # it may overflow at zero embeddings
        four, two, one = (  # by the trapezoidal rule, which Simpson's rule extrapolates
            (np.diff(value[::k], axis=0) * (slope[:-k:k] + slope[k::k]) / 2).sum(axis=0) for k in (4, 2, 1)
        )
        halved[name], whole[name] = two + (two - four) / 3, one + (one - two) / 3
    values, total = parts(whole), float(next(iter(whole.values())).sum())
    return Integral(values, np.abs(values - parts(halved)), total, points[-1][0] - points[0][0])


def _to_halve(panels: Mapping[Panel, Integral], done: set[Panel], allowed: float) -> list[Panel]:
    """Return the panels with most of the errors, or none if the sum of the errors is allowed. A panel smaller
    than SMALLEST is not halved: the difference may jump there, if a mixture chooses other experts."""
    wide = [(panels[a, b].largest, (a, b)) for a, b in panels.keys() - done if b - a > SMALLEST * b]
    left, chosen = sum(error for error, _ in wide), list[Panel]()
    enough = max(allowed / 2, left * LEFT)
    for error, ends in sorted(wide, reverse=True)[: MOST // STEPS - len(panels)]:
        if left > (enough if chosen else allowed):
            chosen.append(ends)
            left -= error
    return chosen
