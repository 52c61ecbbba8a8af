"""Compare the experts that two runs choose.

Other experts at one position change many later values. So the values of experts are compared in the order of
the first run, and the comparison can tell which rows follow from the choice of other experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import choice_of, kind_named, known_row, known_rows, place_of, routers
from ..grouping import grouped
from ..hooks.event import EventSpec
from ..models.language_model import LanguageModel
from ..operations.by_kind import reference
from ..operations.choice import choice_margin
from ..operations.reference_inputs import ReferenceInputs
from ..plans.kinds import Choice
from ..plans.plan import Operation, kind_of, layer_of, prefix_of
from ..rounding.evaluation import choice_follows
from ..rounding.judging import JudgedRun
from ..rounding.precision import CHANCE, Precision
from .differences import EventDifference, RoutingFlip


class _BothRuns(NamedTuple):
    """An event of both runs at n positions: [n, E] or [n, k]."""

    positions: Sequence[int]
    a: Array
    b: Array


class RoutingComparer:
    """Receives the values of all runs, event by event, in order of computation. The runs that determine the
    band are compared with run `base`, 0 or 1. If runs lack the scores that experts are chosen by, the scores
    are computed from the router logits by `model`."""

    def __init__(self, base: int = 0, model: LanguageModel | None = None) -> None:
        self._base, self._model = base, model
        self._routers: dict[str, _BothRuns] = {}
        self._errors: dict[str, Array] = {}  # the RMS of the errors of each row of router logits
        self._choices: dict[str, _BothRuns] = {}
        self._orders: dict[str, list[Array]] = {}  # the order of the experts of each run after the first

    def aligned(self, name: str, positions: Sequence[int], values: list[Array]) -> list[Array]:
        """Return the values of an event with the parts of experts in the order of the first run."""
        kind = kind_named(name)
        if isinstance(kind, Choice):
            first, *others = map(_whole, values)
            self._choices[name] = _BothRuns(positions, first, others[0])
            self._orders[name] = [_order(first, own) for own in others]
        elif kind_of(name) in routers():
            self._routers[name] = _BothRuns(positions, values[0], values[1])
            if len(values) > 2:
                errors = [third.astype(np.float64) - values[self._base] for third in values[2:]]
                self._errors[name] = np.sqrt(np.mean(np.square(errors), axis=(0, 2)))
        orders = self._orders.get(choice_of(name) or "")
        if orders is None or any(len(order) != len(values[0]) for order in orders):
            return values
        return [values[0], *map(_reordered, values[1:], orders)]

    def note(self, name: str, band: Array) -> None:
        """Store the band of each row of router logits, if no pass measured the errors."""
        if name in self._routers and name not in self._errors:
            rms = np.sqrt(np.mean(np.square(self._routers[name].a, dtype=np.float64), axis=1))
            self._errors[name] = band * rms

    def flips(self) -> Iterator[RoutingFlip]:
        """Yield the positions whose experts differ, layer by layer."""
        for name, own in self._choices.items():
            differ = (np.sort(own.a, axis=1) != np.sort(own.b, axis=1)).any(axis=1)
            for at in np.flatnonzero(differ).tolist():
                both = (own.a[at], own.b[at]), (own.b[at], own.a[at])
                only_a, only_b = (tuple(np.setdiff1d(*pair).tolist()) for pair in both)
                numbers = self._margin(name, own.positions[at], only_a, only_b)
                yield RoutingFlip(name, layer_of(name) or 0, own.positions[at], only_a, only_b, *numbers)

    def _margin(
        self, name: str, position: int, only_a: tuple[int, ...], only_b: tuple[int, ...]
    ) -> tuple[float | None, float | None, bool | None]:
        row, rows = self._row(name), list[Operation]()
        router = row.inputs[0]
        while router not in self._routers and self._model is not None and router in self._model.plan:
            rows.append(self._model.plan[router])  # such as the sigmoid of the router logits
            router = rows[-1].inputs[0]
        logits = self._routers.get(router)
        if logits is None or position not in logits.positions or not (only_a and only_b):
            return None, None, None
        at = logits.positions.index(position)
        both = np.array([logits.a[at], logits.b[at]], np.float64)
        own, other = list(only_a), list(only_b)
        if not all(0 <= expert < both.shape[1] for expert in own + other):
            return None, None, None
        a, b = self._ranked(rows, both)
        (margin, terms), (margin_b, _) = (
            choice_margin(*of, row.kind) for of in ((a, own, other), (b, other, own))
        )
        if not math.isfinite(margin + margin_b):
            return None, None, None
        errors = self._errors.get(router)
        if errors is None:
            return margin, None, margin_b >= 0
        above, below = (self._ranked(rows, both[:1] + sign * errors[at])[0] for sign in (1, -1))
        error = float(np.abs(above - below)[own + other].max()) / 2
        return margin, CHANCE * math.sqrt(2 * terms) * error, margin_b >= 0

    def _row(self, name: str) -> Operation[Any]:
        """Return the row of a choice. Without a model, the row reads the last scores that the runs have."""
        if self._model is not None and name in self._model.plan:
            return self._model.plan[name]
        row, prefix = known_row(name), prefix_of(name)
        assert row is not None
        known = [prefix + kind for kind in known_rows() if prefix + kind in self._routers]
        return replace(row, inputs=(known[-1] if known else "",))

    def _ranked(self, rows: Sequence[Operation], logits: Array) -> Array:
        """Return the scores that experts are chosen by, computed by `rows`, the last row first: [n, E]"""
        assert self._model is not None or not rows
        for row in reversed(rows):
            logits = reference(row, ReferenceInputs(self._model, ()), logits)  # type: ignore[arg-type]
        return logits


def explained(events: Sequence[EventDifference], flips: Sequence[RoutingFlip]) -> set[str]:
    """Return the events that differ only because rounding changed a choice of experts: the choices and the
    events after them. A wrong choice is no consequence of another."""
    by_rounding = [flip for flip in flips if flip.by_rounding]
    wrong = {flip.name for flip in flips if flip.wrong}
    return set(consequences(events, by_rounding, also_choices=True)) - wrong


def consequences(
    events: Sequence[EventDifference], flips: Sequence[RoutingFlip], also_choices: bool = False
) -> Iterator[str]:
    """Yield the events that differ only where other experts were chosen before. `also_choices` adds each
    choice that differs only there and at its own flips."""
    by_choice = grouped(flips, lambda flip: flip.name)
    positions = {name: [flip.position for flip in own] for name, own in by_choice.items()}
    for event in events if flips else ():
        if not event.holds:
            own = positions.get(event.name, ()) if also_choices else ()
            clear = _unaffected(event, positions) & ~np.isin(event.positions, own)
            if not clear.all() and (np.array(event.by_position)[clear] <= event.tolerance).all():
                yield event.name


def _unaffected(event: EventDifference, flips: Mapping[str, Sequence[int]]) -> Array:
    """Return a mask of the positions whose values cannot depend on other experts. `flips` has the positions
    where other experts were chosen, by the event of the choice."""
    at, place = np.array(event.positions), place_of(event.name)
    before = {choice: own for choice, own in flips.items() if place_of(choice) < place}
    here = [position for choice, own in before.items() if layer_of(choice) == event.layer for position in own]
    earlier = [min(own) for choice, own in before.items() if layer_of(choice) != event.layer]
    return (at < min(earlier, default=math.inf)) & ~np.isin(at, here)


@contextmanager
def following(model: LanguageModel, run: JudgedRun, precision: Precision) -> Iterator[bool]:
    """Let the model choose the dump's experts inside the with block, where this choice follows from the
    dump's logits, as judged in `precision`. Rounding decides near ties, and two experts have unrelated
    outputs. The context is True if the dump contains choices."""
    rows = [row for row in model.plan.of_kind(Choice) if row.name in run.values]
    judge = run.judge(precision)
    with ExitStack() as stack:
        for row in rows:
            found = run.values[row.name]
            right = choice_follows(judge.plain, judge.draws, row.name, found, in_order=False)
            right |= np.isnan(judge.plain.value(row.inputs[0])).any(axis=1)  # no choice among NaN is wrong
            stack.enter_context(model.hooks.subscribe(partial(_chosen_in, found, right), row.name))
        yield bool(rows)


def _chosen_in(found: Array, right: Array, event: EventSpec, chosen: Array) -> Array:
    return np.where(right[:, None], found, chosen).astype(chosen.dtype)


def _whole(chosen: Array) -> Array:
    """Return the numbers of experts as integers. A wrong run may store other values."""
    return np.clip(np.nan_to_num(np.rint(chosen), nan=-1), -1, 2**31).astype(np.int64)


def _order(first: Array, other: Array) -> Array:
    """Return the order in which `other` lists the experts of `first`. Experts that only one of the rows has
    keep their order: [n, k], [n, k] -> [n, k]"""
    orders = np.tile(np.arange(first.shape[1]), (len(first), 1))
    for order, a, b in zip(orders, first.tolist(), other.tolist(), strict=True):
        if a != b:
            places = {expert: i for i, expert in enumerate(b)}
            own = [places.pop(expert, None) for expert in a]  # a wrong run may choose an expert twice
            rest = iter([i for i in range(len(b)) if i not in own])
            order[:] = [next(rest) if i is None else i for i in own]
    return orders


def _reordered(value: Array, order: Array) -> Array:
    """Return a value with the parts of each row in another order: [n, k*C], [n, k] -> [n, k*C]"""
    parts = value.reshape(*order.shape, -1)
    return np.take_along_axis(parts, order[:, :, None], axis=1).reshape(value.shape)
