"""How the events of attention are worked out, element by element: RoPE, scores, weights, context, heads."""

from __future__ import annotations

import numpy as np

from ..architecture.arithmetic import (
    Function,
    exponential,
    nothing,
    product,
    reciprocal,
    result,
    sum_of,
    total,
)
from ..architecture.steps import Factor, Step
from .place import Place, Worked, short


def rope(at: Place) -> Worked:
    position, channel = at.index
    (source,) = at.inputs
    rotation, dim = at.traced.rules.rotation, at.traced.head_dim
    assert rotation is not None
    half, own = dim // 2, channel % dim
    frequency = float(rotation.frequencies[own % half])
    other = channel + half if own < half else channel - half
    factor = "" if rotation.factor == 1 else f"{rotation.factor:.6g} × "
    sign = "-" if own < half else ""
    angle = f"({position} × {frequency:.6g})"
    cos = Factor(f"{factor}cos{angle}", float(np.cos(position * frequency)) * rotation.factor)
    sin = float(np.sin(position * frequency)) * rotation.factor
    turned = Factor(f"{sign}{factor}sin{angle}", -sin if own < half else sin)
    parts = [[at.factor(source, position, channel), cos], [at.factor(source, position, other), turned]]
    step = sum_of(str(at.element), *parts)
    s = short(source)
    formula = (
        f"{at.own} = {s}[{position},{channel}] × cos(a) {sign or '+'} {s}[{position},{other}] × sin(a), "
        f"a = {position} × {frequency:.6g}"
    )
    note = (
        f"channels {min(channel, other)} and {max(channel, other)} turn together, by {frequency:.6g} "
        "radians a position"
    )
    return Worked(formula, (step,), step.magnitude, (note,))


def scores(at: Place) -> Worked:
    head, query, key = at.index
    q, k = at.inputs
    own, of_key = at.channels_of(head), at.channels_of(at.traced.rules.group[head])
    summed = total(
        "sum of products", [at.row(q, query, within=own), at.row(k, key, within=of_key)], at.most
    )  # fmt: skip
    scaled = product(str(at.element), result(summed), at.scale)
    shift = of_key.start - own.start
    c = "c" if not shift else f"c - {-shift}" if shift < 0 else f"c + {shift}"
    formula = (
        f"{at.own} = sum of {short(q)}[{query},c] × {short(k)}[{key},{c}] / sqrt({at.traced.head_dim}), "
        f"c={own.start}..{own.stop - 1}"
    )
    notes = []
    if shift:
        notes.append(f"head {head} reads the keys of key-value head {at.traced.rules.group[head]}")
    if why := at.hidden(query, key):
        notes.append(f"masked: {why}; the score is computed, but no weight comes from it")
    return Worked(formula, (summed, scaled), summed.magnitude * at.scale.value, tuple(notes))


def weights(at: Place) -> Worked:
    head, query, key = at.index
    (scores,) = at.inputs
    keys = at.keys_of(query)
    seen = f"for the keys j={keys.start}..{keys.stop - 1}"
    formula = f"{at.own} = exp(scores[{head},{query},{key}]) / sum of exp(scores[{head},{query},j]) {seen}"
    if why := at.hidden(query, key):
        return Worked(
            f"{at.own} = exp(-infinity) / ... = 0", (nothing(str(at.element)),), 0.0, (f"masked: {why}",)
        )
    row = at.row(scores, head, query, within=keys)
    exp = exponential(row.values)
    labels = at.tokens_from(keys.start)
    denominator = total("sum of exponentials", [row], at.most, exp, label_of=labels)
    steps = share_of(at, denominator, at.factor(scores, head, query, key), exp)
    return Worked(formula, steps, steps[-1].value * max(1.0, float(np.abs(row.values).max())))


def share_of(at: Place, denominator: Step, score: Factor, exp: Function) -> tuple[Step, ...]:
    """One exponential divided by the sum of all."""
    own = product("own exponential", score, function=exp)
    return denominator, own, product(str(at.element), result(own), reciprocal(denominator))


def context(at: Place) -> Worked:
    position, channel = at.index
    weights, v = at.inputs
    dim = at.traced.head_dim
    head, own = divmod(channel, dim)
    column = at.traced.rules.group[head] * dim + own
    products = at.traced.row(weights, head, position) * at.traced.column(v, column)
    keys = at.counting(products, at.keys_of(position))
    operands = [at.row(weights, head, position, within=keys), at.down(v, column, keys)]
    step = total(str(at.element), operands, at.most, label_of=at.tokens_from(keys.start))
    formula = (
        f"{at.own} = sum of weights[{head},{position},j] × v[j,{column}] "
        f"for the keys j={keys.start}..{keys.stop - 1}"
    )
    notes = () if column == channel else (f"head {head} reads the values of key-value head {column // dim}",)
    return Worked(formula, (step,), step.magnitude, notes)


def head(at: Place) -> Worked:
    position, output = at.index
    (context,) = at.inputs
    own, wo = at.channels_of(at.element.head), at.parameter("attn_wo")
    operands = [at.row(context, position, within=own), at.row(wo, output, within=own)]
    step = total(str(at.element), operands, at.most)
    formula = f"{at.own} = sum of context[{position},c] × attn_wo[{output},c], c={own.start}..{own.stop - 1}"
    return Worked(formula, (step,), step.magnitude)
