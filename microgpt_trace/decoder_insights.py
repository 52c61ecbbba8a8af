"""What the trace of a decoder reveals: sentences, each the outcome of a predicate on measured numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from .anomalies import NORM_TOLERANCE
from .decoder import Decoder
from .insights import Insight
from .printable import shown_token
from .traces import LayerRow, TraceInput

GROWN = 2.0  # a stream that ends this many times longer than it began has grown
MASSIVE = 1000.0  # times the median magnitude: massive. Sun et al., "Massive Activations" (2024)
SINK = 0.3  # of what even attention leaves to the others, position 0 draws this share: a sink
STILL = 0.98  # a layer whose output keeps this cosine to its input barely turns the stream


def insights_of(
    model: Decoder, layers: Sequence[LayerRow], norms: Mapping[str, float], inputs: TraceInput
) -> Iterator[Insight]:
    """Evaluate every predicate on the layers of a run."""
    makers: tuple[tuple[str, str, Callable[[], Insight]], ...] = (
        ("rmsnorm", "RMSNorm normalization", lambda: _rmsnorm(norms)),
        ("growth", "Growth of the residual stream", lambda: _growth(layers)),
        ("massive", "Massive activations", lambda: _massive(layers, inputs)),
        ("sinks", "Attention sinks", lambda: _sinks(model, layers, inputs)),
        ("turn", "Layers that barely turn the stream", lambda: _turn(layers)),
    )
    reason = _unfit(layers, norms)
    for identifier, title, make in makers:
        yield Insight(identifier, title, None, f"Not evaluated: {reason}.") if reason else make()
    yield _pattern(model)


def _unfit(layers: Sequence[LayerRow], norms: Mapping[str, float]) -> str:
    """Why the layers' figures say nothing, or nothing of the kind."""
    if any(row.nan_count or row.inf_count for row in layers):
        return "the run holds values that are not finite"
    figures = [*norms.values(), *(v for row in layers for v in (row.row_norm, row.turn, row.peak))]
    if all(map(math.isfinite, figures)):
        return ""
    return "a row of the stream is zero, or too large to be squared"


