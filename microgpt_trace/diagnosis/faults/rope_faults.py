"""Mistakes in RoPE. The base, scaling and offset follow from the angles between q before and after RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from typing import Any, NamedTuple

import numpy as np

from ...arrays.stats import Array
from ...operations.by_kind import reference
from ...operations.reference_inputs import ReferenceInputs
from ...operations.rotation import frequencies_of, turn
from ...plans.event_words import words_of_kind
from ...plans.kinds import PositionScale, Rotation, Scores
from ...plans.plan import Operation, Plan, kind_of
from ...plans.rope import Rope
from ...rounding.precision import NARROW, PRECISIONS
from ...text.frozen import frozen
from ..case import Case, Change, first_of
from ..hypothesis import COMBINED, DESCRIBED, NUMBERED, PLAIN, Family, Hypothesis
from .changes import LATE, computed, late, of_kind

BASES = (1e2, 5e2, 1e3, 1e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 5e6, 1e7)  # bases that models use
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0)  # scaling factors that models use
PARTS = (0.5, 0.25, 0.75)  # shares of a head's channels that other architectures rotate
WHOLE, NEAR = np.arange(-512.0, 4096.0), np.arange(-8.0, 8.0, 0.125)  # offsets of positions to try
STRETCHES = (0.125, 0.25, 0.5, 4.0, 8.0)  # factors to try, by which all positions are multiplied
GRID = np.geomspace(1e-4, 1e4, 241)  # factors to try, by which the model's number is multiplied
PART_LEFT = 0.1  # a measured frequency counts if less than this share of the error remains
PAIRED = {  # the words for pairs unlike the model's
    True: " (and pairs are interleaved: neighbours, not halves)",
    False: " (and pairs are halves of a head, not neighbours)",
}


@frozen(slots=False, eq=False)
class Turning:
    """A rotation of the first n channels of each head. `frequencies` [n/2] lists the radians per position of
    each pair of channels. `factor` multiplies cos and sin. `offset` is added to each position: a number, or
    an array [T] with a number for each position."""

    frequencies: Array
    factor: float = 1.0
    adjacent: bool = False  # True: pairs (0, 1), (2, 3) ...; False: pairs (0, n/2), (1, n/2 + 1) ...
    offset: float | Array = 0.0

    def __call__(self, row: Operation[Rotation], given: ReferenceInputs, x: Array) -> Array:
        kind = replace(row.kind, channels=2 * len(self.frequencies), adjacent=self.adjacent)
        angles = (np.arange(len(x)) + self.offset)[:, None] * self.frequencies
        heads = x.reshape(len(x), -1, kind.head_dim)
        cos, sin = np.cos(angles) * self.factor, np.sin(angles) * self.factor
        return turn(heads, cos, sin, kind.pairs).reshape(x.shape)


def right_frequencies(case: Case, kind: Rotation, **changes: Any) -> tuple[Array, float]:
    """Return the frequencies and the factor of a rotation in the dump's text, after `changes` of the kind."""
    return frequencies_of(replace(kind, **changes), len(case.given.tokens))


def _right(case: Case, kind: Rotation) -> Turning:
    return Turning(*right_frequencies(case, kind), adjacent=kind.adjacent)


def turning_by(case: Case, round: Change | None = None, **changes: Any) -> Plan:
    """Return the plan with another RoPE. `changes` replace fields of the `Turning`, and `round` rounds
    frequencies."""

    def compute(row: Operation[Rotation], given: ReferenceInputs, x: Array) -> Array:
        turning = replace(_right(case, row.kind), **changes)
        if round is not None:
            turning = replace(turning, frequencies=round(turning.frequencies).astype(np.float64))
        return turning(row, given, x)

    return computed(case.plan, of_kind(Rotation), compute)


