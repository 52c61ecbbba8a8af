"""What the trace reveals: sentences, each the outcome of a predicate on measured numbers.

Every function takes the forward events and returns an Insight worded by what was found; a
predicate that is false, or could not be evaluated, says so. Nothing here is a fixed text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .brief import one_line
from .events import TraceEvent
from .parameters import Config
from .stats import TensorStats

NORM_TOLERANCE = 0.01  # how far RMSNorm's output may lie from sqrt(rows * width)
SMALL_BRANCH = 0.25  # a branch below this share of the stream is a small perturbation
SPARSE = (0.2, 0.8)  # the share of zeros that makes a ReLU "sparse"
CHANCE_BAND = 0.25  # nats around ln V that count as chance


@dataclass(frozen=True, slots=True)
class Insight:
    """A predicate and its outcome: `holds` is None where it could not be evaluated."""

    id: str
    title: str
    holds: bool | None
    text: str
    numbers: dict[str, float | None] = field(default_factory=dict)

    __repr__ = one_line


Stats = dict[str, TensorStats]


def insights_of(events: Sequence[TraceEvent], losses: Sequence[float], config: Config) -> list[Insight]:
    """Evaluate every predicate on the forward events of a run."""
    stats = {event.name: event.stats for event in events if event.stats is not None}
    rows = len(losses)
    makers: list[tuple[str, str, Callable[[], Insight]]] = [
        ("rmsnorm", "RMSNorm normalization", lambda: _rmsnorm(stats, rows, config)),
        ("attention", "Attention against the residual stream", lambda: _attention(stats, config)),
        ("relu", "ReLU sparsity", lambda: _relu(stats, config)),
        ("predictions", "Predictions", lambda: _predictions(losses, config)),
        ("pattern", "Comparison with Llama and Qwen", lambda: _pattern([e.name for e in events], config)),
    ]
    insights = []
    for identifier, title, make in makers:
        needed = stats.values() if identifier != "pattern" else ()
        if any(s.nonfinite_count for s in needed):
            text = "Not evaluated: the run holds values that are not finite."
            insights.append(Insight(identifier, title, None, text))
        else:
            insights.append(make())
    return insights


def _l2(stats: Stats, name: str) -> float:
    value = stats[name].l2_norm
    assert value is not None  # the caller made sure that everything is finite
    return value


def _several(values: Iterable[float], digits: int = 2) -> str:
    """One number, or the range of several that print differently: "8.94" or "8.91 to 8.94"."""
    ordered = sorted(values)
    low, high = (f"{v:.{digits}f}" for v in (ordered[0], ordered[-1]))
    return low if low == high else f"{low} to {high}"


def _rmsnorm(stats: Stats, rows: int, config: Config) -> Insight:
    names = [n for n in stats if n.endswith(".norm")]
    expected = math.sqrt(rows * config.n_embd)
    found = [_l2(stats, name) for name in names]
    worst = max(found, key=lambda value: abs(value - expected))
    before = _l2(stats, "embed.sum")
    holds = abs(worst / expected - 1) <= NORM_TOLERANCE
    numbers: dict[str, float | None] = {"expected": expected, "farthest": worst, "before": before}
    shape = f"√({rows}·{config.n_embd}) = {expected:.2f}"
    if holds:
        text = (
            f"L2 = {_several(found)} after each of the {len(names)} norms, whatever went in "
            f"({before:.2f} before the first). This is a structural invariant: RMSNorm scales every row "
            f"to RMS 1, so a row of width {config.n_embd} has L2 √{config.n_embd} = "
            f"{math.sqrt(config.n_embd):.2f} and {rows} of them {'has' if rows == 1 else 'have'} {shape}."
        )
    else:
        if before > 1e19 * math.sqrt(rows):
            why = "The squares of an input this large leave the range of the numbers"
        elif before < 0.1 * expected:
            why = "The input is so small that eps = 1e-5 counts, or a value was replaced"
        else:
            why = "A value was replaced, or an input is too small or too large to be squared"
        text = (
            f"The invariant does not hold: L2 = {worst:.3g} after {names[found.index(worst)]}, where rows of "
            f"RMS 1 would give {shape}. {why} (L2 {before:.3g} before the first norm)."
        )
    return Insight("rmsnorm", "RMSNorm normalization", holds, text, numbers)


def _attention(stats: Stats, config: Config) -> Insight:
    title = "Attention against the residual stream"
    layers = range(config.n_layer)
    before = [_l2(stats, _stream_before(i)) for i in layers]
    written = [_l2(stats, f"layer{i}.attn.out") for i in layers]
    after = [_l2(stats, f"layer{i}.attn.residual") for i in layers]
    heads = [_l2(stats, n) for n in stats if ".attn.head" in n]
    shares = [w / b if b else math.inf for w, b in zip(written, before, strict=True)]
    top = max(shares)
    numbers: dict[str, float | None] = {
        "largest_share": top if math.isfinite(top) else None,
        "heads_min": min(heads),
        "heads_max": max(heads),
        "stream_before": before[-1],
        "stream_after": after[-1],
    }
    moves = ", ".join(f"{b:.2f} → {a:.2f}" for b, a in zip(before, after, strict=True))
    measured = (
        f"the heads write L2 {_several(heads)} each, together {_several(written)}, into a residual stream "
        f"of L2 {_several(before)}; the residual connection takes it {moves}"
    )
    if top <= SMALL_BRANCH:
        text = (
            f"Attention is a small perturbation: {measured}. It adds {top:.0%} of the stream at most; the "
            "stream carries most of the signal."
        )
    else:
        layer = shares.index(top)
        share = f"{top:.0%} of the stream's own L2" if math.isfinite(top) else "into a stream of zeros"
        text = (
            f"Attention is no small perturbation here: {measured}. In layer {layer} it writes {share} "
            f"(small would be {SMALL_BRANCH:.0%} or less)."
        )
    return Insight("attention", title, top <= SMALL_BRANCH, text, numbers)


def _stream_before(layer: int) -> str:
    return "embed.norm" if layer == 0 else f"layer{layer - 1}.mlp.residual"


def _relu(stats: Stats, config: Config) -> Insight:
    sentences, shares = [], []
    for i in range(config.n_layer):
        up, act = stats[f"layer{i}.mlp.up"], stats[f"layer{i}.mlp.act"]
        shares.append(act.zero_count / act.count)
        where = f"Layer {i}: " if config.n_layer > 1 else ""
        sentences.append(
            f"{where}{shares[-1]:.0%} of the {config.n_inner} hidden units are zero, averaged over the "
            f"positions; L2 {up.l2_norm:.2f} → {act.l2_norm:.2f}, range [{up.min:.2f}, {up.max:.2f}] → "
            f"[{act.min:.2f}, {act.max:.2f}]."
        )
    low, high = min(shares), max(shares)
    holds = SPARSE[0] <= low and high <= SPARSE[1]
    if holds:
        lead = "ReLU zeroes the negative activations and leaves a sparse representation."
    elif high > SPARSE[1]:
        lead = f"ReLU silences almost everything ({high:.0%}): most of the MLP does no work on this input."
    else:
        lead = f"ReLU zeroes little ({low:.0%}): the representation is not sparse on this input."
    text = " ".join([lead, *sentences])
    return Insight("relu", "ReLU sparsity", holds, text, {"share_min": low, "share_max": high})


def _predictions(losses: Sequence[float], config: Config) -> Insight:
    mean, chance = math.fsum(losses) / len(losses), math.log(config.vocab_size)
    typical = math.exp(-mean)
    numbers: dict[str, float | None] = {"mean_loss": mean, "chance_loss": chance, "typical_p": typical}
    measured = (
        f"mean loss {mean:.2f} against ln {config.vocab_size} = {chance:.2f}, so the target typically gets "
        f"P = {typical:.3f} against 1/{config.vocab_size} = {1 / config.vocab_size:.3f}"
    )
    if abs(mean - chance) <= CHANCE_BAND:
        return Insight(
            "predictions",
            "Predictions",
            False,
            f"About what chance gives, within {CHANCE_BAND} of it: {measured}.",
            numbers,
        )
    if mean < chance:
        text = f"The model has learned something about this text: {measured}."
        return Insight("predictions", "Predictions", True, text, numbers)
    text = f"Worse than chance: {measured}. The model is confident in other characters."
    return Insight("predictions", "Predictions", False, text, numbers)


# How a layer of microGPT reads in the words that `apr trace` uses for Llama and Qwen.
_CHAIN = {
    "attn.norm": "attn_norm", "attn.q": "q_proj", "attn.k": "k_proj", "attn.v": "v_proj",
    "attn.context": "attn", "attn.out": "o_proj", "attn.residual": "residual", "mlp.norm": "ffn_norm",
    "mlp.up": "up_proj", "mlp.act": "ReLU", "mlp.down": "ffn_down", "mlp.residual": "residual",
}  # fmt: skip


def _pattern(names: Sequence[str], config: Config) -> Insight:
    chains = []
    for i in range(config.n_layer):
        prefix = f"layer{i}."
        kinds = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
        chains.append([_CHAIN[kind] for kind in kinds if kind in _CHAIN])
    holds = all(chain == list(_CHAIN.values()) for chain in chains)
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    numbers: dict[str, float | None] = {"layers": float(config.n_layer)}
    title = "Comparison with Llama and Qwen"
    if not holds:
        text = f"The events seen do not follow the pattern of a Llama layer: {' → '.join(chains[0])}."
        return Insight("pattern", title, False, text, numbers)
    text = (
        f"Layer 0: {' → '.join(chains[0])} (same pattern × {layers}). Llama and Qwen run the same "
        "norm → attn → residual → norm → ffn → residual, with a gate_proj beside up_proj and SiLU(gate)·up "
        "in place of ReLU, a gain in every norm, RoPE in place of wpe, and a norm before the head."
    )
    return Insight("pattern", title, True, text, numbers)
