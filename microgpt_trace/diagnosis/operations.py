"""The operations of both families, one function each: what an event is, given its inputs and rules.

One table serves for recomputing and for every hypothesis. Products are float32, as `linear` works
them out, or float64 with `WideWeights`; everything else is float64. Shape letters as in llama.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..architecture import graph
from ..architecture.model import LanguageModel, unembedding_of
from ..architecture.plan import kind_of, layer_of, prefix_of
from ..arrays.encodings import StoredTensor
from ..arrays.linear import linear
from ..arrays.stats import Array
from ..arrays.threads import available_cores
from . import formulas
from .rules import Rotation, Rules

ROWS = 1024  # of a matrix that are wide at a time


class Weights:
    """The parameters of a model of either family, rows of q and k in Hugging Face order."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.shapes = dict(model.config.shapes())
        self.workers = min(2, available_cores())

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def array(self, name: str) -> Array:
        """A parameter, [out, in] or [out]"""
        return self.model.parameter(name)

    def rows(self, name: str, indices: Array) -> Array:
        """Rows of an embedding: [n] -> [n, C]"""
        return self.model.parameter(name, indices)

    def product(self, x: Array, name: str) -> Array:
        """x @ W.T without a bias: [T, in] -> [T, out]"""
        return self.model.product(x, name)

    def times(self, x: Array, tensor: StoredTensor) -> Array:
        """The same of a tensor that is none of the parameters."""
        return linear(x, tensor, workers=self.workers)

    @cached_property
    def behind(self) -> dict[str, str]:
        """The matrix of each kind of product, without its layer: attn.q -> attn_wq"""
        own = {f"attn.{n}": f"attn_w{n}" for n in "qkv"} | {"attn.out": "attn_wo"}
        own["logits"] = unembedding_of(self.model.config)
        if "mlp.gate" not in self.model.inputs:
            return own | {"mlp.up": "mlp_fc1", "mlp.down": "mlp_fc2"}
        return own | {f"mlp.{n}": f"mlp_w{n}" for n in ("gate", "up", "down")}

    def matrix_of(self, name: str) -> str:
        """The matrix of a product, without its layer, by the product's event."""
        return "attn_wo" if kind_of(name) == "attn.head" else self.behind[kind_of(name)]

    @cached_property
    def head_dim(self) -> int:
        return self.model.config.head_dim