def rope(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield all hypotheses about RoPE. Begin with mistakes that contain no number."""
    kind = case.kind(Rotation)
    if kind is None:
        return
    own = _right(case, kind)
    for id, claim, changes, rank in (*_directions(case, own), *_scalings(case, kind, own)):
        yield Hypothesis(id, claim, turning_by(case, **changes), rank)
    for adjacent in (kind.adjacent, not kind.adjacent):
        paired = PAIRED[adjacent] * (adjacent != kind.adjacent)
        measured, family = measure(case, kind, adjacent), bind(_family, case, adjacent, paired)
        if measured is not None:
            yield from _measured_positions(case, own, measured, adjacent, paired)
        yield from _parameters(case, family, kind, measured)
        yield from _numbers(family, kind, own, measured)


def rope_in_every_layer(case: Case) -> Iterator[Hypothesis]:
    """Yield the hypothesis that q and k are rotated in layers without RoPE."""
    rotations, plan = case.plan.of_kind(Rotation), case.plan
    turned_layers = {row.layer for row in rotations}

    def without(row: Operation) -> bool:
        return isinstance(row.kind, Scores | PositionScale) and row.layer not in turned_layers

    def compute(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
        scaled = (isinstance(plan[name].kind, PositionScale) for name in row.inputs)  # turned before
        both = (x if own else turning(rotations[0], given, x) for own, x in zip(scaled, inputs, strict=True))
        return reference(replace(row, otherwise=None), given, *both)

    if rotations and any(map(without, case.rows.values())):
        turning = _right(case, rotations[0].kind)
        claim = "q and k are rotated, although this layer has no RoPE"
        yield Hypothesis("rope-in-every-layer", claim, computed(case.plan, without, compute))


Mistake = tuple[str, str, dict[str, Any], int]  # id, claim, changed fields of a Turning, rank


def _directions(case: Case, own: Turning) -> Iterator[Mistake]:
    """Yield mistakes: other pairs, another direction, rounded frequencies, no rotation, or two rotations."""
    subject, f = "your values follow from q and k", own.frequencies
    if isinstance(case.row.kind, Rotation):
        source = words_of_kind(kind_of(case.row.inputs[0]))
        subject = f"your values are {'your own ' * case.alone}{source}"
    id, words = (
        ("rope-halves", "halves of a head") if own.adjacent else ("rope-interleaved", "interleaved pairs")
    )
    paired, other = f"{subject} rotated in {words}", {"adjacent": not own.adjacent}
    yield id, paired, other, PLAIN
    yield f"{id}-direction", f"{paired} and in the other direction", {**other, "frequencies": -f}, COMBINED
    for name, words in NARROW.items():
        claim = f"the frequencies of RoPE are rounded to {words}"
        yield "rope-frequencies-rounded", claim, {"round": PRECISIONS[name].round}, PLAIN
    yield "rope-missing", f"{subject} not rotated at all", {"frequencies": f * 0, "factor": 1.0}, PLAIN
    yield "rope-twice", f"{subject} rotated twice", {"frequencies": f * 2, "factor": own.factor**2}, PLAIN
    claim = f"{subject} rotated in the other direction (sin negated)"
    yield "rope-direction", claim, {"frequencies": -f}, PLAIN
    length, claim = len(case.given.tokens), f"{subject} rotated {LATE}"
    yield "rope-positions", claim, {"offset": late(length) - np.arange(length)}, PLAIN


def _measured_positions(
    case: Case, own: Turning, measured: Turns, adjacent: bool, paired: str
) -> Iterator[Hypothesis]:
    """Yield the hypothesis that each row is rotated at the position that its measured rotation is nearest to,
    unless all positions are shifted alike."""
    places = np.arange(len(measured.turns) + 1)
    nearest = (measured.turns @ np.exp(-1j * own.frequencies[:, None] * places)).real.argmax(axis=1)
    offset = nearest - places[:-1]
    if (offset != offset[0]).any():
        claim = f"your rows are rotated at positions [{first_of(nearest, 16)}]{paired}"
        plan = turning_by(case, offset=offset, adjacent=adjacent)
        yield Hypothesis("rope-positions", claim, plan, rank=DESCRIBED)


def _scalings(case: Case, kind: Rotation, own: Turning) -> Iterator[Mistake]:
    """Yield mistakes: the rotation of another layer, the scaling is missing or linear, or another number of a
    head's channels is rotated."""
    rope, dim = kind.rope, kind.head_dim
    for other in dict.fromkeys((each.rope, each.channels) for each in case.plan.kinds(Rotation)):
        if other != (rope, kind.channels):
            turns, factor = right_frequencies(case, kind, rope=other[0], channels=other[1])
            claim = f"RoPE is that of other layers (base {other[0].theta:,.6g}, {other[1]} of {dim} channels)"
            yield "rope-of-another-layer", claim, {"frequencies": turns, "factor": factor}, PLAIN
    if rope.kind != "default" or rope.factors:
        words = rope.kind if rope.kind != "default" else "factors"
        plain, _ = right_frequencies(case, kind, rope=Rope(rope.theta))
        missing = {"frequencies": plain, "factor": 1.0}
        yield "rope-scaling-missing", f"the scaling ({words}) is missing", missing, PLAIN
        if rope.factor != 1 and words != "linear":
            claim = f"all frequencies are divided by {rope.factor:g} (linear scaling), not scaled by {words}"
            yield "rope-scaling-linear", claim, {"frequencies": plain / rope.factor, "factor": 1.0}, PLAIN
    if rope.kind == "yarn":
        ramp, _ = right_frequencies(case, kind, rope=replace(rope, truncate=not rope.truncate))
        claim = f"the bounds of YaRN's ramp are {'not ' * rope.truncate}rounded"
        yield "rope-yarn-truncate", claim, {"frequencies": ramp}, PLAIN
    bare = replace(rope, factors=())
    counts = dict.fromkeys(int(dim * share) // 2 for share in (*PARTS, 1.0))
    for count in [count for count in counts if count not in (0, kind.channels // 2)]:
        some = f"only the first {2 * count} of {dim}" if 2 * count < dim else f"all {dim}"
        claim = f"{some} channels of a head are rotated"
        partial, _ = right_frequencies(case, kind, rope=bare, channels=2 * count)
        yield "rope-partial", claim, {"frequencies": partial}, PLAIN
        if 2 * count < kind.channels:
            claim += ", with the first frequencies that the whole head would have"
            yield "rope-partial", claim, {"frequencies": own.frequencies[:count]}, PLAIN


def _family(
    case: Case, adjacent: bool, paired: str, id: str, words: str, changes: Callable[[float], dict[str, Any]],
    special: Mapping[float, tuple[str, str]] | None = None, rank: int = NUMBERED, **options: Any,
) -> Family:  # fmt: skip
    """Return a family of mistakes. `changes(number)` returns the fields of a `Turning` to replace. If
    `adjacent` is True, pairs consist of adjacent channels. `paired` are the words for pairs unlike the
    model's. An engine of narrow precision may also round the frequencies."""
    precision = case.judge.plain.precision

    def at(number: float, round: Change | None = None) -> Plan:
        return turning_by(case, round, adjacent=adjacent, **changes(number))

    return Family(
        id, at, lambda number: words.format(number) + paired, rank=COMBINED if paired else rank,
        coarse=(lambda number: at(number, precision.round)) if precision.narrow else None,
        special={number: (id, claim + paired) for number, (id, claim) in (special or {}).items()},
        **options,
    )  # fmt: skip


def _parameters(
    case: Case, family: Callable[..., Family], kind: Rotation, measured: Turns | None
) -> Iterator[Family]:
    """Yield families of mistakes: another base, or another factor of the scaling."""

    def other(id: str, field: str, usual: Sequence[float], words: str, rope: Rope, **options: Any) -> Family:
        def changes(number: float) -> dict[str, Any]:
            turns, size = right_frequencies(case, kind, rope=replace(rope, **{field: number}))  # type: ignore[arg-type]
            return {"frequencies": turns, "factor": size}

        own, starts = getattr(rope, field), usual
        if measured is not None:
            starts = [nearest(measured.frequencies, own, lambda number: changes(number)["frequencies"])]
        return family(id, words, changes, own=own, starts=starts, usual=usual, **options)

    rope = kind.rope
    words = f"the base is {{}}, the model says {rope.theta:,.6g}"
    bases = bind(other, "rope-base", "theta", BASES, low=1.01, high=1e15)
    yield bases(words, rope)
    if rope.kind != "default" or rope.factors:
        yield bases(f"{words}, and the scaling of RoPE is missing", Rope(rope.theta), rank=COMBINED)
    if rope.kind != "default":
        words = f"the factor of the {rope.kind} scaling is {{}}, the model says {rope.factor:.6g}"
        limits = {"low": 0.01, "high": 1e4, "silent": (1.0,)}
        yield other("rope-scaling-factor", "factor", FACTORS, words, rope, **limits)


def _numbers(
    family: Callable[..., Family], kind: Rotation, own: Turning, measured: Turns | None
) -> Iterator[Family]:
    """Yield families of mistakes: positions are scaled or shifted, or cos and sin are multiplied."""
    linear = {"low": -math.inf, "pivot": None, "unit": 1.0}
    offsets, factors, sizes = [1.0, -1.0], list(STRETCHES), list[float]()
    if measured is not None:
        offsets += [offset_of(measured, own.frequencies, where) for where in (WHOLE, NEAR)]
        factors.append(common_factor(measured.frequencies, own.frequencies))
        sizes.append(measured.factor)
    if kind.rope.kind != "linear":
        yield family(
            "rope-positions-scaled", "all frequencies are multiplied by {} (scaled positions)",
            lambda by: {"frequencies": own.frequencies * by},
            own=1.0, starts=factors, usual=STRETCHES, silent=(-1.0, 0.0, 2.0), **linear,
        )  # fmt: skip
    yield family(
        "rope-offset", "your positions begin at {}, not at 0", lambda offset: {"offset": offset},
        own=0.0, starts=offsets, usual=(*WHOLE[504:521],), **linear,
    )  # fmt: skip
    missing = f"the factor {own.factor:.4g} of cos and sin (attention scaling) is missing"
    yield family(
        "rope-attention-factor", f"cos and sin are multiplied by {{}}, the model says {own.factor:.5g}",
        lambda factor: {"factor": factor}, own=own.factor, starts=sizes,
        special={1.0: ("rope-attention-factor", missing)} if own.factor != 1 else {},
    )  # fmt: skip


def frequencies(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: some pairs are rotated at other frequencies, without a common factor."""
    kind = case.kind(Rotation)
    if kind is None:
        return
    for adjacent in (kind.adjacent, not kind.adjacent):
        turns = measure(case, kind, adjacent)
        if turns is None:
            continue
        right, _ = right_frequencies(case, kind)
        differ = turns.error(turns.frequencies) < PART_LEFT * turns.error(right)
        measured, pairs = np.where(differ, turns.frequencies, right), np.flatnonzero(differ)
        if len(pairs):
            first = pairs[0]
            claim = (
                f"{len(pairs)} of {len(right)} pairs have frequencies unlike the model's. Pair {first} is  "
                f"rotated by {measured[first]:.6g} radians per position, not {right[first]:.6g}"
            )
            plan = turning_by(case, frequencies=measured, factor=turns.factor, adjacent=adjacent)
            claim += PAIRED[adjacent] * (adjacent != kind.adjacent)
            yield Hypothesis("rope-frequencies", claim, plan, rank=DESCRIBED)


class Turns(NamedTuple):
    """The measured rotation from an input to an output. `turns` contains the rotation of each pair at each
    position. `frequencies` lists the radians per position of each pair, and `start` the radians of each pair
    at position 0. `factor` is the output's size divided by the input's size."""

    turns: Array  # [T, D/2] complex
    frequencies: Array  # [D/2]
    start: Array  # [D/2]
    factor: float

    def error(self, frequencies: Array) -> Array:
        """Return the squared error of each pair if the pairs are rotated at these `frequencies`."""
        angles = np.arange(len(self.turns))[:, None] * frequencies
        return np.square(np.abs(self.turns - self.factor * np.exp(1j * angles))).sum(axis=0)


def measure(case: Case, kind: Rotation, adjacent: bool) -> Turns | None:
    """Measure the rotation from the input to the output, both [T, H*D], if the dump contains these events."""
    if not case.alone or len(case.found) < 2:
        return None
    a, b = (_pairs(x, kind, adjacent) for x in (case.inputs[0], case.found.astype(np.float64)))
    turns = (b * a.conj()).sum(axis=1) / np.maximum((np.abs(a) ** 2).sum(axis=1), 1e-300)  # [T, D/2]
    turns = np.nan_to_num(turns)
    steps = np.angle((turns[1:] * turns[:-1].conj()).sum(axis=0))
    lag = 2
    while lag < len(turns):  # the angle per position becomes more precise with a larger distance
        rest = turns[lag:] * turns[:-lag].conj() * np.exp(-1j * steps * lag)
        steps = steps + np.angle(rest.sum(axis=0)) / lag
        lag *= 2
    back = turns * np.exp(-1j * steps * np.arange(len(turns))[:, None])
    return Turns(turns, steps, np.angle(back.sum(axis=0)), float(np.median(np.abs(turns))))


def _pairs(x: Array, kind: Rotation, adjacent: bool) -> Array:
    """Return the pairs of rotated channels as complex numbers: [T, H*D] -> [T, H, n/2]."""
    heads = x.reshape(len(x), -1, kind.head_dim)
    first, second = replace(kind, adjacent=adjacent).pairs
    return heads[..., first] + 1j * heads[..., second]


def nearest(measured: Array, own: float, frequencies: Callable[[float], Array]) -> float:
    """Try a grid of numbers. Return the number whose frequencies are nearest to the measured frequencies."""
    values = [own * step for step in GRID if own * step > 1 and step != 1]

    def distance(value: float) -> float:
        return float(np.nan_to_num(np.square(frequencies(value) - measured).sum(), nan=math.inf))

    return min(values, key=distance, default=own)


def common_factor(measured: Array, own: Array) -> float:
    """Return the measured frequencies divided by the model's frequencies (the median). Only frequencies below
    1 radian per position count, because higher frequencies are ambiguous."""
    slow = (np.abs(own) > 0) & (np.abs(measured) < 1)
    return float(np.median(measured[slow] / own[slow])) if slow.any() else 1.0


def offset_of(turns: Turns, own: Array, offsets: Array) -> float:
    """Return the offset whose rotation is nearest to the measured rotation at position 0."""
    distances = np.abs(np.exp(1j * offsets[:, None] * own) - np.exp(1j * turns.start)).sum(axis=1)
    return float(offsets[distances.argmin()])
