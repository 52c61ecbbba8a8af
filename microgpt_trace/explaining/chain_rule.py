"""microGPT's chain rule, an operation at a time: what the gradient of an element gets by way of one of
the events that read it. Knows no sums over several."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..architecture.arithmetic import (
    ABOVE_ZERO,
    Function,
    elements,
    mean_square,
    minus,
    nothing,
    product,
    reciprocal,
    result,
    root,
    sum_of,
    total,
)
from ..architecture.plan import kind_of
from ..architecture.steps import Step
from .place import Place, Worked, short


class Path(NamedTuple):
    """What comes by way of one reader: a formula, the steps, and what rounding is relative to."""

    formula: str
    steps: list[Step]
    magnitude: float


def path_from(at: Place, reader: str) -> Path:
    """The reader's gradient times the local derivative; nothing where a hook replaced the reader."""
    return _no_path(at, reader) if is_cut(at, reader) else _PATHS[kind_of(reader)](at, reader)


def gradient_name(at: Place) -> str:
    return f"d {at.element}"


def _label(at: Place, reader: str) -> str:
    """What a path's result is called: the gradient itself where there is no other path."""
    return gradient_name(at) if len(readers(at)) == 1 else f"by way of {reader}"


def readers(at: Place) -> list[str]:
    """What reads the event. The heads add up to attn.out, which stands for them."""
    found = [name for name in at.traced.model.plan.readers[at.name] if kind_of(name) != "attn.head"]
    return sorted(found, key=lambda name: name.endswith("norm"))


def is_cut(at: Place, name: str) -> bool:
    """Whether a hook replaced an event, so that the loss no longer depends on what it had read."""
    return ("forward", name) in at.traced.replaced


def _no_path(at: Place, reader: str) -> Path:
    return Path(_nothing_from(reader), [nothing(_label(at, reader))], 0.0)


def _nothing_from(reader: str) -> str:
    return f"0 by way of {reader}, which a hook replaced"


def cut_off(at: Place, reader: str) -> Worked:
    """No gradient at all, because a hook replaced the only thing that it comes from."""
    return Worked(f"{gradient_name(at)} = {_nothing_from(reader)}", (nothing(gradient_name(at)),), 0.0)


def _summed(formula: str, step: Step) -> Path:
    return Path(formula, [step], step.magnitude)


def _passed_on(at: Place, reader: str) -> Path:
    """A sum hands its gradient to each of its parts."""
    gradient = at.factor(reader, *at.index, kind="backward")
    return Path(f"d {gradient.name}", [product(_label(at, reader), gradient)], abs(gradient.value))


def _through_product(at: Place, reader: str) -> Path:
    """y = x @ W.T: dx = dy @ W"""
    position, channel = at.index
    weight = at.behind(reader)
    column = at.traced.parameter_column(weight, channel)
    operands = [
        at.row(reader, position, kind="backward"),
        elements(column, weight, lambda o: (o, channel)),
    ]
    text = f"sum of d {short(reader)}[{position},o] × {short(weight)}[o,{channel}], o=0..{len(column) - 1}"
    return _summed(text, total(_label(at, reader), operands, at.most))


def _through_out(at: Place, reader: str) -> Path:
    """A head hands on the gradient of attn.out; context gets it by way of its own head where a hook
    replaced something there."""
    if at.element.kind == "attn.head":
        return _passed_on(at, reader)
    position, channel = at.index
    head = replaced_head(at, channel)
    if not head:
        return _through_product(at, reader)
    if is_cut(at, head):
        return _no_path(at, head)
    wo = at.parameter("attn_wo")
    column = elements(at.traced.parameter_column(wo, channel), wo, lambda o: (o, channel))
    summed = total(_label(at, reader), [at.row(head, position, kind="backward"), column], at.most)
    return _summed(f"sum of d {short(head)}[{position},o] × attn_wo[o,{channel}]", summed)


def replaced_head(at: Place, channel: int) -> str:
    """The head that a channel of context belongs to, if a hook replaced it or its gradient."""
    head = f"{at.element.prefix}attn.head{channel // at.traced.head_dim}"
    return head if {("forward", head), ("backward", head)} & at.traced.replaced else ""


def _through_norm(at: Place, reader: str) -> Path:
    """y = x / rms: dx = (dy - y * mean(dy * y)) / rms"""
    position, channel = at.index
    dy = at.row(reader, position, kind="backward")
    y, x = at.row(reader, position), at.row(at.name, position)
    n = len(y.values)
    square = mean_square("mean square", x, at.most)
    rms = root("rms", square, at.traced.rules.eps)
    mean = total("mean of dy × y", [dy, y], at.most, Function(f"x/{n}", lambda x: x / n))
    divisor = reciprocal(rms)
    direct = [at.factor(reader, position, channel, kind="backward"), divisor]
    scaled = [at.factor(reader, position, channel), minus(mean), divisor]
    last = sum_of(_label(at, reader), direct, scaled)
    text = f"(dy[{channel}] - y[{channel}] × mean of dy × y) / rms, y = {reader} at position {position}"
    magnitude = last.magnitude + abs(scaled[0].value * divisor.value) * mean.magnitude
    return Path(text, [square, rms, mean, last], magnitude)


