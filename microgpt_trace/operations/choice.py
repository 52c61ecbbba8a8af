"""Choice: the experts with the largest logits of each position."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, PlaceAlong, Setting, StepOf, TermOf, one_step
from ..formulas.steps import element_name
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Choice, Shape
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs


def forward(row: Operation[Choice], run: PassState, logits: Array) -> Array:
    """Return the numbers of the experts with the largest logits, the largest first. Among equal logits, the
    lowest number comes first: [N, E] -> [N, k]"""
    order = np.argsort(-within_groups(logits, row.kind), axis=1, kind="stable")
    return order[:, : row.kind.count].astype(logits.dtype)


def backward(row: Operation[Choice], run: PassState, dy: Array, y: Array, logits: Array) -> Gradients:
    """Return 0, because a small change of the logits does not change the choice: [N, k] -> [N, E]"""
    return Gradients((np.zeros_like(logits),))


def numbers(chosen: Array, experts: int) -> Array:
    """Return the chosen experts as integers from 0 to `experts` - 1. Hooks may have set other values."""
    return np.clip(np.nan_to_num(np.rint(chosen)), 0, experts - 1).astype(np.intp)


def group_scores(logits: Array, kind: Choice) -> Array:
    """Return the score of each group: [T, E] -> [T, groups]"""
    in_groups = logits.reshape(len(logits), kind.groups, -1)
    best: Array = np.sort(in_groups, axis=2)[:, :, -kind.best :].sum(axis=2)
    return best


def within_groups(logits: Array, kind: Choice) -> Array:
    """Return the logits, with -inf for the experts of groups that are not used. Of equal groups, those with
    the lowest numbers are used: [T, E] -> [T, E]"""
    if kind.groups_used == kind.groups:
        return logits
    ranks = np.argsort(np.argsort(-group_scores(logits, kind), axis=1, kind="stable"), axis=1)
    return _of_groups(ranks < kind.groups_used, logits)


def _of_groups(used: Array, logits: Array) -> Array:
    return np.where(np.repeat(used, logits.shape[1] // used.shape[1], axis=1), logits, -np.inf)


def follows(chosen: Array, logits: Array, within: Array, kind: Choice) -> Array:
    """Return True for each position whose experts are, one after another, the best of the rest. The logit of
    a better expert may be larger by `within`, because of rounding. Groups that are nearly as good as the last
    group that is used may be used or not: [T, k], [T, E], [T, 1] -> [T]"""
    ids, wide = numbers(chosen, logits.shape[1]), np.array(logits, np.float64)
    right, allowed, rest = (ids == chosen).all(axis=1), wide, wide.copy()
    if kind.groups_used < kind.groups:
        scores, near = group_scores(wide, kind), kind.best * within
        ranked = np.sort(scores, axis=1)[:, ::-1]
        last, unused = (ranked[:, [at]] for at in (kind.groups_used - 1, kind.groups_used))
        allowed, rest = _of_groups(scores >= last - near, wide), _of_groups(scores > unused + near, wide)
    for expert in ids.T[:, :, None]:
        value = np.take_along_axis(allowed, expert, 1)
        right &= ((value >= rest.max(axis=1, keepdims=True) - within) & (value > -np.inf))[:, 0]
        for values in (allowed, rest):
            np.put_along_axis(values, expert, -np.inf, 1)  # a later choice of the same expert is wrong
    return right


class NearestTie(NamedTuple):
    """For each position, the two neighbours in the ranking of the experts whose logits differ least. At least
    one of the two is chosen. `other` is the choice if the two are exchanged."""

    chosen: Array  # [T, k] float64
    pair: Array  # [T, 2] integers
    margin: Array  # [T, 1], the difference of the two logits
    other: Array  # [T, k] float64


def nearest_tie(logits: Array, kind: Choice) -> NearestTie:
    """Find the nearest tie of each position among the experts of the groups that are used: [T, E]"""
    logits, count = within_groups(logits, kind), kind.count
    logits = np.append(logits, np.full((len(logits), 1), -np.inf), axis=1)  # there may be only one expert
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, : count + 1]
    margins = -np.diff(np.take_along_axis(logits, ranking, 1), axis=1)
    places = margins.argmin(axis=1)[:, None] + [0, 1]
    pair, chosen = np.take_along_axis(ranking, places, 1), ranking.astype(np.float64)
    other = chosen.copy()
    np.put_along_axis(other, places, pair[:, ::-1], 1)
    return NearestTie(chosen[:, :count], pair, margins.min(axis=1, keepdims=True), other[:, :count])


def otherwise(within: Array, row: Operation[Choice], ref: ReferenceInputs, logits: Array) -> Array:
    """Return the choice with nearest ties decided otherwise, if their margin is at most `within`, [T, 1]: [T,
    E] -> [T, k]"""
    tie = nearest_tie(logits, row.kind)
    return np.where(tie.margin <= within, tie.other, tie.chosen)


def reference(row: Operation[Choice], ref: ReferenceInputs, logits: Array) -> Array:
    """Sort the experts by their logits, and return the first experts, or NaN if a logit is NaN: [T, E] -> [T,
    k]"""
    kind, size = row.kind, logits.shape[1] // row.kind.groups
    chosen = np.empty((len(logits), kind.count))
    for best, x in zip(chosen, logits.tolist(), strict=True):
        groups = [range(first, first + size) for first in range(0, len(x), size)]
        groups.sort(key=lambda own: -sum(sorted((x[e] for e in own), reverse=True)[: kind.best]))
        experts = sorted(chain(*groups[: kind.groups_used]), key=lambda e: (-x[e], e))
        best[:] = experts[: kind.count]
    return np.where(np.isnan(logits).any(axis=1, keepdims=True), np.nan, chosen)


def formula(row: Operation[Choice], setting: Setting) -> Formula:
    """Describe an element as itself, because no sum computes a choice."""
    return one_step(setting.shapes[row.name], TermOf((ElementAt(row.name, (0, 1)),)))


def gradient_formula(name: str, reader: Operation[Choice], setting: Setting) -> Formula:
    """Describe the gradient 0 of the logits."""
    return unmoved(setting.shapes[name], "a small change of the logits does not change the choice")


def unmoved(shape: Shape, reason: str = "") -> Formula:
    """Describe a gradient that is 0 for a reason. By default, this is the gradient of numbers of experts."""
    reason = reason or "an expert's number is a whole number, so it has no gradient"
    return Formula(shape, (StepOf(()),), zero=reason)


def expert_at(chosen: str, count: int, position: int, place: int) -> PlaceAlong:
    """Return a chosen expert as a place along an axis. `count` experts are chosen for each position.
    `position` and `place` (the place among the chosen experts) are axes or ranges of a formula."""
    return PlaceAlong((), table=chosen, by=(PlaceAlong(((position, count), (place, 1))), 1))


def notes(at: TracedElement[Choice]) -> tuple[str, ...]:
    """Return a note that names the logit of the expert, and its rank among the logits."""
    position, place = at.index
    expert = int(at.numbers.value(at.name, at.index))
    logit = element_name(at.row.inputs[0], (position, expert))
    value = at.numbers.value(at.row.inputs[0], (position, expert))
    rank = f"number {place + 1} of the logits in descending order" if place else "the largest logit"
    kind = at.row.kind
    rank += f" in the {kind.groups_used} groups that are used" * (kind.groups_used < kind.groups)
    return (f"selected, not computed: {logit} = {value:.6g} is {rank}",)
