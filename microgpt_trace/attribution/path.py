"""Integrals of gradient * d value along a path, with an error for each part. This module knows no model.

The path is cut into panels of STEPS steps. Simpson's rule integrates each panel twice, with all steps and
with half the steps. The error of a part is the sum over all panels of the distances between both results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..progress import Report

STEPS = 4  # the number of steps of a panel
MOST = 768  # the largest number of steps of a path
SMALLEST = 1e-6  # the smallest panel, as a share of its end
LARGE = 0.1  # the panels with at least this share of the largest error are halved together
TOLERANCE = 0.01  # allowed error of a part, as a share of the change

Panel = tuple[float, float]  # the shares of the path at which the panel starts and ends
# a run at one point: the logit difference, and values and gradients by event; token embeddings come first
Point = tuple[float, Mapping[str, Array], Mapping[str, Array]]
Run = Callable[[list[float]], Iterator[Point]]  # the points at some shares of the path
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


def integrate(run: Run, parts: Parts, report: Report) -> tuple[Integral, bool]:
    """Integrate over the path, and return True if KeyboardInterrupt ended this after the first 16 steps.

    The panels with the largest errors are halved until all errors are allowed, or there are MOST steps.
    """

    def halves(panels: Sequence[Panel]) -> Iterator[dict[Panel, Integral]]:
        """Integrate over both halves of each panel."""
        grids = [np.linspace(a, b, 2 * STEPS + 1).tolist() for a, b in panels]
        points = run([*chain(*grids)])
        for grid in grids:
            (a, middle, b), own = grid[::STEPS], [*islice(points, len(grid))]
            yield {
                (a, middle): _integral(own[: STEPS + 1], parts),
                (middle, b): _integral(own[STEPS:], parts),
            }

    first, second = halves([(0.0, 0.5), (0.5, 1.0)])
    panels, done, interrupted = first | second, set[Panel](), False
    try:
        while (path := _sum(panels)).largest > TOLERANCE * abs(path.change):
            # smaller panels stay: the difference may jump there, if a mixture chooses other experts
            wide = ((a, b) for a, b in panels.keys() - done if b - a > SMALLEST * b)
            errors = {own: panels[own].largest for own in wide}
            large = [own for own in errors if errors[own] >= LARGE * max(errors.values())]
            if not (chosen := nlargest(MOST // STEPS - len(panels), large, errors.__getitem__)):
                break
            for own, both in zip(chosen, halves(chosen), strict=True):
                if all(math.isfinite(half.largest) for half in both.values()):
                    panels = {other: panels[other] for other in panels if other != own} | both
                else:  # gradients overflow next to zero embeddings, so this panel cannot be halved
                    done.add(own)
                report(STEPS * len(panels), MOST)
    except KeyboardInterrupt:
        interrupted = True
    return _sum(panels), interrupted


def _sum(panels: Mapping[Panel, Integral]) -> Integral:
    return Integral(*(sum(numbers) for numbers in zip(*panels.values(), strict=True)))


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
