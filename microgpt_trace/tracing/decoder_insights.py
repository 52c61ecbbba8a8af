"""What the trace of a decoder reveals: sentences, each the outcome of a predicate on measured numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from ..architecture.model import TraceInput
from ..architecture.plans.kinds import Multiply, Norm, Rotation, Softmax
from ..decoder.model import Decoder
from ..measuring.definitions import GROWN, MASSIVE, SINK, STILL
from ..measuring.norms import NormRows
from ..rounding.invariants import OF_NORMS
from ..text.printable import shown_token
from ..text.wording import counted, fixed, number, percent, told_apart
from .findings import Found, Insight, Numbers, unknown
from .microgpt_insights import WHOLE
from .result import LayerRow

TITLES = {
    "growth": "Growth of the residual stream",
    "sinks": "Attention sinks",
    "turn": "Layers that barely turn the stream",
}


def insights_of(
    model: Decoder, layers: Sequence[LayerRow], norms: NormRows, inputs: TraceInput
) -> Iterator[Insight]:
    """Evaluate every predicate on the layers of a run."""
    plan, (_, *left) = model.plan, model.plan.streams
    weights = plan.of_kind(Softmax)[max(layers, key=lambda row: row.sink or 0.0).layer].name
    makers: dict[str, tuple[str, str, Callable[[], Found]]] = {  # with the event that shows most of it
        norms.of.lower(): (
            f"{norms.of} normalization", plan.of_kind(Norm)[0].name, lambda: _normalization(norms)
        ),
        "growth": (TITLES["growth"], left[-1], lambda: growth([row.row_norm for row in layers])),
        "massive": (
            "Massive activations", left[max(layers, key=lambda row: abs(row.peak)).layer],
            lambda: _massive(layers, inputs),
        ),
        "sinks": (TITLES["sinks"], weights, lambda: _sinks(model, layers, inputs)),
        "turn": (
            TITLES["turn"], left[max(layers, key=lambda row: row.turn).layer],
            lambda: turn({row.layer: row.turn for row in layers}),
        ),
    }  # fmt: skip
    reason = _unfit(layers, norms)
    for identifier, (title, about, make) in makers.items():
        yield Insight(identifier, title, *(unknown(reason) if reason else make()), about)
    yield Insight("pattern", "Comparison with microGPT", *_pattern(model))


def _unfit(layers: Sequence[LayerRow], norms: NormRows) -> str:
    """Why the layers' figures say nothing, or nothing of the kind."""
    if any(row.nan_count or row.inf_count for row in layers):
        return "the run holds values that are not finite"
    figures = [*norms.off.values(), *(v for row in layers for v in (row.row_norm, row.turn, row.peak))]
    return (
        "" if all(map(math.isfinite, figures)) else "a row of the stream is zero, or too large to be squared"
    )


def _normalization(norms: NormRows) -> Found:
    off, least = norms.off, norms.least
    if not off:
        return unknown("no norm has a gain")
    worst, tightest = norms.worst, norms.tightest
    numbers: Numbers = {"farthest": off[worst], "least_rms": least[tightest]}
    measured = f"off by {off[worst]:.1e} at worst, after {worst}"
    if norms.without_gain:
        measured += "; channels whose gain is 0 left out"
    if off[worst] > OF_NORMS:
        text = f"The invariant does not hold: with the {norms.undone} a row's RMS is not 1 ({measured})."
        return False, text, numbers
    text = (
        f"With the {norms.undone}, every row has RMS 1 after each of the {len(off)} norms, less what eps "
        f"takes ({measured}). "
    )
    if least[tightest] < WHOLE:
        text += (
            f"That is much: a row after {tightest} has RMS {number(least[tightest])}, for it came in "
            "small beside the root of eps. There a norm's L2 tells of what went in."
        )
        return False, text, numbers
    text += (
        f"This is a structural invariant: a norm's L2 tells of its gain{' and bias' * norms.centred}, not of "
        f"what went in (of which eps takes {1 - least[tightest]:.1e} at most)."
    )
    return True, text, numbers


def growth(sizes: Sequence[float], what: str = "the median row norm") -> Found:
    """Whether the stream grows, by its size after each layer, `what` in words."""
    first, last = sizes[0], sizes[-1]
    numbers: Numbers = {"first": first, "last": last}
    if len(sizes) < 2:
        return None, "Not evaluated: the model has one layer.", numbers
    factor, steps = last / first, [b / a for a, b in pairwise(sizes)]
    top = max(range(len(steps)), key=lambda i: abs(math.log(steps[i])))
    high, low = max(sizes), min(sizes)
    between = [f"at most {number(high)} after layer {sizes.index(high)}"] * (high not in (first, last))
    between += [f"at least {number(low)} after layer {sizes.index(low)}"] * (low not in (first, last))
    grown, _ = told_apart(factor, GROWN, fixed, 2)
    if factor >= GROWN:
        lead = f"The stream grows × {grown}"
    elif factor <= 1 / GROWN:
        lead = f"The stream shrinks to × {number(factor)}"
    elif GROWN * low >= first and high <= GROWN * first:
        lead = f"The stream keeps its size (× {grown}; growth would be × {GROWN:g} or more)"
    else:
        lead = f"The stream leaves its size and comes back near it (× {grown})"
    text = (
        f"{lead}: {what} goes from {number(first)} after layer 0 to {number(last)} after layer "
        f"{len(sizes) - 1}{', ' * bool(between)}{' and '.join(between)}. The largest step is × "
        f"{number(steps[top])}, in layer {top + 1}."
    )
    return factor >= GROWN, text, numbers | {"largest_step": steps[top]}


