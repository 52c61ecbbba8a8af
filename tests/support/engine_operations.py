"""The operations of the faulty engine in float64. Options that no correct model uses make faults.

Imports nothing from the package.
"""

from dataclasses import dataclass

import numpy as np
from support.ggml_inputs import EightBit
from support.judges_decoder import (
    gelu,
    gelu_by_tanh,
    head_dim_of,
    kv_heads_of,
    rope_frequencies,
    rope_of,
    softmax,
)


@dataclass(frozen=True)
class Step:
    """The input of an operation. `step[name]` is an earlier event, of the same layer if it has that name."""

    config: dict
    weights: dict
    tokens: list
    targets: list
    events: dict
    layer: int | None
    eight_bit: EightBit | None = None

    def __getitem__(self, name):
        in_layer = f"layer{self.layer}.{name}"
        return self.events[in_layer if in_layer in self.events else name].astype(np.float64)

    def key(self, name, shift=0):
        layer = ((self.layer or 0) + shift) % self.config["num_hidden_layers"]
        return name if name in self.weights else f"model.layers.{layer}.{name}"

    def weight(self, name, shift=0):
        return self.weights[self.key(name, shift)]

    def cached(self, name):
        """Return an event as attention reads it: an engine with 8-bit inputs rounds it to float16."""
        return self[name] if self.eight_bit is None else self[name].astype(np.float16).astype(np.float64)

    def times(self, x, matrix, name):  # [T, K], [out, K] -> [T, out]
        return x @ matrix.T if self.eight_bit is None else self.eight_bit.product(x, matrix, name)

    def heads(self, x):  # [T, H*D] -> [T, H, D]
        return x.reshape(len(x), -1, head_dim_of(self.config))


def embed(s, table, positions=False, offset=0, scale=1.0, misread=False):
    ids = np.arange(len(s.tokens)) + offset if positions else np.array(s.tokens)
    rows = s.weight(f"{table}.weight")
    wrong = ids == ids[len(ids) // 2] if misread else np.zeros(len(ids), bool)
    return rows[np.where(wrong, (ids + 1) % len(rows), ids)] * scale


def norm(
    s, of, gain="", eps=None, inside=True, centred=False, plus=0.0, skip=False, per_head=False, turned=False,
    power=0.5, exponent=2.0, divisor=None, bias=1.0, bias_of="",
):  # fmt: skip
    x = rope(s, of) if turned else s[of]
    if skip:
        return x
    shape, eps = x.shape, s.config["rms_norm_eps"] if eps is None else eps
    x = s.heads(x) if per_head else x
    x = x - x.mean(-1, keepdims=True) if centred else x
    square = (np.abs(x) ** exponent).sum(-1, keepdims=True) / (divisor or x.shape[-1])
    power = power if exponent == 2 else 1 / exponent
    rms = (square + eps) ** power if inside else square**power + eps
    y = x / rms * ((s.weight(f"{gain}.weight") if gain else 1.0) + plus)
    if s.key(f"{gain}.bias") in s.weights:
        y = y + bias * s.weight(f"{bias_of or gain}.bias")
    return y.reshape(shape)


def product(
    s, of, by, weight="", shift=0, transposed=False, permuted=False, bias=1.0, bias_of="", bias_shift=0,
    columns=None, times=1.0, cap=None,
):  # fmt: skip
    """Return x @ W.T + bias. `permuted` rows have GGUF's order: channel i of a head next to i + D/2."""
    w = s.weight(f"{weight or by}.weight", shift)
    w = w.T if transposed else w
    x, w = (s[of], w) if columns is None else (s[of][:, columns], w[:, columns])
    y = s.times(x, w, "" if transposed else s.key(f"{weight or by}.weight", shift))
    if s.key(f"{by}.bias") in s.weights:
        y = y + bias * s.weight(f"{bias_of or by}.bias", bias_shift)
    if permuted:
        halves = s.heads(y)
        y = np.stack(np.split(halves, 2, -1), -1).reshape(y.shape)
    return _softcap(y * times, cap)


def total(s, parts):
    return sum(s[part] for part in parts)


def rope(s, of, interleaved=False, settings=None, offset=0, direction=1, skip=False, stretch=1.0, size=1.0):
    x = s[of]
    if skip:
        return x
    dim, length = head_dim_of(s.config), len(x)
    changed = {"head_dim": dim, "rope_parameters": rope_of(s.config) | (settings or {})}
    frequencies, factor = rope_frequencies(changed)
    angles = direction * (np.arange(length) * stretch + offset)[:, None, None] * frequencies
    pairs = x.reshape(length, -1, dim // 2, 2) if interleaved else x.reshape(length, -1, 2, dim // 2)
    pairs = pairs if interleaved else pairs.swapaxes(2, 3)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles) * factor * size
    back = np.stack([turned.real, turned.imag], -1)
    return (back if interleaved else back.swapaxes(2, 3)).reshape(x.shape)


def _kv_heads(s, x, modulo):
    """Return the keys or values of each query head: [T, G*D] -> [T, H, D]"""
    heads, kv_heads = s.config["num_attention_heads"], kv_heads_of(s.config)
    group = np.arange(heads) % kv_heads if modulo else np.arange(heads) * kv_heads // heads
    return s.heads(x)[:, group]


def scores(s, q, k, power=-0.5, modulo=False, scale=None, cap=None):
    products = np.einsum("qhd,khd->hqk", s.heads(s.cached(q)), _kv_heads(s, s.cached(k), modulo))
    return _softcap(products * (head_dim_of(s.config) ** power if scale is None else scale), cap)


def _softcap(x, cap):
    return x if cap is None else cap * np.tanh(x / cap)


def attention_weights(s, window, masked=True, ahead=0, strict=False, times=1.0):
    x = s["attn.scores"] * times
    back = np.arange(x.shape[1])[:, None] - np.arange(x.shape[2])
    seen = (back >= -ahead) & (back < (window or x.shape[2]))
    if strict:  # a position does not see itself, except position 0, which would see nothing
        seen &= (back > 0) | (np.arange(x.shape[1]) == 0)[:, None]
    return softmax(np.where(seen | (not masked), x, -np.inf))


def context(s, modulo=False):
    mixed = np.einsum("hqk,khd->qhd", s.cached("attn.weights"), _kv_heads(s, s.cached("attn.v"), modulo))
    return mixed.reshape(len(mixed), -1)


ACTIVATIONS = {
    "relu": lambda x: np.where(x < 0, 0.0, x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": gelu,
    "gelu_tanh": gelu_by_tanh,
    "gelu_quick": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu2": lambda x: np.where(x < 0, 0.0, x) ** 2,
    "leaky": lambda x, slope=0.01: np.where(x < 0, slope * x, x),
    "swish": lambda x, slope=1.0: x / (1 + np.exp(-slope * x)),
}


def activation(s, of, kind, **options):
    return ACTIVATIONS[kind](s[of], **options)


def times(s, a, b):
    return s[a] * s[b]


def residual(s, stream, branch, kept=1.0, added=1.0):
    return kept * s[stream] + added * s[branch] if kept else added * s[branch]


def probabilities(s):
    return softmax(s["logits"])


def cross_entropy(s):
    hits = s["probs"][np.arange(len(s.targets)), s.targets]
    return -np.log(hits).mean()
