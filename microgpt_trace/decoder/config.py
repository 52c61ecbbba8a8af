"""DecoderConfig: dimensions and conventions of a Llama/Qwen2-class model, and its parameters.

Parameters have names in the style of microgpt.py's state dict: `wte`, `layer0.attn_wq`,
`layer0.mlp_wdown`, `final_norm`, `lm_head`; biases are `layer0.attn_bq`, norm gains
`layer0.attn_norm`. Matrices are [out, in].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from ..architecture.rope import Rope, check_positive, check_whole
from ..brief import one_line
from ..errors import InputError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
BIASES = ("attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown")


_DIMENSIONS = (
    "n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "n_inner", "vocab_size", "context_length",
)  # fmt: skip


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
            check_whole(name, getattr(self, name))
        check_positive("norm_eps", self.norm_eps)
        if self.n_head % self.n_kv_head:
            raise InputError(f"{self.n_head} heads do not divide among {self.n_kv_head} key-value heads")
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd: RoPE turns pairs of channels")
        if self.rope.factors and len(self.rope.factors) != self.head_dim // 2:
            pairs, found = self.head_dim // 2, len(self.rope.factors)
            raise InputError(f"RoPE factors: expected one for each of {pairs} pairs, found {found}")
        if self.window is not None:
            check_whole("sliding window", self.window)

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