def _massive(layers: Sequence[LayerRow], inputs: TraceInput) -> Found:
    def times(row: LayerRow) -> float:
        return abs(row.peak) / row.typical if row.typical else math.inf

    row = max(layers, key=times)
    ratio, limit = told_apart(times(row), MASSIVE, fixed, 0 if times(row) >= 100 else 1)
    token = shown_token(inputs.labels[row.peak_position])
    place = (
        f"{number(row.peak)} at position {row.peak_position} ({token}), "
        f"channel {row.peak_channel}, after layer {row.layer}"
    )
    measured = f"{ratio} times the median magnitude there"
    if not row.typical:
        measured = "where the median magnitude is 0"
    numbers: Numbers = {"peak": row.peak, "times_typical": times(row) if row.typical else None}
    if times(row) < MASSIVE:
        text = f"None: farthest out is {place}, {measured}; massive would be {limit} times or more."
        return False, text, numbers
    massive = [r for r in layers if times(r) >= MASSIVE]
    same = [r for r in massive if (r.peak_position, r.peak_channel) == (row.peak_position, row.peak_channel)]
    here = f", {'all' if len(same) == len(massive) else f'{len(same)} of them'} at this position and channel"
    text = (
        f"Farthest out is {place}, {measured}. After {len(massive)} of {counted(len(layers), 'layer')} the "
        f"largest element is {limit} times the median or more{here * (len(massive) > 1)}."
    )
    return True, text, numbers


def _sinks(model: Decoder, layers: Sequence[LayerRow], inputs: TraceInput) -> Found:
    windowed = model.config.windowed_layers
    shares = {row.layer: row.sink for row in layers if row.sink is not None and row.layer not in windowed}
    later = range(1, len(inputs.tokens))
    even = math.fsum(1 / (position + 1) for position in later) / max(len(later), 1)
    return sinks(shares, even, bool(windowed), "the prompt has one position")


def sinks(shares: Mapping[int, float], even: float, windowed: bool, lacking: str) -> Found:
    """Whether position 0 is an attention sink, by each layer's mean share of attention on it. `windowed` says
    that layers with a sliding window were left out, and `lacking` why there are no shares otherwise."""
    if not shares:
        return unknown("every layer has a sliding window" if windowed else lacking)
    top = max(shares, key=lambda layer: shares[layer])
    limit = even + SINK * (1 - even)
    mean = math.fsum(shares.values()) / len(shares)
    sinking = [layer for layer, share in shares.items() if share >= limit]
    numbers: Numbers = {"mean": mean, "largest": shares[top], "layers": float(len(sinking))}
    largest, least = told_apart(shares[top], limit, percent)
    judged = counted(len(shares), "layer") + " without a sliding window" * windowed
    measured = (
        f"later positions spend {mean:.0%} of their attention on position 0 on average, most in layer {top} "
        f"({largest}); spread evenly it would be {even:.0%}"
    )
    none = f"No layer of {judged} puts" if windowed else "No layer puts"
    lead = f"{len(sinking)} of {judged} put{'s' * (len(sinking) == 1)}" if sinking else none
    text = f"{lead} {least} or more on position 0: {measured}."
    return bool(sinking), text, numbers


def turn(cosines: Mapping[int, float], what: str = "median cosine") -> Found:
    """Which layers barely turn the stream, by the cosine of each layer's output and input."""
    still = [layer for layer, cosine in cosines.items() if cosine >= STILL]
    most = min(cosines, key=lambda layer: cosines[layer])
    numbers: Numbers = {"layers": float(len(still)), "smallest_cosine": cosines[most]}
    cosine, _ = told_apart(cosines[most], STILL, fixed, 3)
    measured = f"layer {most} turns it most ({what} of output and input {cosine})"
    if still:
        named = ", ".join(map(str, still[:12])) + (" …" if len(still) > 12 else "")
        keep = f"{len(still)} of {counted(len(cosines), 'layer')} keep{'s' * (len(still) == 1)}"
        text = f"{keep} a cosine of {STILL} or more: {named}; {measured}."
    else:
        text = f"No layer keeps a cosine of {STILL} or more: {measured}."
    return bool(still), text, numbers


def _pattern(model: Decoder) -> Found:
    """What a layer has that microGPT's has not, as the config and the events say."""
    config, plan, chain = model.config, model.plan, " → ".join(model.chain)
    act, gated = config.activation, bool(plan.of_kind(Multiply))
    centred = any(kind.centred for kind in plan.kinds(Norm))
    differences = [
        f"{config.n_layer} layers instead of 1" if config.n_layer > 1 else "",
        f"{act}(gate)·up in place of ReLU(up)" if gated else f"{act} in place of ReLU" * (act != "ReLU"),
        "RoPE in place of wpe" if plan.of_kind(Rotation) else "",
        "LayerNorm in place of RMSNorm" if centred else "",
        f"{config.n_kv_head} key-value heads for {config.n_head} heads" * (config.n_kv_head < config.n_head),
        f"attention no further back than {config.window} positions" if config.windowed_layers else "",
        "a gain in every norm and a norm before the head",
        "a norm of each head's q and k" if config.qk_norm else "",
        "biases" if config.biases else "",
    ]
    said = ", ".join(difference for difference in differences if difference)
    branches = [step for step in model.chain if step in ("attn", "ffn_down", "residual")]
    holds = branches == ["attn", "residual", "ffn_down", "residual"]
    lead = f"A layer does not follow microGPT's pattern ({chain}); it has"
    if holds:
        lead = "microGPT runs the same norm → attn → residual → norm → ffn → residual; this model has"
    return holds, f"{lead} {said}.", {"layers": float(config.n_layer)}
