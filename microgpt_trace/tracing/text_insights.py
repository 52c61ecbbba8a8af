"""Predicates about a whole text, in which every position has a target, by the statistics of its events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter

import numpy as np

from ..arrays.stats import TensorStats
from ..measuring.definitions import UNIT_RMS
from ..plans.event_words import steps_of
from ..plans.kinds import Activation, Norm, Probabilities, Softmax
from ..rounding.invariants import OF_NORMS
from ..text.wording import at_most, counted, decimals, fixed, listed, percent, span, value_and_limit
from .collector import TracedRun
from .findings import Numbers, Outcome, unknown
from .insights import Predicate, first_of

SMALL_BRANCH = 0.25  # largest L2 of a small perturbation, as a share of the residual stream's L2
SPARSE = (0.2, 0.8)  # the output of ReLU is called sparse if its share of zeros is in this range
SPARSELY = "leaves a sparse representation"
ENOUGH = 20.0  # smallest likelihood ratio that counts as evidence (by chance, for at most 1 text in 20)
LARGE = math.log(1e6)  # log of a ratio: larger ratios are printed as powers of ten

Stats = Mapping[str, TensorStats]


def _l2(stats: Stats, name: str) -> float:
    value = stats[name].l2_norm
    assert value is not None  # the caller has checked that all values are finite
    return value


def rmsnorm(seen: TracedRun) -> Outcome:
    """Judge whether norms without gain scale every row to RMS 1."""
    stats, norms, rows = seen.stats, seen.norms, len(seen.inputs.tokens)
    off, least, worst, tightest = norms.off, norms.least, norms.worst, norms.tightest
    before, width = _l2(stats, seen.plan.of_kind(Norm)[0].inputs[0]), seen.model.config.n_embd
    expected = math.sqrt(rows * width)
    numbers: Numbers = {"expected": expected, "before": before}
    if not off[worst] <= OF_NORMS:
        why = f"A row deviates by {off[worst]:.1e}, because a value was replaced"
        if not math.isfinite(off[worst]):
            why = "The squares of the input overflow or underflow"
        return False, f"The invariant does not hold: {worst} is not the RMSNorm of its input. {why}.", numbers
    numbers |= {"farthest": off[worst], "least_rms": min(least.values())}
    measured = (
        f"L2 = {span(_l2(stats, name) for name in off)} after each of the {len(off)} norms"
        f"{', whatever the size of the input' * (least[tightest] >= UNIT_RMS)} ({decimals(before)} before "
        "the first norm)"
    )
    if least[tightest] < UNIT_RMS:
        text = (
            f"Not every row has RMS 1: a row after {tightest} has RMS {decimals(least[tightest])}, because "
            f"its input is so small that eps = {norms.eps[tightest]:g} matters. {measured}. Rows of RMS 1 "
            f"would have L2 {expected:.2f}."
        )
        return False, text, numbers
    text = (
        f"{measured}. This is a structural invariant: RMSNorm scales every row to RMS 1, so a row of width "
        f"{width} has L2 √{width} = {math.sqrt(width):.2f}, and {counted(rows, 'row')} "
        f"{'has' if rows == 1 else 'have'} L2 √({rows}·{width}) = {expected:.2f}. eps lowers the RMS of a "
        f"row by at most {at_most(1 - least[tightest])}."
    )
    return True, text, numbers


def attention(seen: TracedRun) -> Outcome:
    """Judge whether attention is a small perturbation of the residual stream."""
    stats, plan = seen.stats, seen.plan
    sums = [name for name in plan.residuals if plan[name].stage == "attention"]  # one sum for each layer
    inputs = [plan.residuals[name] for name in sums]
    before, written = ([_l2(stats, name) for name in names] for names in zip(*inputs, strict=True))
    after = [_l2(stats, name) for name in sums]
    heads = [_l2(stats, name) for _, branch in inputs for name in plan[branch].parts]
    pairs = enumerate(zip(written, before, strict=True))
    shares = {layer: w / b if b else math.inf for layer, (w, b) in pairs if w or b}  # skip 0 / 0
    if not shares:
        return unknown("attention writes zeros into a residual stream of zeros")
    layer, top = max(shares.items(), key=lambda share: share[1])
    numbers: Numbers = {
        "largest_share": top if math.isfinite(top) else None, "heads_min": min(heads),
        "heads_max": max(heads), "stream_before": before[-1], "stream_after": after[-1],
    }  # fmt: skip
    changes = ", ".join(f"{decimals(b)} → {decimals(a)}" for b, a in zip(before, after, strict=True))
    share, limit = value_and_limit(top, SMALL_BRANCH, percent)
    if top <= SMALL_BRANCH / 10:
        share = f"{100 * top:.2g}%"
    output = f"the L2 of attention's output is {share} of the stream's L2 ({limit} or less is small)"
    if not math.isfinite(top):
        output = "attention writes into a residual stream of zeros"
    small = top <= SMALL_BRANCH
    text = (
        f"Attention is {'' if small else 'not '}a small perturbation: each head writes L2 {span(heads)}, and "
        f"the heads of a layer together write {span(written)}, into a residual stream of L2 {span(before)}. "
        f"The residual connection changes the L2 of the stream: {changes}. In layer {layer}"
        f"{', which has the largest share,' * (len(shares) > 1)} {output}."
    )
    return small, text, numbers


def relu(seen: TracedRun) -> Outcome:
    """Judge whether ReLU leaves a sparse representation."""
    stats, plan = seen.stats, seen.plan
    shares, sentences, shapes = [], [], plan.shapes(1)
    kinds: dict[str, list[str]] = {}
    for i, row in enumerate(plan.of_kind(Activation)):
        up, act = stats[row.inputs[0]], stats[row.name]
        shares.append(act.zero_count / act.count)
        zero, kind = _sparsity(shares[-1])
        kinds.setdefault(kind, []).append(f"layer {i} ({zero})")
        (l2_up, range_up), (l2_act, range_act) = (
            (decimals(s.l2_norm or 0), f"[{decimals(s.min or 0)}, {decimals(s.max or 0)}]") for s in (up, act)
        )
        sentences.append(
            f"{zero} of the {shapes[row.name][1]} hidden units are zero, averaged over the positions. "
            f"ReLU changes the L2 from {l2_up} to {l2_act} and the range from {range_up} to {range_act}."
        )
    text = f"ReLU {next(iter(kinds))}: {sentences[0]}"
    if len(sentences) > 1:
        lead = "; ".join(f"{kind} in {listed(layers)}" for kind, layers in kinds.items())
        text = " ".join([f"ReLU {lead}.", *(f"Layer {i}: {s}" for i, s in enumerate(sentences))])
    return list(kinds) == [SPARSELY], text, {"share_min": min(shares), "share_max": max(shares)}


def _sparsity(share: float) -> tuple[str, str]:
    """Return the share of zeros as a text, and a phrase that describes the effect of ReLU."""
    low, high = SPARSE
    if share < low:
        return value_and_limit(share, low, percent)[0], "zeroes few units"
    if share > high:
        return value_and_limit(-share, -high, percent)[0].removeprefix("-"), "silences most units"
    return percent(share), SPARSELY


def predictions(seen: TracedRun) -> Outcome:
    """Judge whether the traced text shows that the model is better or worse than a uniform guess.

    The measure is the likelihood ratio: the model's probability of the text divided by the probability under
    a uniform guess. If characters are sampled uniformly, at most one text in K has a likelihood ratio of K or
    more. If characters are sampled from the model, at most one text in K has a likelihood ratio of 1/K or
    less. Both bounds follow from Markov's inequality, because the mean of the ratio (or of its inverse) is 1.
    The bounds on the likelihood ratio hold for texts of any length.
    """
    losses, (_, size) = seen.losses, seen.probs.shape
    count = len(losses)
    wide = seen.probs.astype(np.float64)
    if wide.min() < 0 or np.abs(wide.sum(axis=1) - 1).max() > 1e-3:
        return unknown("a row of the probabilities does not sum to 1, or a probability is negative")
    surprise = -np.log(np.where(wide > 0, wide, 1.0))
    expected = (wide * surprise).sum(axis=1)
    variance = (wide * np.square(surprise - expected[:, None])).sum(axis=1)
    own, spread = float(expected.mean()), math.sqrt(float(variance.sum())) / count
    mean, chance = math.fsum(losses) / count, math.log(size)
    gain = count * (chance - mean)
    numbers: Numbers = {
        "mean_loss": mean, "chance_loss": chance, "typical_p": math.exp(-mean),
        "own_loss": own, "own_spread": spread, "log_likelihood_ratio": gain,
    }  # fmt: skip
    measured = (
        f"The mean loss over {counted(count, 'prediction')} is {decimals(mean)}; a uniform guess would give "
        f"ln {size} = {chance:.2f}. The target typically gets P = {decimals(math.exp(-mean), 3)}; a uniform "
        f"guess would give 1/{size} = {decimals(1 / size, 3)}. Characters sampled from the model's own "
        f"probabilities would give a mean loss of {decimals(own)} ± {decimals(spread)} (standard deviation "
        f"over {counted(count, 'position')})."
    )
    if seen.model.untrained:
        return None, f"{measured} The model is untrained: it has learned nothing.", numbers
    ratio, _ = value_and_limit(math.exp(min(abs(gain), 700.0)), ENOUGH, fixed, 1)
    likely = ratio if abs(gain) < LARGE else f"10^{abs(gain) / math.log(10):.1f}"
    likely += " times as likely" if gain >= 0 else " times less likely"
    if abs(gain) < math.log(ENOUGH):
        lead = "This text does not distinguish the model from a uniform guess: the model makes it"
        return None, f"{lead} {likely}, and {ENOUGH:g} times would be evidence. {measured}", numbers
    lead = "Better" if gain > 0 else "Worse"
    text = f"{lead} than a uniform guess: the model makes this text {likely}. {measured}"
    return gain > 0, text, numbers


# The steps of a microGPT layer, in the words that `apr trace` prints for Llama and Qwen.
_CHAIN = (
    "attn_norm", "q_proj", "k_proj", "v_proj", "attn", "o_proj", "residual", "ffn_norm", "up_proj", "ReLU",
    "ffn_down", "residual",
)  # fmt: skip


def pattern(seen: TracedRun) -> Outcome:
    """Compare the layers of the model with a layer of Llama."""
    chains = [steps_of(row for row in rows if row.name in seen.stats) for rows in seen.plan.layers]
    numbers: Numbers = {"layers": float(len(chains))}
    if any(chain != _CHAIN for chain in chains):
        text = f"The events seen do not follow the pattern of a Llama layer: {' → '.join(chains[0])}."
        return False, text, numbers
    text = (
        f"Layer 0: {' → '.join(chains[0])} (same pattern × {counted(len(chains), 'layer')}). Llama and Qwen "
        "run the same pattern: norm → attn → residual → norm → ffn → residual. Llama and Qwen also have a "
        "gate_proj beside up_proj, SiLU(gate)·up in place of ReLU, a gain in every norm, RoPE in place of "
        "wpe, and a norm before the head."
    )
    return True, text, numbers


def _has_gains(run: TracedRun) -> bool:
    return any(row.kind.gain for row in run.plan.of_kind(Norm))


def _uses_relu(run: TracedRun) -> bool:
    return run.plan.kinds(Activation)[0].nonnegative


PREDICATES = (
    Predicate("{}", "{} normalization", rmsnorm, first_of(Norm), lambda run: not _has_gains(run)),
    Predicate("attention", "Attention and the residual stream", attention, first_of(Softmax)),
    Predicate("relu", "ReLU sparsity", relu, first_of(Activation), _uses_relu),
    Predicate("predictions", "Predictions", predictions, first_of(Probabilities), attrgetter("is_whole")),
    Predicate("pattern", "Comparison with Llama and Qwen", pattern),
)