def _through_scores(at: Place, reader: str) -> Path:
    """scores = q @ k.T / sqrt(D): dq = dscores @ k / sqrt(D), dk = dscores.T @ q / sqrt(D)"""
    position, channel = at.index
    head = channel // at.traced.head_dim
    q, k = (at.element.prefix + kind for kind in ("attn.q", "attn.k"))
    if at.name == q:
        row = at.traced.row(reader, head, position, kind="backward")
        seen = at.counting(row * at.traced.column(k, channel), at.keys_of(position))
        gradients = at.row(reader, head, position, kind="backward", within=seen)
        other = at.down(k, channel, seen)
        text = f"sum of d scores[{head},{position},j] × k[j,{channel}]"
    else:
        column = at.traced.array(reader, "backward")[head, :, position].astype(np.float64)
        seen = at.counting(column * at.traced.column(q, channel), at.queries_of(position))
        gradients = elements(column[seen], reader, lambda i: (head, seen.start + i, position), "backward")
        other = at.down(q, channel, seen)
        text = f"sum of d scores[{head},j,{position}] × q[j,{channel}]"
    summed = total("sum of products", [gradients, other], at.most, label_of=at.tokens_from(seen.start))
    scaled = product(_label(at, reader), result(summed), at.scale)
    span = f", j={seen.start}..{seen.stop - 1}"
    formula = f"{text} / sqrt({at.traced.head_dim}){span}"
    return Path(formula, [summed, scaled], summed.magnitude * at.scale.value)


def _through_softmax(at: Place, reader: str) -> Path:
    """w = softmax(s): ds = w * (dw - sum of w * dw)"""
    head, query, key = at.index
    keys = at.keys_of(query)
    weights = at.row(reader, head, query, within=keys)
    gradients = at.row(reader, head, query, kind="backward", within=keys)
    mean = total("sum of w × dw", [weights, gradients], at.most, label_of=at.tokens_from(keys.start))
    own = at.factor(reader, head, query, key)
    last = sum_of(
        _label(at, reader), [own, at.factor(reader, head, query, key, kind="backward")], [own, minus(mean)]
    )
    if at.hidden(query, key):
        return Path("0: the mask lets no weight come from it", [nothing(gradient_name(at))], 0.0)
    place = f"[{head},{query},{key}]"
    formula = f"w{place} × (dw{place} - sum of w[{head},{query},j] × dw[{head},{query},j])"
    return Path(formula, [mean, last], last.magnitude + abs(own.value) * mean.magnitude)


def _through_context(at: Place, reader: str) -> Path:
    """context = weights @ v: dweights = dcontext @ v.T, dv = weights.T @ dcontext"""
    v, weights = at.element.prefix + "attn.v", at.element.prefix + "attn.weights"
    if at.name == weights:
        head, query, key = at.index
        own = at.channels_of(head)
        operands = [at.row(reader, query, kind="backward", within=own), at.row(v, key, within=own)]
        text = f"sum of d context[{query},c] × v[{key},c], c={own.start}..{own.stop - 1}"
        return _summed(text, total(_label(at, reader), operands, at.most))
    position, channel = at.index
    head = channel // at.traced.head_dim
    column = at.traced.array(weights)[head, :, position].astype(np.float64)
    seen = at.counting(column * at.traced.column(reader, channel, "backward"), at.queries_of(position))
    operands = [
        elements(column[seen], weights, lambda i: (head, seen.start + i, position)),
        at.down(reader, channel, seen, "backward"),
    ]
    text = f"sum of weights[{head},j,{position}] × d context[j,{channel}], j={seen.start}..{seen.stop - 1}"
    labels = at.tokens_from(seen.start)
    return _summed(text, total(_label(at, reader), operands, at.most, label_of=labels))


def _through_relu(at: Place, reader: str) -> Path:
    """act = max(up, 0): the gradient passes where up is above 0"""
    slope = product("slope", at.factor(at.name, *at.index), function=ABOVE_ZERO)
    gradient = at.factor(reader, *at.index, kind="backward")
    last = product(_label(at, reader), gradient, result(slope))
    formula = f"d {gradient.name} × (1 where {at.element} is above 0, else 0)"
    return Path(formula, [slope, last], last.magnitude)


_PATHS: dict[str, Callable[[Place, str], Path]] = {
    "embed.sum": _passed_on,
    "embed.norm": _through_norm,
    "attn.norm": _through_norm,
    "attn.q": _through_product,
    "attn.k": _through_product,
    "attn.v": _through_product,
    "attn.scores": _through_scores,
    "attn.weights": _through_softmax,
    "attn.context": _through_context,
    "attn.out": _through_out,
    "attn.residual": _passed_on,
    "mlp.norm": _through_norm,
    "mlp.up": _through_product,
    "mlp.act": _through_relu,
    "mlp.down": _through_product,
    "mlp.residual": _passed_on,
    "logits": _through_product,
}
