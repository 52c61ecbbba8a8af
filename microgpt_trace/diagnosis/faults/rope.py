"""Mistakes of RoPE. Angles, and with them base, scaling and offset, are measured from q and q after RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.operations.rotation import frequencies as right_frequencies
from ...architecture.operations.rotation import turn
from ...architecture.plans.event_words import words_of_kind
from ...architecture.plans.kinds import Rotation
from ...architecture.plans.plan import Operation, Plan, kind_of
from ...architecture.plans.rope import Rope
from ...arrays.stats import Array
from ...rounding.precision import NARROW, PRECISIONS
from ..fitting import COMBINED, DESCRIBED, Family
from ..hypothesis import Case, Hypothesis
from ..rope_angles import Turns, common_factor, measure, nearest, offset_of
from .changes import computed, of_kind

BASES = (1e2, 5e2, 1e3, 1e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 5e6, 1e7)  # usual ones
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0)  # usual ones of scaling
PARTS = (0.5, 0.25, 0.75)  # shares of a head that some architectures turn
WHOLE, NEAR = np.arange(-512.0, 4096.0), np.arange(-8.0, 8.0, 0.125)  # offsets looked for
STRETCHES = (0.125, 0.25, 0.5, 4.0, 8.0)  # usual ones of positions
PART_LEFT = 0.1  # of a pair's error is left at its own frequency, where that is another
PAIRED = " (and pairs are interleaved: neighbours, not halves)"


@dataclass(frozen=True, eq=False)
class Turning:
    """Radians per position of each pair [n/2], and which channels make a pair.

    The first n channels of a head turn and the others stay; `factor` multiplies cos and sin, `offset` is the
    position of the first token.
    """

    frequencies: Array
    factor: float = 1.0
    adjacent: bool = False  # pairs (0, 1), (2, 3) ... where False is (0, n/2), (1, n/2 + 1) ...
    offset: float = 0.0

    def __call__(self, row: Operation[Rotation], given: ReferenceInputs, x: Array) -> Array:
        count = 2 * len(self.frequencies)
        angles = (np.arange(len(x)) + self.offset)[:, None] * self.frequencies
        heads = x.reshape(len(x), -1, row.kind.head_dim)
        part = in_halves(heads[..., :count], count) if self.adjacent else heads[..., :count]
        turned = turn(part, np.cos(angles) * self.factor, np.sin(angles) * self.factor)
        turned = in_pairs(turned, count) if self.adjacent else turned
        return np.concatenate([turned, heads[..., count:]], axis=-1).reshape(x.shape)


def in_halves(x: Array, dim: int) -> Array:
    """Channels (or rows) of heads from pairs side by side to halves: (0, 1), (2, 3) -> (0, D/2), ..."""
    pairs = x.reshape(*x.shape[:-1], -1, dim // 2, 2)
    return pairs.swapaxes(-1, -2).reshape(x.shape)


def in_pairs(x: Array, dim: int) -> Array:
    """The way back from `in_halves`, to the order that GGUF stores llama's rows of q and k in."""
    halves = x.reshape(*x.shape[:-1], -1, 2, dim // 2)
    return halves.swapaxes(-1, -2).reshape(x.shape)


def turning_of(row: Operation[Rotation]) -> Turning:
    """How a row turns."""
    if isinstance(row.otherwise, Turning):
        return row.otherwise
    return Turning(*right_frequencies(row.kind.rope, row.kind.head_dim))


def turning(plan: Plan, change: Callable[[Turning], Turning]) -> Plan:
    """The plan where q and k turn otherwise."""

    def changed(row: Operation[Any]) -> Operation:
        return replace(row, otherwise=change(turning_of(row))) if isinstance(row.kind, Rotation) else row

    return plan.changed(changed)


def turning_by(plan: Plan, **changes: Any) -> Plan:
    """The plan where some attributes of the turning are others."""
    return turning(plan, lambda own: replace(own, **changes))


def rope(case: Case) -> Iterator[Hypothesis | Family]:
    """Every mistake of RoPE: those without a number first, then those with one."""
    kind = case.kind(Rotation)
    if kind is None:
        return
    own, said = Turning(*right_frequencies(kind.rope, kind.head_dim)), kind.rope
    yield from _plain(case, own, said)
    yield from _scalings(case, own, said)
    for adjacent in (False, True):
        for family in _numbers(case, own, said, _turns(case, adjacent)):
            yield _coarse(case, _interleaved(family) if adjacent else family)


def _head_dim(case: Case) -> int:
    kind = case.kind(Rotation)
    assert kind is not None
    return kind.head_dim


def _coarse(case: Case, family: Family) -> Family:
    """The same with frequencies that an engine may round as it rounds everything."""
    precision = case.judge.plain.precision
    if not precision.narrow:
        return family
    return replace(family, coarse=lambda value: _rounded(family.at(value), precision.round))


def _rounded(plan: Plan, rounding: Callable[[Array], Array]) -> Plan:
    def rounded(own: Turning) -> Turning:
        return replace(own, frequencies=rounding(own.frequencies).astype(np.float64))

    return turning(plan, rounded)


def _turns(case: Case, adjacent: bool) -> Turns | None:
    """What turns the input into the output, where the dump has both."""
    if not case.alone or len(case.found) < 2:
        return None
    return measure(case.inputs[0], case.found.astype(np.float64), _head_dim(case), adjacent)


def _interleaved(family: Family) -> Family:
    """The same with pairs that are neighbours."""

    def at(value: float) -> Plan:
        return turning_by(family.at(value), adjacent=True)

    special = {value: (id, claim + PAIRED) for value, (id, claim) in family.special.items()}
    claim = lambda value: family.claim(value) + PAIRED  # noqa: E731
    return replace(family, at=at, claim=claim, special=special, rank=COMBINED)


def _subject(case: Case) -> tuple[str, str]:
    """What the values are, and of what: "your values are", "your own q" """
    if not isinstance(case.row.kind, Rotation):
        return "your values follow from", "q and k"
    (source,) = case.row.inputs
    words = words_of_kind(kind_of(source))
    return "your values are", f"your own {words}" if case.alone else words


def _plain(case: Case, own: Turning, said: Rope) -> Iterator[Hypothesis]:
    """Mistakes without a number."""
    plan, (begin, source) = case.plan, _subject(case)
    claim = f"{begin} the interleaved pairing of {source}"
    yield Hypothesis("rope-interleaved", claim, turning_by(plan, adjacent=True))
    claim += ", turned in the other direction"
    back = turning_by(plan, adjacent=True, frequencies=-own.frequencies)
    yield Hypothesis("rope-interleaved-direction", claim, back, rank=COMBINED)
    for name, words in NARROW.items():
        claim = f"the frequencies of RoPE are rounded to {words}"
        yield Hypothesis("rope-frequencies-rounded", claim, _rounded(plan, PRECISIONS[name].round))
    f = own.frequencies
    missing = computed(plan, of_kind(Rotation), Turning(f * 0))
    yield Hypothesis("rope-missing", f"{begin} {source}, not turned at all", missing)
    twice = turning_by(plan, frequencies=f * 2, factor=own.factor**2)
    yield Hypothesis("rope-twice", f"{begin} {source} turned twice", twice)
    back = turning_by(plan, frequencies=-f)
    claim = f"{begin} {source} turned in the other direction (sin negated)"
    yield Hypothesis("rope-direction", claim, back)


def _scalings(case: Case, own: Turning, said: Rope) -> Iterator[Hypothesis]:
    """Scaling left out or of another kind, a part of the head turned."""
    rows, dim = case.plan, _head_dim(case)
    if said.kind != "default" or said.factors:
        kind = said.kind if said.kind != "default" else "factors"
        plain, _ = right_frequencies(Rope(said.theta), dim)
        missing = computed(rows, of_kind(Rotation), Turning(plain))
        yield Hypothesis("rope-scaling-missing", f"the scaling ({kind}) is missing", missing)
        if said.factor != 1 and kind != "linear":
            claim = f"all frequencies are divided by {said.factor:g} (linear scaling), not as {kind} says"
            linear = computed(rows, of_kind(Rotation), Turning(plain / said.factor))
            yield Hypothesis("rope-scaling-linear", claim, linear)
    for share in PARTS:
        count = int(dim * share) // 2
        if not count:
            continue
        claim = f"only the first {2 * count} of {dim} channels of a head are turned"
        turned, _ = right_frequencies(replace(said, factors=()), 2 * count)
        yield Hypothesis("rope-partial", claim, turning_by(rows, frequencies=turned))
        claim += " by the first frequencies of the whole"
        yield Hypothesis("rope-partial", claim, turning_by(rows, frequencies=own.frequencies[:count]))


def _numbers(case: Case, own: Turning, said: Rope, measured: Turns | None) -> Iterator[Family]:
    """Mistakes with a number: base, factor, positions scaled or moved, cos and sin times a constant."""
    base = f"the base is {{}}, the model says {said.theta:,.6g}"
    yield _said(case, "rope-base", said, "theta", BASES, measured, base, low=1.01, high=1e15)
    if said.kind != "default" or said.factors:
        unscaled = f"{base}, and its scaling is missing"
        yield _said(
            case, "rope-base", Rope(said.theta), "theta", BASES, measured, unscaled,
            low=1.01, high=1e15, rank=COMBINED,
        )  # fmt: skip
    if said.kind != "default":
        words = f"the factor of the {said.kind} scaling is {{}}, the model says {said.factor:.6g}"
        yield _said(
            case, "rope-scaling-factor", said, "factor", FACTORS, measured, words,
            low=0.01, high=1e4, silent=(1.0,),
        )  # fmt: skip
    if said.kind != "linear":
        yield _stretched(case, own, measured)
    yield _offset(case, own, measured)
    missing = f"the factor {own.factor:.4g} of cos and sin (attention scaling) is missing"
    yield Family(
        "rope-attention-factor", lambda factor: turning_by(case.plan, factor=factor),
        f"cos and sin are multiplied by {{}}, the model says {own.factor:.5g}".format,
        own=own.factor, starts=[measured.factor] if measured else [],
        special={1.0: ("rope-attention-factor", missing)} if own.factor != 1 else {},
    )  # fmt: skip


def _said(
    case: Case, id: str, said: Rope, field: str, usual: Sequence[float], measured: Turns | None, words: str,
    **options: Any,
) -> Family:  # fmt: skip
    """Another number in what the config says of RoPE."""
    own, dim = getattr(said, field), _head_dim(case)

    def frequencies(value: float) -> tuple[Array, float]:
        return right_frequencies(replace(said, **{field: value}), dim)  # type: ignore[arg-type]

    def at(value: float) -> Plan:
        turns, size = frequencies(value)
        return turning_by(case.plan, frequencies=turns, factor=size)

    starts = usual if measured is None else [nearest(measured.frequencies, own, lambda v: frequencies(v)[0])]
    return Family(id, at, words.format, own=own, starts=starts, usual=usual, **options)


def _stretched(case: Case, own: Turning, measured: Turns | None) -> Family:
    """All frequencies times a number: positions scaled."""
    starts = list(STRETCHES)
    if measured is not None:
        starts.append(common_factor(measured.frequencies, own.frequencies))
    return Family(
        "rope-positions-scaled", lambda by: turning_by(case.plan, frequencies=own.frequencies * by),
        "all frequencies are those of the model times {} (positions scaled)".format,
        own=1.0, starts=starts, usual=STRETCHES, silent=(-1.0, 0.0, 2.0), low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _offset(case: Case, own: Turning, measured: Turns | None) -> Family:
    starts = [1.0, -1.0]
    if measured is not None:
        starts += [offset_of(measured, own.frequencies, where) for where in (WHOLE, NEAR)]
    return Family(
        "rope-offset", lambda offset: turning_by(case.plan, offset=offset),
        "your positions begin at {}, not at 0".format,
        own=0.0, starts=starts, usual=(*WHOLE[504:521],), low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def frequencies(case: Case) -> Iterator[Hypothesis]:
    """Pairs that turn otherwise, each as it does."""
    kind = case.kind(Rotation)
    for adjacent in (False, True) if kind is not None else ():
        turns = _turns(case, adjacent)
        if kind is None or turns is None:
            continue
        right, _ = right_frequencies(kind.rope, kind.head_dim)
        told = turns.left(turns.frequencies) < PART_LEFT * turns.left(right)
        found, other = np.where(told, turns.frequencies, right), np.flatnonzero(told)
        if len(other):
            first = other[0]
            claim = f"{len(other)} of {len(right)} pairs turn at other frequencies than the model says; "
            claim += f"pair {first} at {found[first]:.6g} a position, not {right[first]:.6g}"
            plan = computed(case.plan, of_kind(Rotation), Turning(found, turns.factor, adjacent))
            yield Hypothesis("rope-frequencies", claim + PAIRED * adjacent, plan, rank=DESCRIBED)