class WideWeights(Weights):
    """The same with products in float64, a few rows of a matrix at a time; `norms` are those of the rows of
    the matrices that were used."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self.norms: dict[str, Array] = {}
        self._last: tuple[str, Array] | None = None

    def array(self, name: str) -> Array:
        if self._last is None or self._last[0] != name:  # all heads of a layer have slices of one
            self._last = name, super().array(name)
        return self._last[1]

    def product(self, x: Array, name: str) -> Array:
        y, norms = np.empty((len(x), self.shapes[name][0])), np.empty(self.shapes[name][0])
        for start in range(0, len(norms), ROWS):
            rows = slice(start, min(start + ROWS, len(norms)))
            own = self.model.parameter(name, rows).astype(np.float64)
            y[:, rows], norms[rows] = x @ own.T, np.sqrt(np.square(own).sum(axis=1))
        self.norms[name] = norms
        return y


def in_halves(x: Array, dim: int) -> Array:
    """Channels (or rows) of heads from pairs side by side to halves: (0, 1), (2, 3) -> (0, D/2), ..."""
    pairs = x.reshape(*x.shape[:-1], -1, dim // 2, 2)
    return pairs.swapaxes(-1, -2).reshape(x.shape)


def in_pairs(x: Array, dim: int) -> Array:
    """The way back from `in_halves`, to the order that GGUF stores llama's rows of q and k in."""
    halves = x.reshape(*x.shape[:-1], -1, 2, dim // 2)
    return halves.swapaxes(-1, -2).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Place:
    """Where an operation stands: the model's weights, the rules, and the name of its event."""

    weights: Weights
    rules: Rules
    name: str

    @property
    def prefix(self) -> str:
        return prefix_of(self.name)

    def has(self, kind: str) -> bool:
        return kind in self.rules.instead or self.prefix + kind in self.weights

    def parameter(self, kind: str) -> Array:
        """A parameter of this layer, or what stands in its place."""
        name = self.prefix + kind
        instead = self.rules.instead.get(kind)
        return self.weights.array(name) if instead is None else instead(name)

    def product(self, x: Array, kind: str) -> Array:
        """x @ W.T + b: [T, in] -> [T, out]"""
        own = kind not in self.rules.instead
        y = self.weights.product(x, self.prefix + kind) if own else x @ self.parameter(kind).T
        bias = kind.replace("_w", "_b")
        return y + self.parameter(bias) if bias != kind and self.has(bias) else y

    def heads(self, x: Array) -> Array:
        """[T, H*D] -> [H, T, D]"""
        return x.reshape(len(x), -1, self.weights.head_dim).swapaxes(0, 1)


Function = Callable[..., Array]


def apply(weights: Weights, rules: Rules, name: str, inputs: Sequence[Array]) -> Array:
    """The value of an event from its inputs, float64 each."""
    with np.errstate(all="ignore"):
        return _FUNCTIONS[kind_of(name)](Place(weights, rules, name), *inputs)


def inputs_of(rules: Rules, name: str) -> tuple[str, ...]:
    """The events that an event is computed from."""
    return graph.inputs_of(rules.inputs, name, len(rules.windows))


# --- The operations -----------------------------------------------------------------------------


def _embed_tokens(at: Place) -> Array:
    rows = at.rules.rows_of_tokens or (lambda tokens: at.weights.rows("wte", tokens))
    return rows(at.rules.tokens).astype(np.float64) * at.rules.embedding_scale


def _embed_positions(at: Place) -> Array:
    positions = np.arange(len(at.rules.tokens)) + at.rules.position_offset
    table = at.parameter("wpe")
    return table[positions % len(table)].astype(np.float64)


def _norm(gain: str) -> Function:
    def norm(at: Place, x: Array) -> Array:
        return normalise(at.rules, x, at.parameter(gain) if at.has(gain) else np.float64(1))

    return norm


def _head_norm(gain: str) -> Function:
    def norm(at: Place, x: Array) -> Array:
        own = at.parameter(gain)
        if at.rules.rotation_before_norm and kind_of(at.name).endswith("_norm"):
            assert at.rules.rotation is not None
            x = rotate(x, at.rules.rotation, at.weights.head_dim)
        if not at.rules.per_head:
            return normalise(at.rules, x, np.tile(own, x.shape[1] // len(own)))
        return normalise(at.rules, x.reshape(len(x), -1, at.weights.head_dim), own).reshape(x.shape)

    return norm


def normalise(rules: Rules, x: Array, gain: Array | np.float64) -> Array:
    """RMSNorm, or what a fault makes of it: [..., C] -> [..., C]"""
    if rules.centred:
        x = x - x.mean(axis=-1, keepdims=True)
    if rules.eps_outside:
        return x / (np.sqrt(np.square(x).mean(axis=-1, keepdims=True)) + rules.eps) * gain
    if (rules.norm_power, rules.norm_exponent, rules.norm_summed) == (0.5, 2.0, False):
        return formulas.rmsnorm(x, np.asarray(gain), rules.eps)
    size = (np.abs(x) ** rules.norm_exponent).mean(axis=-1, keepdims=True)
    size = size * x.shape[-1] if rules.norm_summed else size
    power = rules.norm_power if rules.norm_exponent == 2 else 1 / rules.norm_exponent
    return x / (size + rules.eps) ** power * gain


def _product(at: Place, x: Array) -> Array:
    return at.product(x, at.weights.behind[kind_of(at.name)])


def _rope(norm_gain: str) -> Function:
    def rope(at: Place, x: Array) -> Array:
        assert at.rules.rotation is not None
        if at.rules.rotation_before_norm:
            return x
        turned = rotate(x, at.rules.rotation, at.weights.head_dim)
        return _head_norm(norm_gain)(at, turned) if at.rules.norm_after_rotation else turned

    return rope


def rotate(x: Array, rotation: Rotation, head_dim: int) -> Array:
    """RoPE: [T, H*D] -> [T, H*D]"""
    count = 2 * len(rotation.frequencies)
    angles = (np.arange(len(x)) + rotation.offset)[:, None] * rotation.frequencies
    cos, sin = np.cos(angles) * rotation.factor, np.sin(angles) * rotation.factor
    heads = x.reshape(len(x), -1, head_dim)
    part = heads[..., :count]
    if rotation.adjacent:
        turned = in_pairs(formulas.turn(in_halves(part, count), cos, sin), count)
    else:
        turned = formulas.turn(part, cos, sin)
    return np.concatenate([turned, heads[..., count:]], axis=-1).reshape(x.shape)


def _scores(at: Place, q: Array, k: Array) -> Array:
    scores = formulas.scores(at.heads(q), at.heads(k), np.array(at.rules.group))
    return _capped(at, scores * np.float64(at.rules.scale * math.sqrt(at.weights.head_dim)))


def _capped(at: Place, x: Array) -> Array:
    cap = at.rules.caps.get(kind_of(at.name))
    return x if cap is None else cap * np.tanh(x / cap)


def _logits(at: Place, x: Array) -> Array:
    return _capped(at, _product(at, x))


def _attention_weights(at: Place, scores: Array) -> Array:
    mask = visible_to(at.rules, at.name, len(scores[0]))
    return formulas.softmax(scores * math.log(at.rules.softmax_base), mask, at.rules.softmax_axis)


def visible_to(rules: Rules, name: str, length: int) -> Array:
    """Which keys each query of a layer sees: [T, T] of booleans"""
    window = rules.windows[layer_of(name) or 0]
    if not rules.ahead:
        return formulas.visible(length, window)
    back = np.arange(length)[:, None] - np.arange(length)
    return (back >= -rules.ahead) & (back < (window or length))


def _context(at: Place, weights: Array, v: Array) -> Array:
    group = np.array(at.rules.group_of_values or at.rules.group)
    context = formulas.context(weights, at.heads(v), group)
    return context.swapaxes(0, 1).reshape(len(v), -1)


def _head(at: Place, context: Array) -> Array:
    head = int(at.name.rpartition("head")[2])
    own = slice(head * at.weights.head_dim, (head + 1) * at.weights.head_dim)
    return context[:, own] @ at.parameter("attn_wo")[:, own].T


def _sum(at: Place, a: Array, b: Array) -> Array:
    factor_a, factor_b = at.rules.parts.get(kind_of(at.name), (1, 1))
    return a * factor_a + b * factor_b


def _act(at: Place, x: Array) -> Array:
    return (at.rules.act or formulas.ACTIVATIONS[at.rules.activation])(x)


def _hidden(at: Place, act: Array, up: Array) -> Array:
    return act * up


def _probs(at: Place, logits: Array) -> Array:
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def _loss(at: Place, logits: Array) -> Array:
    """The mean over the positions whose next token is known; a microGPT's name ends with BOS."""
    targets = np.asarray(at.rules.tokens)[1:]
    bos = at.weights.model.bos
    if at.weights.model.ends_with_bos and bos is not None:
        targets = np.append(targets, bos)
    logits = logits[: len(targets)] - logits[: len(targets)].max(axis=1, keepdims=True)
    own = logits[np.arange(len(targets)), targets]
    return np.asarray((np.log(np.exp(logits).sum(axis=1)) - own).mean())


_FUNCTIONS: dict[str, Function] = {
    "embed.tok": _embed_tokens,
    "embed.pos": _embed_positions,
    "embed.sum": _sum,
    "embed.norm": _norm(""),
    "attn.norm": _norm("attn_norm"),
    "attn.q": _product,
    "attn.k": _product,
    "attn.v": _product,
    "attn.q_norm": _head_norm("attn_q_norm"),
    "attn.k_norm": _head_norm("attn_k_norm"),
    "attn.q_rope": _rope("attn_q_norm"),
    "attn.k_rope": _rope("attn_k_norm"),
    "attn.scores": _scores,
    "attn.weights": _attention_weights,
    "attn.context": _context,
    "attn.head": _head,
    "attn.out": _product,
    "attn.residual": _sum,
    "mlp.norm": _norm("mlp_norm"),
    "mlp.gate": _product,
    "mlp.up": _product,
    "mlp.act": _act,
    "mlp.hidden": _hidden,
    "mlp.down": _product,
    "mlp.residual": _sum,
    "final.norm": _norm("final_norm"),
    "logits": _logits,
    "probs": _probs,
    "loss": _loss,
}
