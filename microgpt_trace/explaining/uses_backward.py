"""Where a gradient goes: the gradients that are worked out from it, as names one can explain next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..architecture.steps import Use, element_name
from .place import Place
from .uses import strongest


def gradient_uses(at: Place) -> list[Use]:
    """The gradients of what the element's event had read, and of the parameter behind it."""
    if at.traced.is_parameter(at.name):
        return []
    goes_to = _GOES_TO.get(at.element.kind)
    return [*(goes_to(at) if goes_to else ()), *_parameter(at)]


def _use(at: Place, name: str, index: tuple[int, ...], adds: float | None, count: int, words: str) -> Use:
    value = at.traced.known(name, index, "backward")
    return Use(element_name(name, index), "backward", value, adds, count, words)


def _own(at: Place) -> float:
    return at.traced.value(at.name, at.index, "backward")


def _parts(at: Place) -> list[Use]:
    """Of a sum: its parts have the same gradient, or get it besides what comes by other ways."""
    return [_use(at, name, at.index, _own(at), 1, "passed on as it is") for name in at.inputs]


def _normed(at: Place) -> list[Use]:
    (source,) = at.inputs
    return [
        _use(at, source, at.index, None, at.traced.shapes[source][-1], "back through the norm of the row")
    ]


def _multiplied(at: Place) -> list[Use]:
    position, output = at.index
    (source,) = at.inputs
    weight = at.behind(at.name)
    row = at.traced.parameter_row(weight, output)
    products = _own(at) * row
    best = strongest(products)
    words = f"times {element_name(weight, (output, best))}"
    return [_use(at, source, (position, best), float(products[best]), len(row), words)]


def _scores(at: Place) -> list[Use]:
    head, query, key = at.index
    if at.hidden(query, key):
        return []
    own = at.channels_of(head)
    q, k = at.inputs

    def part(name: str, position: int, other: str, of: int) -> Use:
        products = _own(at) * at.traced.row(other, of)[own] * at.scale.value
        best = strongest(products)
        words = f"times {element_name(other, (of, own.start + best))}, / sqrt({at.traced.head_dim})"
        return _use(at, name, (position, own.start + best), float(products[best]), len(products), words)

    return [part(q, query, k, key), part(k, key, q, query)]


def _weights(at: Place) -> list[Use]:
    _, query, key = at.index
    if at.hidden(query, key):
        return []
    keys = at.keys_of(query)
    words = f"back through the softmax over the keys {keys.start} to {keys.stop - 1}"
    return [_use(at, at.inputs[0], at.index, None, keys.stop - keys.start, words)]


def _context(at: Place) -> list[Use]:
    position, channel = at.index
    weights, v = at.inputs
    head, keys = channel // at.traced.head_dim, at.keys_of(position)
    to_weights = _own(at) * at.traced.column(v, channel)[keys]
    to_v = _own(at) * at.traced.row(weights, head, position)[keys]
    key, other = keys.start + strongest(to_weights), keys.start + strongest(to_v)
    n = len(to_v)
    return [
        _use(at, weights, (head, position, key), float(to_weights[key - keys.start]), n,
             f"times {element_name(v, (key, channel))}"),
        _use(at, v, (other, channel), float(to_v[other - keys.start]), n,
             f"times {element_name(weights, (head, position, other))}"),
    ]  # fmt: skip


def _act(at: Place) -> list[Use]:
    (source,) = at.inputs
    slope = "passed on" if at.traced.value(source, at.index) > 0 else "stopped"
    return [_use(at, source, at.index, None, 1, f"{slope} by ReLU")]


def _out(at: Place) -> list[Use]:
    """attn.out is worked out from context; the heads, which add up to it, have its gradient."""
    heads = [f"{at.element.prefix}attn.head{h}" for h in range(at.traced.model.config.n_head)]
    passed = _use(at, heads[0], at.index, _own(at), len(heads), "each head has the same gradient")
    return [passed, *_multiplied(at)]


def _logits(at: Place) -> list[Use]:
    return _multiplied(at)


def _loss(at: Place) -> list[Use]:
    shape = at.traced.shapes["logits"]
    gradients = at.traced.array("logits", "backward")
    place = np.unravel_index(strongest(gradients), shape)
    index = (int(place[0]), int(place[1]))
    words = f"the largest of {gradients.size:,}: P, less 1 at the target, / {shape[0]}"
    return [_use(at, "logits", index, None, gradients.size, words)]


_GOES_TO: dict[str, Callable[[Place], list[Use]]] = {
    "embed.sum": _parts,
    "embed.norm": _normed,
    "attn.norm": _normed,
    "attn.q": _multiplied,
    "attn.k": _multiplied,
    "attn.v": _multiplied,
    "attn.scores": _scores,
    "attn.weights": _weights,
    "attn.context": _context,
    "attn.out": _out,
    "attn.residual": _parts,
    "mlp.norm": _normed,
    "mlp.up": _multiplied,
    "mlp.act": _act,
    "mlp.down": _multiplied,
    "mlp.residual": _parts,
    "logits": _logits,
    "loss": _loss,
}


def _parameter(at: Place) -> list[Use]:
    """The gradient of the parameter behind the event."""
    kind = at.element.kind
    if kind == "embed.tok":
        token = at.traced.inputs.tokens[at.index[0]]
        count = at.traced.inputs.tokens.count(token)
        words = "one of its positions" if count > 1 else "its only position"
        return [_use(at, "wte", (token, at.index[1]), _own(at), 1, words)]
    if kind == "embed.pos":
        return [_use(at, "wpe", at.index, _own(at), 1, "its only position")]
    if kind not in at.traced.behind:
        return []
    position, output = at.index
    weight, (source,) = at.behind(at.name), at.inputs
    products = _own(at) * at.traced.row(source, position)
    best = strongest(products)
    words = f"times {element_name(source, (position, best))}"
    return [_use(at, weight, (output, best), float(products[best]), len(products), words)]
