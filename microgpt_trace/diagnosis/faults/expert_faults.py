"""Mistakes in mixtures of experts: near ties, other numbers of experts, wrong shares, exchanged matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial as bind
from itertools import combinations, islice

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.choice import follows, nearest_tie, numbers, otherwise
from ...operations.reference_inputs import ReferenceInputs
from ...plans.event_words import words_of_kind
from ...plans.kinds import Choice, Experts, Mixture, Routing
from ...plans.plan import Operation, kind_of, prefix_of
from ...text.wording import abridged, counted
from ..case import Case, Change
from ..hypothesis import COMBINED, Hypothesis
from .changes import after, called, computed, of_kind, with_attributes

NEARLY = 0.01  # the largest margin of a near tie, as a share of the largest logit of the position
COUNTS = (8, 10)  # numbers of experts that models use for each position, besides small numbers
MOST_PAIRS = 20  # largest number of pairs of experts to exchange


def choices(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: other experts are chosen, or the chosen experts are in another order."""
    for row in [own for own in case.rows.of_kind(Choice) if own.layer == case.layer]:
        if case.positions is None:
            yield from _near_tie(case, row)
        yield from _counts(case, row)
        claim = "the experts with the smallest logits are chosen"
        yield Hypothesis("smallest-chosen", claim, computed(case.plan, of_kind(Choice), _smallest))
        claim = "the chosen experts are sorted by number, not by logit"
        yield Hypothesis("choice-order", claim, after(case.plan, of_kind(Choice), bind(np.sort, axis=1)))
        if row is case.row:
            claim = "the right experts are chosen, but are not sorted by logit"
            yield Hypothesis("choice-order", claim, _in_any_order, rank=COMBINED)


def _smallest(row: Operation[Choice], given: ReferenceInputs, logits: Array) -> Array:
    return nearest_tie(-logits, row.kind).chosen


def _in_any_order(case: Case, expected: Array) -> Array:
    """Return the dump's choice at the positions where the dump has the expected experts."""
    alike = (np.sort(case.found, axis=1) == np.sort(expected, axis=1)).all(axis=1)
    return np.where(alike[:, None], case.found, expected)


def _near_tie(case: Case, row: Operation[Choice]) -> Iterator[Hypothesis]:
    """Yield the hypothesis that near ties are decided otherwise at all wrong positions."""
    logits = case.judge.plain.value(row.inputs[0])
    wrong = _wrong_positions(case, len(logits))
    tie, size = nearest_tie(logits, row.kind), np.abs(logits).max(axis=1, keepdims=True)
    own, near = row is case.row, (tie.margin <= NEARLY * size)[:, 0]
    near = follows(case.found, logits, NEARLY * size, row.kind) if own else near
    if not wrong.size or not near[wrong].all():
        return
    t = wrong[(tie.margin / size)[wrong].argmax()]
    (one, other), (first, second) = tie.pair[t], logits[t, tie.pair[t]]
    claim = (
        f"a near tie is decided otherwise at {counted(len(wrong), 'position')}: at position {t}, the logits "
        f"of experts {one} and {other} are {first:.7g} and {second:.7g}, a margin of {first - second:.2g}"
    )
    within = np.where(np.isin(np.arange(len(logits)), wrong), np.inf, -np.inf)[:, None]
    compute = (lambda *_: case.found) if own else bind(otherwise, within)
    yield Hypothesis("near-tie", claim, computed(case.plan, lambda own: own.name == row.name, compute))


def _wrong_positions(case: Case, length: int) -> Array:
    rows = case.judge.rows(case.name, case.found, case.expected, None)
    return np.unique(np.flatnonzero(rows.errors > rows.tolerances) % length)


def _counts(case: Case, row: Operation[Choice]) -> Iterator[Hypothesis]:
    """Yield hypotheses: each position uses another number of experts. Between the logits and the wrong event,
    the dump must not contain an event with a part for each expert."""
    parts, values = case.plan.chosen_by, case.judge.plain.values
    if case.name in parts or any(
        name in parts and name in values for own in case.rows.values() for name in own.inputs
    ):
        return
    used, experts = row.kind.count, case.given.shapes[row.inputs[0]][1]
    for count in sorted({*range(1, 2 * used + 1), *COUNTS, experts} - {used}):
        if count <= experts:
            claim = f"each position uses {count} of the {experts} experts, not {used}"
            yield Hypothesis("experts-used", claim, with_attributes(case.plan, Choice, count=count))


