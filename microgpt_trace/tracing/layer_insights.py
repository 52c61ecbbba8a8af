"""Predicates about the norms with a gain and about the measured layers of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise

from ..measuring.definitions import GROWN, MASSIVE, SINK, STILL, UNIT_RMS
from ..models.language_model import LanguageModel
from ..plans.event_words import words_of_kind
from ..plans.kinds import (
    Activation,
    Cap,
    Choice,
    Experts,
    Linear,
    Mixture,
    Multiply,
    Norm,
    Rotation,
    Scale,
    Scores,
    Softmax,
)
from ..plans.plan import Operation, Plan, kind_of
from ..rounding.invariants import OF_NORMS
from ..text.printable import shown_token
from ..text.wording import counted, fixed, number, percent, value_and_limit
from .collector import TracedRun
from .findings import Numbers, Outcome, unknown
from .insights import Predicate, first_of
from .result import LayerRow

TITLES = {
    "growth": "Growth of the residual stream",
    "sinks": "Attention sinks",
    "turn": "Layers that barely turn the stream",
}


def normalization(seen: TracedRun) -> Outcome:
    """Judge whether norms with a gain scale every row to RMS 1, apart from the gain."""
    norms = seen.norms
    off, least = norms.off, norms.least
    if not off:
        return unknown("no norm has a gain")
    worst, tightest = norms.worst, norms.tightest
    numbers: Numbers = {"farthest": off[worst], "least_rms": least[tightest]}
    measured = f"largest deviation {off[worst]:.1e}, after {worst}"
    if norms.without_gain:
        measured += "; channels whose gain is 0 are left out"
    if off[worst] > OF_NORMS:
        what = f"the RMS of a row is not what {norms.of} gives ({measured})"
        return False, f"The invariant does not hold: with the {norms.undone}, {what}.", numbers
    text = (
        f"With the {norms.undone}, every row has RMS 1 after each of the {len(off)} norms, apart from the "
        f"effect of eps ({measured})."
    )
    effect = (
        f"This is a structural invariant: the L2 after a norm depends on its "
        f"gain{' and bias' * norms.biased}, not on the size of its input. eps lowers the RMS "
        f"of a row by at most {1 - least[tightest]:.1e}."
    )
    if least[tightest] < UNIT_RMS:
        effect = (
            f"eps matters here: a row after {tightest} has RMS {number(least[tightest])}, because its "
            "input is small compared with √eps. The L2 after such a norm depends on the size of its input."
        )
    return least[tightest] >= UNIT_RMS, f"{text} {effect}", numbers


def growth_of(seen: TracedRun) -> Outcome:
    return growth([row.row_norm for row in seen.layers])


def growth(sizes: Sequence[float], what: str = "the median row norm") -> Outcome:
    """Judge whether the residual stream grows. `sizes` has the size of the stream after each layer, and
    `what` describes the size in words."""
    first, last = sizes[0], sizes[-1]
    numbers: Numbers = {"first": first, "last": last}
    if len(sizes) < 2:
        return None, "Not evaluated: the model has one layer.", numbers
    factor, steps = last / first, [b / a for a, b in pairwise(sizes)]
    top = max(range(len(steps)), key=lambda i: abs(math.log(steps[i])))
    high, low = max(sizes), min(sizes)
    extremes = [f"a maximum of {number(high)} after layer {sizes.index(high)}"] * (high not in (first, last))
    extremes += [f"a minimum of {number(low)} after layer {sizes.index(low)}"] * (low not in (first, last))
    grown, _ = value_and_limit(factor, GROWN, fixed, 2)
    if factor >= GROWN:
        lead = f"The stream grows × {grown}"
    elif factor <= 1 / GROWN:
        lead = f"The stream shrinks to × {number(factor)}"
    elif GROWN * low >= first and high <= GROWN * first:
        lead = f"The stream keeps its size (× {grown}; growth would be × {GROWN:g} or more)"
    else:
        lead = f"The stream changes its size, but ends near its first size (× {grown})"
    text = (
        f"{lead}: {what} goes from {number(first)} after layer 0 to {number(last)} after layer "
        f"{len(sizes) - 1}{', with ' * bool(extremes)}{' and '.join(extremes)}. The largest change is × "
        f"{number(steps[top])}, in layer {top + 1}."
    )
    return factor >= GROWN, text, numbers | {"largest_step": steps[top]}


def massive(seen: TracedRun) -> Outcome:
    """Judge whether an element of the residual stream is much larger than the median."""
    layers, inputs = seen.layers, seen.inputs

    def times(row: LayerRow) -> float:
        return abs(row.peak) / row.typical if row.typical else math.inf

    row = max(layers, key=times)
    ratio, limit = value_and_limit(times(row), MASSIVE, fixed, 0 if times(row) >= 100 else 1)
    numbers: Numbers = {"peak": row.peak, "times_typical": times(row) if row.typical else None}
    place = (
        f"The most extreme element is {number(row.peak)} at position {row.peak_position} "
        f"({shown_token(inputs.labels[row.peak_position])}), channel {row.peak_channel}, after layer "
        f"{row.layer}, "
        f"{f'{ratio} times the median magnitude there' if row.typical else 'where the median magnitude is 0'}"
    )
    if times(row) < MASSIVE:
        return False, f"None. {place}. A massive element has {limit} times the median or more.", numbers
    found = [r for r in layers if times(r) >= MASSIVE]
    same = [r for r in found if (r.peak_position, r.peak_channel) == (row.peak_position, row.peak_channel)]
    count = "all" if len(same) == len(found) else len(same)
    here = f", in {count} of these layers at this position and channel"
    text = (
        f"{place}. After {len(found)} of {counted(len(layers), 'layer')} the largest element is {limit} "
        f"times the median or more{here * (len(found) > 1)}."
    )
    return True, text, numbers


def sinks_of(seen: TracedRun) -> Outcome:
    windows = [kind.window for kind in seen.plan.kinds(Softmax)]
    rows = [row for row in seen.layers if windows[row.layer] is None]
    shares = {row.layer: row.sink for row in rows if row.sink is not None}
    later = range(1, len(seen.inputs.tokens))
    even = math.fsum(1 / (position + 1) for position in later) / max(len(later), 1)
    return sinks(shares, even, any(windows), "the prompt has one position")


def sinks(shares: Mapping[int, float], even: float, windowed: bool, reason: str) -> Outcome:
    """Judge whether position 0 is an attention sink. For each layer, `shares` has the mean share of attention
    that later positions put on position 0. `even` is the share of position 0 in uniform attention. `windowed`
    is True if layers with a sliding window were left out. If `shares` is empty although no layer was left
    out, `reason` explains why."""
    if not shares:
        return unknown("every layer has a sliding window" if windowed else reason)
    top = max(shares, key=lambda layer: shares[layer])
    limit = even + SINK * (1 - even)
    mean = math.fsum(shares.values()) / len(shares)
    sinking = [layer for layer, share in shares.items() if share >= limit]
    numbers: Numbers = {"mean": mean, "largest": shares[top], "layers": float(len(sinking))}
    largest, least = value_and_limit(shares[top], limit, percent)
    text = (
        f"In {len(sinking)} of {counted(len(shares), 'layer')}{' without a sliding window' * windowed}, "
        f"later positions put {least} or more of their attention on position 0. The mean of these "
        f"layers is {mean:.0%}, and the largest share is {largest} (layer {top}). Uniform attention would "
        f"put {even:.0%} on position 0."
    )
    return bool(sinking), text, numbers


def turn_of(seen: TracedRun) -> Outcome:
    return turn({row.layer: row.turn for row in seen.layers})


def turn(cosines: Mapping[int, float], what: str = "median cosine") -> Outcome:
    """Judge which layers barely change the direction of the residual stream. `cosines` has the cosine of the
    input and output of each layer, and `what` describes the cosine in words."""
    still = [layer for layer, cosine in cosines.items() if cosine >= STILL]
    most = min(cosines, key=lambda layer: cosines[layer])
    numbers: Numbers = {"layers": float(len(still)), "smallest_cosine": cosines[most]}
    cosine, _ = value_and_limit(cosines[most], STILL, fixed, 3)
    named = ": " * bool(still) + ", ".join(map(str, still[:12])) + " …" * (len(still) > 12)
    text = (
        f"The {what} of input and output is {STILL} or more in {len(still)} of "
        f"{counted(len(cosines), 'layer')}{named}. Layer {most} turns the stream most (cosine {cosine})."
    )
    return bool(still), text, numbers


PATTERN = ("norm", "attn", "residual", "norm", "ffn", "residual")  # a layer of microGPT


def pattern(seen: TracedRun) -> Outcome:
    """Compare the layers of the model with a layer of microGPT."""
    plan, depth = seen.plan, len(seen.plan.layers)
    patterns = [tuple(step for step, _ in groupby(_steps(plan, rows))) for rows in plan.layers]
    others = [own for own in patterns if own != PATTERN]
    lead = f"microGPT runs the same pattern: {' → '.join(PATTERN)}. This model has"
    if others:
        where = "The layers of this model" if len(others) == depth else f"{len(others)} of {depth} layers"
        lead = f"{where} do not follow microGPT's pattern, but run {' → '.join(others[0])}. This model has"
    differences = [f"{depth} layers instead of 1" if depth > 1 else "", *_differences(seen.model)]
    return not others, f"{lead} {', '.join(filter(None, differences))}.", {"layers": float(depth)}


def _steps(plan: Plan, rows: Sequence[Operation]) -> Iterator[str]:
    """Yield the norms, the branches and the residual sums of a layer."""
    products = {plan.product_of(branch).name for branch in plan.branches}
    for row in rows:
        if row.name in products:
            yield "attn" if row.stage == "attention" else "ffn"
        elif row.name in plan.residuals:
            yield "residual"
        elif isinstance(row.kind, Norm) and row.name not in plan.heads:
            yield "norm"


def _differences(model: LanguageModel) -> Iterator[str]:
    """Yield what the rows of the model have and the rows of microGPT lack, or an empty text."""
    config, plan, depth = model.config, model.plan, len(model.plan.layers)
    act, norms, turns = plan.kinds(Activation)[0].function, plan.of_kind(Norm), plan.of_kind(Rotation)
    gated, turned = bool(plan.of_kind(Multiply)), len({row.layer for row in turns})
    yield f"{act}(gate)·up in place of ReLU(up)" if gated else f"{act} in place of ReLU" * (act != "ReLU")
    where = " for a part of each head" * any(row.kind.channels < row.kind.head_dim for row in turns)
    where += f" in {turned} of {depth} layers" * (turned < depth)
    yield f"RoPE in place of wpe{where}" if turned else ""
    centred = [row.kind.centred for row in norms]
    yield ("LayerNorm in place of RMSNorm" if all(centred) else "LayerNorm in some places") * any(centred)
    counts = {max(kind.group) + 1 for kind in plan.kinds(Scores)} - {config.n_head}
    shared = f"{' or '.join(map(str, sorted(counts)))} key-value head{'s' * (counts != {1})}"
    yield f"{shared} for {config.n_head} heads" if counts else ""
    windows = " or ".join(map(str, sorted({abs(kind.window) for kind in plan.kinds(Softmax) if kind.window})))
    yield f"attention no further back than {windows} positions" if windows else ""
    gains = "a gain in every norm" if all(row.kind.gain for row in norms) else ""
    final = "a norm before the head" if any(isinstance(row.kind, Norm) for row in plan.final) else ""
    yield " and ".join(filter(None, (gains, final)))
    of_heads = [row.kind.head_dim for row in norms if row.name in plan.heads]
    yield ("a norm of each head's q and k" if all(of_heads) else "a norm of q and k") * bool(of_heads)
    yield "biases" if any(row.bias for row in plan.of_kind(Linear)) else ""
    experts, mixed = [kind.experts for kind in plan.kinds(Experts)], len(plan.of_kind(Choice))
    shared = " and a shared expert" * (len(plan.of_kind(Mixture)) > mixed)
    where = f"{shared} for each position" + f" in {mixed} of {depth} layers" * (mixed < depth)
    yield f"{plan.kinds(Choice)[0].count} of {experts[0]} experts{where}" if experts else ""
    yield "attention sinks" if any(kind.sinks for kind in plan.kinds(Softmax)) else ""
    inside = plan.chosen_by  # the factors and limits inside experts belong to the function of the MLP
    scaled = [row for row in plan.of_kind(Scale, Cap) if row.name not in inside]
    for name, kind in {kind_of(row.name): row.kind for row in scaled}.items():
        ended = "capped " if isinstance(kind, Cap) else "scaled "
        words = ended * (name == "logits") + words_of_kind(name)
        yield words if words.endswith("s") else f"a {words}"


PREDICATES = (
    Predicate("{}", "{} normalization", normalization, first_of(Norm)),
    Predicate("growth", TITLES["growth"], growth_of, lambda run: run.streams[-1]),
    Predicate(
        "massive", "Massive activations", massive,
        lambda run: run.streams[max(run.layers, key=lambda row: abs(row.peak)).layer],
    ),
    Predicate(
        "sinks", TITLES["sinks"], sinks_of,
        lambda run: run.plan.of_kind(Softmax)[max(run.layers, key=lambda row: row.sink or 0.0).layer].name,
    ),
    Predicate(
        "turn", TITLES["turn"], turn_of,
        lambda run: run.streams[max(run.layers, key=lambda row: row.turn).layer],
    ),
    Predicate("pattern", "Comparison with microGPT", pattern),
)  # fmt: skip
