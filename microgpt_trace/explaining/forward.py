"""How each kind of event is worked out, element by element, from the numbers that it had read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..architecture.arithmetic import (
    MINUS_LOG,
    RELU,
    SIGMOID,
    elements,
    exponential,
    mean_square,
    product,
    reciprocal,
    result,
    root,
    sum_of,
    total,
)
from ..architecture.steps import Factor, element_name
from . import attention
from .place import Place, Worked, short

TINY_PROBABILITY = 1e-30  # below it float32 loses digits, and the loss is not that of P any more


def worked_out(at: Place) -> Worked:
    """The arithmetic of the element of a forward event."""
    return _FUNCTIONS[at.element.kind](at)


def _embed_tokens(at: Place) -> Worked:
    position, channel = at.index
    token = at.traced.inputs.tokens[position]
    return _looked_up(at, "wte", token, channel, f"the token at position {position} is #{token}")


def _embed_positions(at: Place) -> Worked:
    position, channel = at.index
    return _looked_up(at, "wpe", position, channel, f"the row of wpe is that of position {position}")


def _looked_up(at: Place, table: str, row: int, channel: int, note: str) -> Worked:
    factor = at.factor(table, row, channel)
    step = product(str(at.element), factor)
    formula = f"{short(at.name)}[{at.index[0]},{channel}] = {factor.name}"
    return Worked(formula, (step,), step.magnitude, (f"looked up, not computed: {note}",))


def _sum(at: Place) -> Worked:
    parts = [[at.factor(name, *at.index)] for name in at.inputs]
    step = sum_of(str(at.element), *parts)
    return Worked(f"{at.own} = {' + '.join(part[0].name for part in parts)}", (step,), step.magnitude)


def _norm(at: Place) -> Worked:
    position, channel = at.index
    (source,) = at.inputs
    gain = at.element.kind.replace(".", "_")
    known = at.parameter(gain) in at.traced.shapes
    return _normalised(at, source, slice(0, None), gain if known else "", channel, position)


def _head_norm(at: Place) -> Worked:
    position, channel = at.index
    (source,) = at.inputs
    head, own = divmod(channel, at.traced.head_dim)
    gain = at.element.kind.replace(".", "_")
    return _normalised(at, source, at.channels_of(head), gain, own, position)


def _normalised(at: Place, source: str, within: slice, gain: str, own: int, position: int) -> Worked:
    """y = x / sqrt(mean(x^2) + eps) * gain"""
    channel = at.index[1]
    row = at.row(source, position, within=within)
    mean = mean_square("mean square", row, at.most)
    rms = root("rms", mean, at.traced.rules.eps)
    x = at.factor(source, position, channel)
    factors = [x, reciprocal(rms)]
    if gain:
        factors.append(at.factor(at.parameter(gain), own))
    last = product(str(at.element), *factors)
    first, end = within.start, within.start + len(row.values) - 1
    times = f" × {factors[-1].name}" if gain else ""
    formula = (
        f"{at.own} = {x.name} / rms{times}, rms = sqrt(mean of x[{position},c]^2 + "
        f"{at.traced.rules.eps:g}), c={first}..{end}"
    )
    return Worked(formula, (mean, rms, last), last.magnitude)


def _linear(at: Place) -> Worked:
    position, output = at.index
    (source,) = at.inputs
    weight = at.behind(at.name)
    bias = weight.replace("_w", "_b")
    extra = [at.factor(bias, output)] if bias != weight and bias in at.traced.shapes else []
    operands = [at.row(source, position), at.row(weight, output)]
    step = total(str(at.element), operands, at.most, extra=extra)
    n = len(operands[0].values) - 1
    plus = f" + {extra[0].name}" if extra else ""
    formula = f"{at.own} = sum of {short(source)}[{position},c] × {short(weight)}[{output},c]{plus}, c=0..{n}"
    return Worked(formula, (step,), step.magnitude)


def _out(at: Place) -> Worked:
    """A product; where a hook replaced a head, the sum of the heads."""
    heads = [f"{at.element.prefix}attn.head{h}" for h in range(at.traced.model.config.n_head)]
    bias = at.parameter("attn_bo")
    if not any(("forward", head) in at.traced.replaced for head in heads):
        more = " and the bias" if bias in at.traced.shapes else ""
        first, last = (element_name(heads[h], at.index) for h in (0, -1))
        note = f"{first} to {last}{more} add up to the same" if first != last or more else ""
        return replace(_linear(at), notes=(note,) if note else ())
    extra = [[at.factor(bias, at.index[1])]] if bias in at.traced.shapes else []
    step = sum_of(str(at.element), *([at.factor(head, *at.index)] for head in heads), *extra)
    return Worked(f"{at.own} = the sum of the heads, of which a hook replaced some", (step,), step.magnitude)


def _act(at: Place) -> Worked:
    (source,) = at.inputs
    x = at.factor(source, *at.index)
    if at.traced.rules.activation == "ReLU":
        step = product(str(at.element), x, function=RELU)
        off = () if x.value > 0 else (f"{x.name} is not above 0: switched off, and no gradient passes",)
        return Worked(f"{at.own} = max({x.name}, 0)", (step,), step.magnitude, off)
    gate = product("sigmoid", x, function=SIGMOID)
    step = product(str(at.element), x, result(gate))
    formula = f"{at.own} = {x.name} × sigmoid({x.name}), sigmoid(x) = 1 / (1 + exp(-x))"
    return Worked(formula, (gate, step), step.magnitude * max(1.0, abs(x.value)))


def _hidden(at: Place) -> Worked:
    act, up = (at.factor(name, *at.index) for name in at.inputs)
    step = product(str(at.element), act, up)
    return Worked(f"{at.own} = {act.name} × {up.name}", (step,), step.magnitude)


def _probs(at: Place) -> Worked:
    position, token = at.index
    row = at.row("logits", position)
    exp = exponential(row.values)
    denominator = total("sum of exponentials", [row], at.most, exp, label_of=at.in_vocabulary)
    steps = attention.share_of(at, denominator, at.factor("logits", position, token), exp)
    formula = (
        f"{at.own} = exp(logits[{position},{token}]) / sum of exp(logits[{position},j]) for all "
        f"{len(row.values):,} tokens j"
    )
    return Worked(formula, steps, steps[-1].value * max(1.0, float(np.abs(row.values).max())))


def _loss(at: Place) -> Worked:
    known = [(p, p.target) for p in at.traced.predictions if p.target is not None]
    usual = [(p, target) for p, target in known if not target.p <= TINY_PROBABILITY]  # or NaN
    chances = np.array([target.p for _, target in usual])
    places = [(p.position, target.token) for p, target in usual]
    vanished = [
        Factor(f"the loss at position {p.position}, from the logits", p.loss or 0.0)
        for p, target in known
        if target.p <= TINY_PROBABILITY
    ]
    summed = total(
        "sum of losses", [elements(chances, "probs", places.__getitem__)], at.most, MINUS_LOG, vanished,
        lambda i: at.in_vocabulary(usual[i][1].token),
    )  # fmt: skip
    step = product("loss", result(summed), Factor(f"1/{len(known)}", 1 / len(known)))
    formula = f"loss = mean of -log probs[p,target at p] over {len(known)} positions p"
    return Worked(formula, (summed, step), step.magnitude + 1.0)


_FUNCTIONS: dict[str, Callable[[Place], Worked]] = {
    "embed.tok": _embed_tokens,
    "embed.pos": _embed_positions,
    "embed.sum": _sum,
    "embed.norm": _norm,
    "attn.norm": _norm,
    "attn.q": _linear,
    "attn.k": _linear,
    "attn.v": _linear,
    "attn.q_norm": _head_norm,
    "attn.k_norm": _head_norm,
    "attn.q_rope": attention.rope,
    "attn.k_rope": attention.rope,
    "attn.scores": attention.scores,
    "attn.weights": attention.weights,
    "attn.context": attention.context,
    "attn.head": attention.head,
    "attn.out": _out,
    "attn.residual": _sum,
    "mlp.norm": _norm,
    "mlp.gate": _linear,
    "mlp.up": _linear,
    "mlp.act": _act,
    "mlp.hidden": _hidden,
    "mlp.down": _linear,
    "mlp.residual": _sum,
    "final.norm": _norm,
    "logits": _linear,
    "probs": _probs,
    "loss": _loss,
}