def shares(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the shares of the experts are normalised otherwise, or are not applied."""
    for kind in case.rows.kinds(Routing)[:1]:
        claim = "the shares are a softmax over all experts, and are not divided by their sum"
        claim = claim if kind.normalised else "the shares of the chosen experts are divided by their sum"
        other = with_attributes(case.plan, Routing, normalised=not kind.normalised)
        yield Hypothesis("shares-normalised", claim, other)
    for row in [case.row] if isinstance(case.row.kind, Routing) else case.rows.of_kind(Mixture):
        count = case.given.shapes[row.inputs[1]][1]
        name = row.name if isinstance(row.kind, Routing) else row.inputs[1]
        for share, words in {1 / count: f"1/{count}", 1.0: "1"}.items():
            plan = computed(case.plan, called(row.name), bind(_equal, share))
            claim = f"{words} is used instead of the {words_of_kind(kind_of(name))}"
            yield Hypothesis("shares-missing", claim, plan)


def _equal(share: float, row: Operation, given: ReferenceInputs, x: Array, others: Array) -> Array:
    """Return equal shares, or the sum of the parts of x with equal shares."""
    shares = np.full(others.shape, share)
    mixture = isinstance(row.kind, Mixture)
    return reference(replace(row, otherwise=None), given, x, shares) if mixture else shares


def orders(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: experts use the matrices of other experts, or gate and up are exchanged or mixed."""
    rows = list({kind_of(row.name): row for row in case.rows.of_kind(Experts)}.values())
    every = np.arange(rows[0].kind.experts if rows else 0)
    for claim, order in (
        ("expert e has the matrix of expert e + 1", np.roll(every, -1)),
        ("expert e has the matrix of expert e - 1", np.roll(every, 1)),
        ("the experts are in reverse order", every[::-1]),
        ("the experts are sorted as text (0, 1, 10, 11, ..., 2)", np.array(sorted(every, key=str))),
        *(_exchanged(case, rows[0].inputs[1], every) if rows and case.positions is None else ()),
    ):  # fmt: skip
        for chosen in (*([row] for row in rows), *([rows] if len(rows) > 1 else [])):
            names = [kind_of(row.name) for row in chosen if (order != every).any()]
            plan = computed(case.plan, called(*names), bind(_of_others, order))
            words = ", ".join(kind_of(row.kind.weight) for row in chosen)
            yield Hypothesis("experts-permuted", f"in {words}, {claim}", plan)
    pair = [row for row in case.plan.of_kind(Experts) if row.layer == case.layer and not row.kind.beside]
    if len(pair) == 2 and {row.name for row in pair} & {row.name for row in rows}:
        yield from _halves(case, [kind_of(row.name) for row in pair])


def _exchanged(case: Case, choice: str, every: Array) -> Iterator[tuple[str, Array]]:
    """Yield pairs of experts as claims and orders. The wrong positions are those that use one of the two."""
    used = (numbers(case.judge.plain.value(choice), len(every))[:, :, None] == every).any(axis=1)
    wrong = np.isin(np.arange(len(used)), _wrong_positions(case, len(used)))
    pairs = combinations(np.flatnonzero(used.any(axis=0)).tolist(), 2)
    fitting = (pair for pair in pairs if (used[:, pair].any(axis=1) == wrong).all())
    for one, other in islice(fitting, MOST_PAIRS):
        order = every.copy()
        order[[one, other]] = other, one
        yield f"the matrices of experts {one} and {other} are exchanged", order


def router_orders(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that the rows of a router are in another order, in which the logits fit."""
    readers = [case.plan[name].kind for name in case.plan.readers[case.name]]
    if any(isinstance(kind, Choice) for kind in readers):
        found, expected = (np.nan_to_num(values) for values in (case.found, case.expected))
        order = ((found[:, :, None] - expected[:, None]) ** 2).sum(axis=0).argmin(axis=1)
        if len(np.unique(order)) == len(order) and (order != np.arange(len(order))).any():
            claim = f"the rows of the router are in another order: {abridged(list(map(str, order)))}"
            plan = after(case.plan, called(kind_of(case.name)), lambda logits: logits[:, order])
            yield Hypothesis("experts-permuted", claim, plan)


def _of_others(order: Array, row: Operation, given: ReferenceInputs, x: Array, chosen: Array) -> Array:
    """Multiply by the matrices of other experts: of expert `order[e]` instead of expert e."""
    others = order[numbers(chosen, len(order))]
    return reference(replace(row, otherwise=None), given, x, others)


def _halves(case: Case, pair: Sequence[str]) -> Iterator[Hypothesis]:
    """Yield hypotheses: the matrices of gate and up are exchanged, or their rows are distributed wrongly."""

    def halves(id: str, claim: str, change: Change) -> Hypothesis:
        def part(row: Operation, given: ReferenceInputs, x: Array, chosen: Array) -> Array:
            """Return gate or up after a change of both, [T, k, 2, F] -> [T, k, 2, F]"""
            both = [reference(case.plan[prefix_of(row.name) + name], given, x, chosen) for name in pair]
            changed = change(np.stack([own.reshape(*chosen.shape, -1) for own in both], axis=2))
            return changed[:, :, pair.index(kind_of(row.name))].reshape(both[0].shape)

        return Hypothesis(id, claim, computed(case.plan, called(*pair), part))

    words = " and ".join(map(words_of_kind, pair))
    yield halves("gate-up-swapped", f"the matrices of {words} are exchanged", lambda x: x[:, :, ::-1])
    claim = f"{words} are the halves of a matrix, but are read as alternating rows"
    yield halves("gate-up-interleaved", claim, lambda x: x.reshape(*x.shape[:2], -1, 2).swapaxes(2, 3))
    claim = f"rows of {words} alternate in a matrix, but are read as halves"
    yield halves("gate-up-in-halves", claim, lambda x: x.swapaxes(2, 3).reshape(x.shape))