def _number(value: float) -> str:
    """Four significant digits, none of them as an exponent at 22,552."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _rmsnorm(norms: Mapping[str, float]) -> Insight:
    worst = max(norms, key=lambda name: norms[name])
    holds = norms[worst] <= NORM_TOLERANCE
    measured = f"at worst {norms[worst]:.1e} off, after {worst}"
    if holds:
        text = (
            f"With the gain divided out, every row has RMS 1 (less what eps takes) after each of the "
            f"{len(norms)} norms ({measured}). This is a structural invariant: a norm's L2 tells of its "
            "gain, not of what went in."
        )
    else:
        text = f"The invariant does not hold: with the gain divided out a row's RMS is not 1 ({measured})."
    return Insight("rmsnorm", "RMSNorm normalization", holds, text, {"farthest": norms[worst]})


def _growth(layers: Sequence[LayerRow]) -> Insight:
    title = "Growth of the residual stream"
    first, last = layers[0].row_norm, layers[-1].row_norm
    factor = last / first if first else math.inf
    steps = [b.row_norm / a.row_norm if a.row_norm else math.inf
             for a, b in pairwise(layers)]  # fmt: skip
    numbers: dict[str, float | None] = {"first": first, "last": last}
    course = f"the median row norm goes from {first:.4g} to {last:.4g} over {len(layers)} layers"
    if not steps:
        return Insight("growth", title, None, "Not evaluated: the model has one layer.", numbers)
    top = max(range(len(steps)), key=steps.__getitem__)
    step = f"most in layer {top + 1} (× {steps[top]:.2f})"
    if factor >= GROWN:
        text = f"The stream grows with depth: {course}, {step}."
    else:
        text = f"The stream keeps its size: {course} ({step}); growth would be × {GROWN:g} or more."
    return Insight("growth", title, factor >= GROWN, text, numbers | {"largest_step": steps[top]})


def _massive(layers: Sequence[LayerRow], inputs: TraceInput) -> Insight:
    title = "Massive activations"

    def times(row: LayerRow) -> float:
        return abs(row.peak) / row.typical if row.typical else math.inf

    row = max(layers, key=times)
    token = shown_token(inputs.labels[row.peak_position])
    place = (
        f"{_number(row.peak)} at position {row.peak_position} ({token}), "
        f"channel {row.peak_channel}, after layer {row.layer}"
    )
    holds = times(row) >= MASSIVE
    numbers: dict[str, float | None] = {"peak": row.peak, "times_typical": times(row)}
    ratio = f"{times(row):,.0f} times the median magnitude there"
    if not holds:
        text = f"None: the largest element is {place}, {ratio}; massive would be {MASSIVE:g} times or more."
        return Insight("massive", title, False, text, numbers)
    same = [r.layer for r in layers if times(r) >= MASSIVE
            and (r.peak_position, r.peak_channel) == (row.peak_position, row.peak_channel)]  # fmt: skip
    text = (
        f"One element outweighs all others: {place}, {ratio}. It is there in {len(same)} of {len(layers)} "
        "layers."
    )
    return Insight("massive", title, True, text, numbers)


def _sinks(model: Decoder, layers: Sequence[LayerRow], inputs: TraceInput) -> Insight:
    title = "Attention sinks"
    windowed = model.config.windowed_layers
    shares = {row.layer: row.sink for row in layers if row.sink is not None and row.layer not in windowed}
    later = range(1, len(inputs.tokens))
    if not shares:
        reason = "every layer has a sliding window" if windowed else "the prompt has one position"
        return Insight("sinks", title, None, f"Not evaluated: {reason}.")
    top = max(shares, key=lambda layer: shares[layer])
    even = math.fsum(1 / (position + 1) for position in later) / max(len(later), 1)
    limit = even + SINK * (1 - even)
    mean = math.fsum(shares.values()) / len(shares)
    sinking = [layer for layer, share in shares.items() if share >= limit]
    numbers: dict[str, float | None] = {"mean": mean, "largest": shares[top], "layers": float(len(sinking))}
    measured = (
        f"later positions spend {mean:.0%} of their attention on position 0 on average, most in layer {top} "
        f"({shares[top]:.0%}); spread evenly it would be {even:.0%}"
    )
    if sinking:
        text = f"{len(sinking)} of {len(shares)} layers put {limit:.0%} or more on position 0: {measured}."
    else:
        text = f"No layer puts {limit:.0%} or more on position 0: {measured}."
    return Insight("sinks", title, bool(sinking), text, numbers)


def _turn(layers: Sequence[LayerRow]) -> Insight:
    title = "Layers that barely turn the stream"
    still = [row.layer for row in layers if row.turn >= STILL]
    most = min(layers, key=lambda row: row.turn)
    numbers: dict[str, float | None] = {"layers": float(len(still)), "smallest_cosine": most.turn}
    measured = f"layer {most.layer} turns it most (median cosine of output and input {most.turn:.3f})"
    if still:
        named = ", ".join(map(str, still[:12])) + (" …" if len(still) > 12 else "")
        text = f"{len(still)} of {len(layers)} layers keep a cosine of {STILL} or more: {named}; {measured}."
    else:
        text = f"Every layer turns it (no cosine of {STILL} or more): {measured}."
    return Insight("turn", title, bool(still), text, numbers)


def _pattern(model: Decoder) -> Insight:
    """What a layer has that microGPT's has not, as the config and the events say."""
    config, chain = model.config, " → ".join(model.chain)
    differences = [
        f"{config.n_layer} layers instead of 1" if config.n_layer > 1 else "",
        "SiLU(gate)·up in place of ReLU(up)" if "gate_proj" in model.chain else "",
        "RoPE in place of wpe",
        f"{config.n_kv_head} key-value heads for {config.n_head} heads" * (config.n_kv_head < config.n_head),
        f"attention no further back than {config.window} positions" if config.windowed_layers else "",
        "a gain in every norm and a norm before the head",
        "a norm of each head's q and k" if config.qk_norm else "",
        "biases" if config.biases else "",
    ]
    said = ", ".join(difference for difference in differences if difference)
    branches = [step for step in model.chain if step in ("attn", "ffn_down", "residual")]
    holds = branches == ["attn", "residual", "ffn_down", "residual"]
    lead = (
        "microGPT runs the same norm → attn → residual → norm → ffn → residual; this model has"
        if holds
        else f"A layer does not follow microGPT's pattern ({chain}); it has"
    )
    numbers: dict[str, float | None] = {"layers": float(config.n_layer)}
    return Insight("pattern", "Comparison with microGPT", holds, f"{lead} {said}.", numbers)
