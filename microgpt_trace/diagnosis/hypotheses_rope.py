"""Mistakes of RoPE. Angles, and with them base, scaling and offset, are measured from q and q after RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..decoder import Decoder, Rope
from ..graph import kind_of
from ..llama import rope_frequencies
from ..stats import Array
from .hypotheses import COMBINED, DESCRIBED, PLAIN, Case, Hypothesis, words_of_kind
from .operations import inputs_of
from .rules import Rotation

BASES = (1e2, 5e2, 1e3, 1e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 5e6, 1e7)  # usual ones
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0)  # usual ones of scaling
PARTS = (0.5, 0.25, 0.75)  # shares of a head that some architectures turn
FARTHEST = 4096  # an offset looked for
GRID, STEPS = np.geomspace(1e-3, 1e3, 121), 60  # a number is looked for around the model's own
PAIRED = " (and pairs are interleaved: neighbours, not halves)"


class Proposal(NamedTuple):
    id: str
    claim: str
    rotation: Rotation
    rank: int = PLAIN


def rope(case: Case) -> Iterator[Hypothesis]:
    """Every mistake of RoPE: those without a number first, then those measured."""
    model = case.weights.model
    if case.rules.rotation is None or not isinstance(model, Decoder):
        return
    if not case.kinds & {"attn.q_rope", "attn.k_rope"}:
        return
    own, said = case.rules.rotation, model.config.rope
    for id, claim, rotation, rank in (*_plain(case, own), *_scalings(own, said, case.weights.head_dim)):
        yield Hypothesis(id, claim, replace(case.rules, rotation=rotation), rank=rank)
    measurable = case.alone and len(case.found) > 1
    for adjacent in (False, True):
        others = _measured(case, own, said, adjacent) if measurable else _usual(case, own, said, adjacent)
        for id, claim, rotation, rank in others:
            rules = replace(case.rules, rotation=rotation)
            rank = max(rank, COMBINED) if adjacent else rank
            yield Hypothesis(id, claim + PAIRED * adjacent, rules, measured=measurable, rank=rank)


def _subject(case: Case) -> tuple[str, str]:
    """What the values are, and of what: "your values are", "your own q" """
    if case.kind not in ("attn.q_rope", "attn.k_rope"):
        return "your values follow from", "q and k"
    (source,) = inputs_of(case.rules, case.name)
    words = words_of_kind(kind_of(source))
    return "your values are", f"your own {words}" if case.alone else words


def _plain(case: Case, own: Rotation) -> Iterator[Proposal]:
    """Mistakes without a number."""
    f, (begin, source) = own.frequencies, _subject(case)
    yield Proposal(
        "rope-interleaved", f"{begin} the interleaved pairing of {source}", replace(own, adjacent=True)
    )
    yield Proposal("rope-missing", f"{begin} {source}, not turned at all", Rotation(f * 0))
    twice = replace(own, frequencies=f * 2, factor=own.factor**2)
    yield Proposal("rope-twice", f"{begin} {source} turned twice", twice)
    back = replace(own, frequencies=-f)
    yield Proposal("rope-direction", f"{begin} {source} turned in the other direction (sin negated)", back)
    claim = f"{begin} the interleaved pairing of {source}, turned in the other direction"
    yield Proposal("rope-interleaved-direction", claim, replace(back, adjacent=True), COMBINED)
    for offset in (1, -1):
        yield Proposal("rope-offset", _offset_claim(offset), replace(own, offset=offset))


def _offset_claim(offset: int) -> str:
    return f"your positions begin at {offset}, not at 0"


def _scalings(own: Rotation, said: Rope, dim: int) -> Iterator[Proposal]:
    """Scaling left out or of another kind, a part of the head turned."""
    if said.kind != "default" or said.factors:
        kind = said.kind if said.kind != "default" else "factors"
        plain = np.asarray(rope_frequencies(Rope(said.theta), dim)[0])
        yield Proposal("rope-scaling-missing", f"the scaling ({kind}) is missing", Rotation(plain))
        if said.factor != 1 and kind != "linear":
            claim = f"all frequencies are divided by {said.factor:g} (linear scaling), not as {kind} says"
            yield Proposal("rope-scaling-linear", claim, Rotation(plain / said.factor))
    if own.factor != 1:
        claim = f"the factor {own.factor:.4g} of cos and sin (attention scaling) is missing"
        yield Proposal("rope-attention-factor", claim, replace(own, factor=1.0))
    for share in PARTS:
        count = int(dim * share) // 2
        if not count:
            continue
        claim = f"only the first {2 * count} of {dim} channels of a head are turned"
        turned = np.asarray(rope_frequencies(replace(said, factors=()), 2 * count)[0])
        yield Proposal("rope-partial", claim, replace(own, frequencies=turned))
        claim += " by the first frequencies of the whole"
        yield Proposal("rope-partial", claim, replace(own, frequencies=own.frequencies[:count]))


def _usual(case: Case, own: Rotation, said: Rope, adjacent: bool) -> Iterator[Proposal]:
    """Other bases and factors that are usual."""
    dim = case.weights.head_dim
    for base in BASES:
        if base != said.theta:
            yield _with_base(base, own, said, dim, adjacent)
    for factor in FACTORS if said.kind != "default" else ():
        if factor != said.factor:
            yield _with_factor(factor, own, said, dim, adjacent)


def _with_base(base: float, own: Rotation, said: Rope, dim: int, adjacent: bool) -> Proposal:
    frequencies, _ = rope_frequencies(replace(said, theta=base), dim)
    claim = f"the base is {base:,.6g}, the model says {said.theta:,.6g}"
    rotation = replace(own, frequencies=np.asarray(frequencies), adjacent=adjacent)
    return Proposal("rope-base", claim, rotation)


def _with_factor(factor: float, own: Rotation, said: Rope, dim: int, adjacent: bool) -> Proposal:
    frequencies, size = rope_frequencies(replace(said, factor=factor), dim)
    claim = f"the factor of the {said.kind} scaling is {factor:.6g}, the model says {said.factor:.6g}"
    rotation = replace(own, frequencies=np.asarray(frequencies), factor=size, adjacent=adjacent)
    return Proposal("rope-scaling-factor", claim, rotation)


class Turns(NamedTuple):
    """What turns the input into the output: radians per position of each pair, at position 0, and size."""

    frequencies: Array  # [D/2]
    start: Array  # [D/2]
    factor: float


def measure(x: Array, y: Array, dim: int, adjacent: bool) -> Turns:
    """The turns between x and y, [T, H*D] each, where T > 1."""
    a, b = _pairs(x, dim, adjacent), _pairs(y, dim, adjacent)
    turns = (b * a.conj()).sum(axis=1) / np.maximum((np.abs(a) ** 2).sum(axis=1), 1e-300)  # [T, D/2]
    turns = np.nan_to_num(turns)
    steps = np.angle((turns[1:] * turns[:-1].conj()).sum(axis=0))
    lag = 2
    while lag < len(turns):  # the farther apart two positions, the finer the angle per position
        left = turns[lag:] * turns[:-lag].conj() * np.exp(-1j * steps * lag)
        steps = steps + np.angle(left.sum(axis=0)) / lag
        lag *= 2
    back = turns * np.exp(-1j * steps * np.arange(len(turns))[:, None])
    return Turns(steps, np.angle(back.sum(axis=0)), float(np.median(np.abs(turns))))


def _pairs(x: Array, dim: int, adjacent: bool) -> Array:
    """[T, H*D] -> [T, H, D/2] of complex numbers"""
    heads = x.reshape(len(x), -1, dim)
    if adjacent:
        return heads[..., ::2] + 1j * heads[..., 1::2]
    return heads[..., : dim // 2] + 1j * heads[..., dim // 2 :]


def _measured(case: Case, own: Rotation, said: Rope, adjacent: bool) -> Iterator[Proposal]:
    """Mistakes with a number: base, factor, positions scaled, offset, or whatever frequencies there are."""
    dim = case.weights.head_dim
    turns = measure(case.inputs[0], case.found.astype(np.float64), dim, adjacent)
    base = nearest(turns.frequencies, said.theta, lambda b: rope_frequencies(replace(said, theta=b), dim)[0])
    for value in _other(base, said.theta):
        yield _with_base(value, own, said, dim, adjacent)
        if said.kind != "default" or said.factors:
            plain = np.asarray(rope_frequencies(Rope(value), dim)[0])
            claim = f"the base is {value:,.6g}, the model says {said.theta:,.6g}, and its scaling is missing"
            yield Proposal("rope-base-unscaled", claim, Rotation(plain, adjacent=adjacent), COMBINED)
    if said.kind != "default":
        factor = nearest(
            turns.frequencies, said.factor, lambda f: rope_frequencies(replace(said, factor=f), dim)[0]
        )
        for value in _other(factor, said.factor):
            yield _with_factor(value, own, said, dim, adjacent)
    common = _common_factor(turns.frequencies, own.frequencies) if said.kind != "linear" else 1
    for value in _other(common, 1):
        claim = f"all frequencies are those of the model times {value:.6g} (positions scaled)"
        scaled = replace(own, frequencies=own.frequencies * value, adjacent=adjacent)
        yield Proposal("rope-positions-scaled", claim, scaled)
    offset = _offset(turns, own.frequencies)
    if offset:
        yield Proposal("rope-offset", _offset_claim(offset), replace(own, offset=offset, adjacent=adjacent))
    if abs(turns.factor / own.factor - 1) > 1e-3:
        claim = f"cos and sin are multiplied by {turns.factor:.5g}, the model says {own.factor:.5g}"
        yield Proposal("rope-attention-factor", claim, replace(own, factor=turns.factor, adjacent=adjacent))
    yield from _other_frequencies(turns, own, adjacent)


def _other_frequencies(turns: Turns, own: Rotation, adjacent: bool) -> Iterator[Proposal]:
    found, right = turns.frequencies, own.frequencies
    other = np.flatnonzero(np.abs(found - right) > 1e-3 * np.abs(right))
    if len(other):
        first = other[0]
        claim = f"{len(other)} of {len(right)} pairs turn at other frequencies than the model says; "
        claim += f"pair {first} at {found[first]:.6g} a position, not {right[first]:.6g}"
        yield Proposal("rope-frequencies", claim, Rotation(found, turns.factor, adjacent), DESCRIBED)


def nearest(found: Array, own: float, frequencies: Callable[[float], Array]) -> float:
    """The number, within a thousand times the model's own, that gives frequencies nearest to those found:
    the best of a grid, then the golden section between its neighbours."""

    def apart(log: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.nan_to_num(np.square(frequencies(math.exp(log)) - found).sum(), nan=math.inf))

    logs = [math.log(own * step) for step in GRID if own * step > 1]
    if not logs:
        return own
    best = min(range(len(logs)), key=lambda i: apart(logs[i]))
    low, high = logs[max(best - 1, 0)], logs[min(best + 1, len(logs) - 1)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if apart(a) < apart(b) else (a, high)
    return math.exp((low + high) / 2)


def _common_factor(found: Array, own: Array) -> float:
    return float((found * own).sum() / np.square(own).sum())


def _offset(turns: Turns, own: Array) -> int:
    """The whole number of positions whose turns are nearest to those at position 0."""
    candidates = np.arange(-FARTHEST // 8, FARTHEST)
    apart = np.abs(np.exp(1j * candidates[:, None] * own) - np.exp(1j * turns.start)).sum(axis=1)
    return int(candidates[apart.argmin()])


def _other(value: float, own: float) -> Iterator[float]:
    """A measured number rounded, then as it is; nothing that reads like the model's own."""
    for candidate in _rounded(value):
        if f"{candidate:.6g}" != f"{own:.6g}":
            yield candidate


def _rounded(value: float) -> Iterator[float]:
    """The number with one and two digits where it is that within 1 %, and as it was measured."""
    if not math.isfinite(value) or not value:
        return
    near = dict.fromkeys(float(f"{value:.{digits}e}") for digits in (0, 1))
    yield from (rounded for rounded in near if abs(rounded / value - 1) < 0.01)
    if abs(value) < 1:
        for whole in {round(1 / value)} - {0}:
            if abs(value * whole - 1) < 0.01 and 1 / whole not in near:
                yield 1 / whole
    yield value
