"""Mistakes of RoPE. Angles, and with them base, scaling and offset, are measured from q and q after RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..architecture.plan import kind_of
from ..architecture.rope import Rope, rope_frequencies
from ..arrays.stats import Array
from ..comparison.rounding import to_bf16, to_f16
from .fitting import COMBINED, DESCRIBED, Family
from .hypotheses import Case, Hypothesis, words_of_kind
from .operations import inputs_of
from .rules import Rotation, Rules
from .turns import Turns, common_factor, measure, nearest, offset_of

BASES = (1e2, 5e2, 1e3, 1e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 5e6, 1e7)  # usual ones
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0)  # usual ones of scaling
PARTS = (0.5, 0.25, 0.75)  # shares of a head that some architectures turn
WHOLE, NEAR = np.arange(-512.0, 4096.0), np.arange(-8.0, 8.0, 0.125)  # offsets looked for
ROUNDED = {"bf16": ("bfloat16", to_bf16), "f16": ("float16", to_f16)}
STRETCHES = (0.125, 0.25, 0.5, 4.0, 8.0)  # usual ones of positions
PART_LEFT = 0.1  # of a pair's error is left at its own frequency, where that is another
UNTURNED, TWICE = ", not turned at all", " turned twice"
BACK = " turned in the other direction (sin negated)"
PAIRED = " (and pairs are interleaved: neighbours, not halves)"


def rope(case: Case) -> Iterator[Hypothesis | Family]:
    """Every mistake of RoPE: those without a number first, then those with one."""
    model = case.weights.model
    if case.rules.rotation is None or model.config.rope is None:
        return
    if not case.kinds & {"attn.q_rope", "attn.k_rope"}:
        return
    own, said = case.rules.rotation, model.config.rope
    yield from _plain(case, own, said)
    yield from _scalings(case, own, said)
    for adjacent in (False, True):
        for family in _numbers(case, own, said, _turns(case, adjacent)):
            yield _coarse(case, _interleaved(family) if adjacent else family)


def _coarse(case: Case, family: Family) -> Family:
    """The same with frequencies that an engine may round as it rounds everything."""
    if case.judge.plain.precision.name not in ROUNDED:
        return family
    _, rounding = ROUNDED[case.judge.plain.precision.name]
    return replace(family, coarse=lambda value: _rounded(family.at(value), rounding))


def _rounded(rules: Rules, rounding: Callable[[Array], Array]) -> Rules:
    assert rules.rotation is not None
    return rules.turning(frequencies=rounding(rules.rotation.frequencies).astype(np.float64))


def frequencies(case: Case) -> Iterator[Hypothesis]:
    """Pairs that turn otherwise, each as it does."""
    if case.rules.rotation is None or not case.kinds & {"attn.q_rope", "attn.k_rope"}:
        return
    for adjacent in (False, True):
        turns = _turns(case, adjacent)
        if turns is not None:
            yield from _other_frequencies(case, turns, adjacent)


def _turns(case: Case, adjacent: bool) -> Turns | None:
    """What turns the input into the output, where the dump has both."""
    if not case.alone or len(case.found) < 2:
        return None
    return measure(case.inputs[0], case.found.astype(np.float64), case.weights.head_dim, adjacent)


def _interleaved(family: Family) -> Family:
    """The same with pairs that are neighbours."""

    def at(value: float) -> Rules:
        return family.at(value).turning(adjacent=True)

    special = {value: (id, claim + PAIRED) for value, (id, claim) in family.special.items()}
    claim = lambda value: family.claim(value) + PAIRED  # noqa: E731
    return replace(family, at=at, claim=claim, special=special, rank=COMBINED)


def _subject(case: Case) -> tuple[str, str]:
    """What the values are, and of what: "your values are", "your own q" """
    if case.kind not in ("attn.q_rope", "attn.k_rope"):
        return "your values follow from", "q and k"
    (source,) = inputs_of(case.rules, case.name)
    words = words_of_kind(kind_of(source))
    return "your values are", f"your own {words}" if case.alone else words


def _plain(case: Case, own: Rotation, said: Rope) -> Iterator[Hypothesis]:
    """Mistakes without a number, and those that `_stretched` does not tell."""
    rules, (begin, source) = case.rules, _subject(case)
    claim = f"{begin} the interleaved pairing of {source}"
    yield Hypothesis("rope-interleaved", claim, rules.turning(adjacent=True))
    claim += ", turned in the other direction"
    back = rules.turning(adjacent=True, frequencies=-own.frequencies)
    yield Hypothesis("rope-interleaved-direction", claim, back, rank=COMBINED)
    for words, rounding in ROUNDED.values():
        claim = f"the frequencies of RoPE are rounded to {words}"
        yield Hypothesis("rope-frequencies-rounded", claim, _rounded(rules, rounding))
    f = own.frequencies
    if own.factor != 1 or said.kind == "linear":
        missing = replace(rules, rotation=Rotation(f * 0))
        yield Hypothesis("rope-missing", f"{begin} {source}{UNTURNED}", missing)
        twice = rules.turning(frequencies=f * 2, factor=own.factor**2)
        yield Hypothesis("rope-twice", f"{begin} {source}{TWICE}", twice)
    if said.kind == "linear":
        yield Hypothesis("rope-direction", f"{begin} {source}{BACK}", rules.turning(frequencies=-f))


def _scalings(case: Case, own: Rotation, said: Rope) -> Iterator[Hypothesis]:
    """Scaling left out or of another kind, a part of the head turned."""
    rules, dim = case.rules, case.weights.head_dim
    if said.kind != "default" or said.factors:
        kind = said.kind if said.kind != "default" else "factors"
        plain = np.asarray(rope_frequencies(Rope(said.theta), dim)[0])
        missing = replace(rules, rotation=Rotation(plain))
        yield Hypothesis("rope-scaling-missing", f"the scaling ({kind}) is missing", missing)
        if said.factor != 1 and kind != "linear":
            claim = f"all frequencies are divided by {said.factor:g} (linear scaling), not as {kind} says"
            linear = replace(rules, rotation=Rotation(plain / said.factor))
            yield Hypothesis("rope-scaling-linear", claim, linear)
    if own.factor != 1:
        claim = f"the factor {own.factor:.4g} of cos and sin (attention scaling) is missing"
        yield Hypothesis("rope-attention-factor", claim, rules.turning(factor=1.0))
    for share in PARTS:
        count = int(dim * share) // 2
        if not count:
            continue
        claim = f"only the first {2 * count} of {dim} channels of a head are turned"
        turned = np.asarray(rope_frequencies(replace(said, factors=()), 2 * count)[0])
        yield Hypothesis("rope-partial", claim, rules.turning(frequencies=turned))
        claim += " by the first frequencies of the whole"
        yield Hypothesis("rope-partial", claim, rules.turning(frequencies=own.frequencies[:count]))


def _numbers(case: Case, own: Rotation, said: Rope, measured: Turns | None) -> Iterator[Family]:
    """Mistakes with a number: base, factor, positions scaled or moved, cos and sin times a constant."""
    yield _base(case, said, measured)
    if said.kind != "default" or said.factors:
        yield _base_unscaled(case, said, measured)
    if said.kind != "default":
        yield _factor(case, own, said, measured)
    if said.kind != "linear":
        yield _stretched(case, own, measured)
    yield _offset(case, own, measured)
    yield Family(
        "rope-attention-factor", lambda factor: case.rules.turning(factor=factor),
        f"cos and sin are multiplied by {{}}, the model says {own.factor:.5g}".format,
        own=own.factor, starts=[measured.factor] if measured else [],
        silent=(1.0,) if own.factor != 1 else (),
    )  # fmt: skip


def _with(case: Case, said: Rope) -> Rules:
    frequencies, size = rope_frequencies(said, case.weights.head_dim)
    return case.rules.turning(frequencies=np.asarray(frequencies), factor=size)


def _base(case: Case, said: Rope, measured: Turns | None) -> Family:
    def frequencies(base: float) -> Array:
        return rope_frequencies(replace(said, theta=base), case.weights.head_dim)[0]

    starts = [base for base in BASES if base != said.theta]
    if measured is not None:
        starts = [nearest(measured.frequencies, said.theta, frequencies)]
    return Family(
        "rope-base", lambda base: case.rules.turning(frequencies=np.asarray(frequencies(base))),
        f"the base is {{}}, the model says {said.theta:,.6g}".format,
        own=said.theta, starts=starts, usual=BASES, low=1.01, high=1e15,
    )  # fmt: skip


def _base_unscaled(case: Case, said: Rope, measured: Turns | None) -> Family:
    """Another base and no scaling."""
    family = _base(case, Rope(said.theta), measured)
    claim = lambda base: family.claim(base) + ", and its scaling is missing"  # noqa: E731
    at = lambda base: _with(case, Rope(base))  # noqa: E731
    return replace(family, claim=claim, at=at, rank=COMBINED)


def _factor(case: Case, own: Rotation, said: Rope, measured: Turns | None) -> Family:
    def frequencies(factor: float) -> Array:
        return rope_frequencies(replace(said, factor=factor), case.weights.head_dim)[0]

    starts = [factor for factor in FACTORS if factor != said.factor]
    if measured is not None:
        starts = [nearest(measured.frequencies, said.factor, frequencies)]
    none = ("rope-scaling-missing", f"the scaling ({said.kind}) is missing")
    factorless = rope_frequencies(replace(said, factor=1.0), case.weights.head_dim)[1] == 1
    return Family(
        "rope-scaling-factor", lambda factor: _with(case, replace(said, factor=factor)),
        f"the factor of the {said.kind} scaling is {{}}, the model says {said.factor:.6g}".format,
        own=said.factor, starts=starts, usual=FACTORS, low=0.01, high=1e4,
        special={1.0: none} if factorless else {},
    )  # fmt: skip


def _stretched(case: Case, own: Rotation, measured: Turns | None) -> Family:
    """All frequencies times a number: turned twice, backwards, not at all, or positions scaled."""
    begin, source = _subject(case)
    special = {-1.0: ("rope-direction", f"{begin} {source}{BACK}")}
    if own.factor == 1:
        special[2.0] = ("rope-twice", f"{begin} {source}{TWICE}")
        special[0.0] = ("rope-missing", f"{begin} {source}{UNTURNED}")
    starts = list(STRETCHES)
    if measured is not None:
        starts.append(common_factor(measured.frequencies, own.frequencies))
    return Family(
        "rope-positions-scaled", lambda by: case.rules.turning(frequencies=own.frequencies * by),
        "all frequencies are those of the model times {} (positions scaled)".format,
        own=1.0, starts=starts, usual=STRETCHES, special=special, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _offset(case: Case, own: Rotation, measured: Turns | None) -> Family:
    starts = [1.0, -1.0]
    if measured is not None:
        starts += [offset_of(measured, own.frequencies, where) for where in (WHOLE, NEAR)]
    return Family(
        "rope-offset", lambda offset: case.rules.turning(offset=offset),
        "your positions begin at {}, not at 0".format,
        own=0.0, starts=starts, usual=(*WHOLE[504:521],), low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _other_frequencies(case: Case, turns: Turns, adjacent: bool) -> Iterator[Hypothesis]:
    assert case.rules.rotation is not None
    right = case.rules.rotation.frequencies
    told = turns.left(turns.frequencies) < PART_LEFT * turns.left(right)
    found, other = np.where(told, turns.frequencies, right), np.flatnonzero(told)
    if len(other):
        first = other[0]
        claim = f"{len(other)} of {len(right)} pairs turn at other frequencies than the model says; "
        claim += f"pair {first} at {found[first]:.6g} a position, not {right[first]:.6g}"
        rules = replace(case.rules, rotation=Rotation(found, turns.factor, adjacent))
        yield Hypothesis("rope-frequencies", claim + PAIRED * adjacent, rules, rank=DESCRIBED)
