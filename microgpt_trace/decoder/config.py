"""DecoderConfig: dimensions and conventions of a Llama/Qwen2-class model, its parameters and its events.

Parameters have names in the style of microgpt.py's state dict: `wte`, `layer0.attn_wq`,
`layer0.mlp_wdown`, `final_norm`, `lm_head`; biases are `layer0.attn_bq`, norm gains
`layer0.attn_norm`. Matrices are [out, in].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..brief import one_line
from ..errors import InputError
from ..hooks.event import EventSpec

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
BIASES = ("attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown")


ROPE_KINDS = ("default", "linear", "llama3", "yarn")
_DIMENSIONS = (
    "n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "n_inner", "vocab_size", "context_length",
)  # fmt: skip


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise InputError(f"{name}: expected a whole number of at least 1, found {value!r}")


def _positive_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected a positive number, found {value!r}")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: how fast each pair of channels turns with the position.

    `kind` is "default", "linear", "llama3" or "yarn". `factors`, where a file brings them, divide the
    frequencies pair by pair (GGUF's rope_freqs, the llama3 scaling worked out).
    `attention_factor` multiplies cos and sin (yarn); None is the value that yarn derives from `factor`.
    """

    theta: float
    kind: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn
    truncate: bool = True  # yarn: the ramp begins and ends at whole pairs
    factors: tuple[float, ...] = ()

    __repr__ = one_line

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise InputError(f"RoPE scaling {self.kind!r}: expected one of {', '.join(ROPE_KINDS)}")
        for name in ("theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            _positive_number(f"RoPE {name}", getattr(self, name))
        if self.kind in ("llama3", "yarn"):
            _whole("RoPE original context", self.original_context)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise InputError(f"RoPE high_freq_factor {self.high_freq_factor} is not above low_freq_factor")
        for factor in self.factors:
            _positive_number("RoPE factors", factor)


@dataclass(frozen=True)
class DecoderConfig:
    """Dimensions and conventions of a decoder."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_inner: int
    vocab_size: int
    context_length: int
    norm_eps: float
    rope: Rope
    tied: bool
    biases: tuple[str, ...] = ()  # which of BIASES every layer has
    qk_norm: bool = False
    window: int | None = None  # sliding window, in positions
    windowed_layers: tuple[int, ...] = ()
    adjacent_pairs: bool = False  # whether the file had pairs of RoPE's side by side, as GGUF permutes them

    __repr__ = one_line

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            works = ", ".join(ARCHITECTURES)
            raise InputError(f"architecture {self.architecture!r} is not supported; these are: {works}")
        for name in _DIMENSIONS:
            _whole(name, getattr(self, name))
        _positive_number("norm_eps", self.norm_eps)
        if self.n_head % self.n_kv_head:
            raise InputError(f"{self.n_head} heads do not divide among {self.n_kv_head} key-value heads")
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd: RoPE turns pairs of channels")
        if self.rope.factors and len(self.rope.factors) != self.head_dim // 2:
            pairs, found = self.head_dim // 2, len(self.rope.factors)
            raise InputError(f"RoPE factors: expected one for each of {pairs} pairs, found {found}")
        if self.window is not None:
            _whole("sliding window", self.window)

    @property
    def activation(self) -> str:
        return "SiLU"

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """How many positions each layer's queries see; None: all."""
        return tuple(self.window if i in self.windowed_layers else None for i in range(self.n_layer))

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in order of use; a tied lm_head is not among them."""
        width, inner = self.n_embd, self.n_inner
        queries, keys = self.n_head * self.head_dim, self.n_kv_head * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,),
            "attn_wq": (queries, width),
            "attn_wk": (keys, width),
            "attn_wv": (keys, width),
            "attn_wo": (width, queries),
            "mlp_norm": (width,),
            "mlp_wgate": (inner, width),
            "mlp_wup": (inner, width),
            "mlp_wdown": (width, inner),
        }
        if self.qk_norm:
            layer |= {"attn_q_norm": (self.head_dim,), "attn_k_norm": (self.head_dim,)}
        for bias in self.biases:
            layer[bias] = (layer[bias.replace("_b", "_w")][0],)
        shapes: dict[str, tuple[int, ...]] = {"wte": (self.vocab_size, width)}
        for i in range(self.n_layer):
            shapes |= {f"layer{i}.{name}": shape for name, shape in layer.items()}
        shapes["final_norm"] = (width,)
        return shapes if self.tied else shapes | {"lm_head": (self.vocab_size, width)}


def yarn_attention_factor(factor: float) -> float:
    """0.1 ln(factor) + 1, by which yarn multiplies cos and sin.

    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023), eq. 22.
    """
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def event_specs(config: DecoderConfig) -> list[EventSpec]:
    """Every event of a forward pass in order of computation."""
    head = "wte" if config.tied else "lm_head"
    return [
        EventSpec("embed.tok", "embedding", None, "x = wte[tokens]", "wte"),
        *(spec for i in range(config.n_layer) for spec in _layer_specs(i, config)),
        EventSpec("final.norm", "head", None, "x_n = RMSNorm(x) * g [final]", "g = final_norm"),
        EventSpec("logits", "head", None, "logits = x_n @ w_lm", f"w_lm = {head}.T"),
        EventSpec("probs", "head", None, "probs = softmax(logits)", overview=False),
        EventSpec("loss", "head", None, "loss = mean(-log probs[target])", overview=False),
    ]


def _layer_specs(i: int, config: DecoderConfig) -> list[EventSpec]:
    def spec(stage: str, name: str, expr: str, *weights: str, **more: bool) -> EventSpec:
        behind = ", ".join(
            f"{'g' if 'norm' in w else w} = layer{i}.{stage}_{w}" + ".T" * w.startswith("w") for w in weights
        )
        family = "attention" if stage == "attn" else "mlp"
        return EventSpec(f"layer{i}.{stage}.{name}", family, i, expr, behind, **{"overview": False} | more)

    def product(stage: str, name: str, made: str, x: str, w: str, note: str = "") -> EventSpec:
        b = w.replace("w", "b", 1)
        biased = f"{stage}_{b}" in config.biases
        expr = f"{made} = {x} @ {w}" + f" + {b}" * biased + f" [{note}]" * bool(note)
        return spec(stage, name, expr, w, *([b] if biased else []))

    dim, normed = config.head_dim, ["q", "k"] if config.qk_norm else []
    window = f" + window {config.window}" if i in config.windowed_layers else ""
    heads = [
        EventSpec(
            f"layer{i}.attn.head{h}", "attention", i, f"head_{h}_out @ wo[{h}]",
            f"layer{i}.attn_wo[:, {h * dim}:{(h + 1) * dim}]", extra=True, overview=False,
        )
        for h in range(config.n_head)
    ]  # fmt: skip
    return [
        spec("attn", "norm", "x_n = RMSNorm(x) * g [pre-attn]", "norm"),
        *(product("attn", n, n, "x_n", f"w{n}", f"{n}_proj") for n in "qkv"),
        *(spec("attn", f"{n}_norm", f"{n} = RMSNorm({n}) * g per head", f"{n}_norm") for n in normed),
        *(spec("attn", f"{n}_rope", f"{n} = RoPE({n}, position)") for n in "qk"),
        spec("attn", "scores", f"scores = q @ k.T / sqrt({dim})", causal=True),
        spec("attn", "weights", f"weights = softmax(scores + mask{window})", causal=True),
        spec("attn", "context", "context = weights @ v [attn]"),
        *heads,
        product("attn", "out", "attn_out", "context", "wo", "o_proj"),
        spec("attn", "residual", "x = x_res + attn_out [residual]"),
        spec("mlp", "norm", "x_n = RMSNorm(x) * g [pre-FFN]", "norm"),
        product("mlp", "gate", "gate", "x_n", "wgate", "gate_proj"),
        product("mlp", "up", "up", "x_n", "wup", "up_proj"),
        spec("mlp", "act", "act = SiLU(gate)"),
        spec("mlp", "hidden", "hidden = act * up"),
        product("mlp", "down", "mlp_out", "hidden", "wdown", "ffn_down"),
        spec("mlp", "residual", "x = x_res + mlp_out [residual]", overview=True),
    ]
