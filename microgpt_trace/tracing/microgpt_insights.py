"""What the trace reveals: sentences, each the outcome of a predicate on measured numbers.

Every function returns an outcome worded by what was found; a predicate that is false, or could not be
evaluated, says so. Nothing here is a fixed text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..architecture.plans.event_words import steps_of
from ..architecture.plans.kinds import Activation, Norm, Probabilities, Softmax
from ..architecture.plans.plan import Plan
from ..arrays.stats import Array, TensorStats
from ..hooks.event import TraceEvent
from ..measuring.norms import NormRows
from ..microgpt.model import Model
from ..rounding.invariants import OF_NORMS
from ..text.wording import at_most, counted, decimals, fixed, listed, percent, span, told_apart
from .findings import Found, Insight, Numbers, unknown

WHOLE = 0.99  # a row of this RMS still counts as one of RMS 1: eps takes the rest
SMALL_BRANCH = 0.25  # a branch below this share of the stream is a small perturbation
SPARSE = (0.2, 0.8)  # the share of zeros that makes a ReLU "sparse"
SPARSELY = "leaves a sparse representation"
ENOUGH = 20.0  # times as likely, or less, as under a uniform guess: as rare by chance as 1 in so many
LARGE = math.log(1e6)

Stats = dict[str, TensorStats]


def insights_of(
    events: Sequence[TraceEvent], norms: NormRows, losses: Sequence[float], probs: Array, model: Model
) -> Iterator[Insight]:
    """Evaluate every predicate on the forward events of a run, its norms, and what it predicts: `probs`
    [N, V] as used, with the losses of the N targets."""
    stats = {event.name: event.stats for event in events if event.stats is not None}
    finite, plan = not any(s.nonfinite_count for s in stats.values()), model.plan
    makers: dict[str, tuple[str, type | None, Callable[[], Found]]] = {  # with the kind of event it is about
        "rmsnorm": ("RMSNorm normalization", Norm, lambda: _rmsnorm(stats, norms, len(losses), model)),
        "attention": ("Attention against the residual stream", Softmax, lambda: _attention(stats, plan)),
        "relu": ("ReLU sparsity", Activation, lambda: _relu(stats, plan)),
        "predictions": ("Predictions", Probabilities, lambda: _predictions(losses, probs, model.untrained)),
        "pattern": ("Comparison with Llama and Qwen", None, lambda: _pattern([e.name for e in events], plan)),
    }
    for identifier, (title, kind, make) in makers.items():
        judged = finite or kind is None
        found = make() if judged else unknown("the run holds values that are not finite")
        yield Insight(identifier, title, *found, plan.of_kind(kind)[0].name if kind else "")


def _l2(stats: Stats, name: str) -> float:
    value = stats[name].l2_norm
    assert value is not None  # the caller made sure that everything is finite
    return value


def _rmsnorm(stats: Stats, norms: NormRows, rows: int, model: Model) -> Found:
    off, least = norms.off, norms.least
    worst, tightest = norms.worst, norms.tightest
    before = _l2(stats, model.plan.of_kind(Norm)[0].inputs[0])
    found, width = [_l2(stats, name) for name in off], model.config.n_embd
    expected = math.sqrt(rows * width)
    numbers: Numbers = {"expected": expected, "before": before}
    if not off[worst] <= OF_NORMS:
        why = f"a row is off by {off[worst]:.1e}: a value was replaced"
        if not math.isfinite(off[worst]):
            why = "the squares of what went in leave the range of the numbers"
        text = f"The invariant does not hold: rows after {worst} are not what RMSNorm gives; {why}."
        return False, text, numbers
    numbers |= {"farthest": off[worst], "least_rms": min(least.values())}
    if least[tightest] < WHOLE:
        text = (
            f"Not every row has RMS 1: one after {tightest} has RMS {decimals(least[tightest])}, for it came "
            f"in so small that eps = {norms.eps:g} counts. L2 = {span(found)} after the {len(off)} norms "
            f"({decimals(before)} before the first), where rows of RMS 1 would have {expected:.2f}."
        )
        return False, text, numbers
    text = (
        f"L2 = {span(found)} after each of the {len(off)} norms, whatever went in ({decimals(before)} before "
        f"the first). This is a structural invariant: RMSNorm scales every row to RMS 1, so a row of width "
        f"{width} has L2 √{width} = {math.sqrt(width):.2f} and {rows} of them "
        f"{'has' if rows == 1 else 'have'} √({rows}·{width}) = {expected:.2f}; eps takes "
        f"at most {at_most(1 - least[tightest])} of a row."
    )
    return True, text, numbers


def _attention(stats: Stats, plan: Plan) -> Found:
    sums = [own for own in plan.residuals if plan[own].stage == "attention"]  # one a layer
    read = [plan.residuals[own] for own in sums]
    before, written = ([_l2(stats, name) for name in names] for names in zip(*read, strict=True))
    after = [_l2(stats, name) for name in sums]
    heads = [_l2(stats, name) for _, branch in read for name in plan[branch].parts]
    pairs = enumerate(zip(written, before, strict=True))
    shares = {layer: w / b if b else math.inf for layer, (w, b) in pairs if w or b}  # of 0/0 none
    if not shares:
        return unknown("attention writes zeros into a residual stream of zeros")
    layer, top = max(shares.items(), key=lambda share: share[1])
    numbers: Numbers = {
        "largest_share": top if math.isfinite(top) else None, "heads_min": min(heads),
        "heads_max": max(heads), "stream_before": before[-1], "stream_after": after[-1],
    }  # fmt: skip
    wrote = f"the heads write L2 {span(heads)} each, together {span(written)},"
    if len(heads) == len(sums):
        wrote = f"the head writes L2 {span(written)}"
    moves = ", ".join(f"{decimals(b)} → {decimals(a)}" for b, a in zip(before, after, strict=True))
    measured = (
        f"{wrote} into a residual stream of L2 {span(before)}; the residual connection takes it {moves}"
    )
    if top > SMALL_BRANCH:
        said = "into a stream of zeros"
        if math.isfinite(top):
            share, limit = told_apart(top, SMALL_BRANCH, percent)
            said = f"{share} of the stream's own L2 (small would be {limit} or less)"
        text = f"Attention is no small perturbation here: {measured}. In layer {layer} it writes {said}."
        return False, text, numbers
    share, _ = told_apart(top, SMALL_BRANCH, percent)
    if top <= SMALL_BRANCH / 10:
        share = at_most(top) if len(sums) > 1 else f"{100 * top:.2g}%"
    most = f" at most, in layer {layer}" * (len(sums) > 1)
    text = f"Attention is a small perturbation: {measured}. It adds {share} of the stream's L2{most}."
    return True, text, numbers


def _relu(stats: Stats, plan: Plan) -> Found:
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
            f"{zero} of the {shapes[row.name][1]} hidden units are zero, averaged over the positions; "
            f"L2 {l2_up} → {l2_act}, range {range_up} → {range_act}."
        )
    text = f"ReLU {next(iter(kinds))}: {sentences[0]}"
    if len(sentences) > 1:
        lead = "; ".join(f"{kind} in {listed(where)}" for kind, where in kinds.items())
        text = " ".join([f"ReLU {lead}.", *(f"Layer {i}: {said}" for i, said in enumerate(sentences))])
    return list(kinds) == [SPARSELY], text, {"share_min": min(shares), "share_max": max(shares)}


def _sparsity(share: float) -> tuple[str, str]:
    """The share of zeros as it is printed, and what it makes of the representation."""
    low, high = SPARSE
    if share < low:
        return told_apart(share, low, percent)[0], "zeroes few units"
    if share > high:
        return told_apart(-share, -high, percent)[0].removeprefix("-"), "silences most units"
    return percent(share), SPARSELY


def _predictions(losses: Sequence[float], probs: Array, untrained: bool) -> Found:
    """Whether this text tells the model from a uniform guess, by how many times as likely it makes it.

    Of characters drawn evenly at most one text in K comes out K times as likely as under a uniform guess,
    and of characters drawn by the model at most one in K as many times less likely: the ratio's mean is 1
    under the one or the other, and Markov's inequality does the rest, however short the text.
    """
    count, size = len(losses), probs.shape[1]
    wide = probs.astype(np.float64)
    if wide.min() < 0 or np.abs(wide.sum(axis=1) - 1).max() > 1e-3:
        return unknown("the probabilities used are none: a row does not sum to 1, or one is negative")
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
    several = "s" * (count > 1)
    measured = (
        f"Mean loss {decimals(mean)} over {count} prediction{several} against ln {size} = {chance:.2f} of a "
        f"uniform guess: the target typically gets P = {decimals(math.exp(-mean), 3)} against 1/{size} = "
        f"{decimals(1 / size, 3)}. Characters drawn from the model's own probabilities would have "
        f"{decimals(own)} ± {decimals(spread)} (standard deviation over {count} position{several})"
    )
    if untrained:
        return None, f"{measured}. The model is untrained: it has learned nothing.", numbers
    ratio, _ = told_apart(math.exp(min(abs(gain), 700.0)), ENOUGH, fixed, 1)
    likely = ratio if abs(gain) < LARGE else f"10^{abs(gain) / math.log(10):.1f}"
    likely += " times as likely" if gain >= 0 else " times less likely"
    if abs(gain) < math.log(ENOUGH):
        lead = (
            f"This text does not tell the model from a uniform guess: it is {likely}, {ENOUGH:g} would count"
        )
        return None, f"{lead}. {measured}.", numbers
    lead = "Better" if gain > 0 else "Worse"
    text = f"{lead} than a uniform guess: the model makes this text {likely}. {measured}."
    return gain > 0, text, numbers


# A layer of microGPT in the words that `apr trace` uses for Llama and Qwen.
_CHAIN = (
    "attn_norm", "q_proj", "k_proj", "v_proj", "attn", "o_proj", "residual", "ffn_norm", "up_proj", "ReLU",
    "ffn_down", "residual",
)  # fmt: skip


def _pattern(names: Sequence[str], plan: Plan) -> Found:
    seen = set(names)
    chains = [steps_of(row for row in rows if row.name in seen) for rows in plan.layers]
    numbers: Numbers = {"layers": float(len(chains))}
    if any(chain != _CHAIN for chain in chains):
        text = f"The events seen do not follow the pattern of a Llama layer: {' → '.join(chains[0])}."
        return False, text, numbers
    text = (
        f"Layer 0: {' → '.join(chains[0])} (same pattern × {counted(len(chains), 'layer')}). Llama and Qwen "
        "run the same norm → attn → residual → norm → ffn → residual, with a gate_proj beside up_proj and "
        "SiLU(gate)·up in place of ReLU, a gain in every norm, RoPE in place of wpe, and a norm before the "
        "head."
    )
    return True, text, numbers
