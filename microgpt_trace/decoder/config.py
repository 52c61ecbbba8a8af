"""DecoderConfig: dimensions and conventions of a production model, and its parameters.

Parameters have names in the style of microgpt.py's state dict: `wte`, `layer0.attn_wq`,
`layer0.mlp_wdown`, `final_norm`, `lm_head`; biases are `layer0.attn_bq`, norm gains
`layer0.attn_norm` and their biases `layer0.attn_bnorm`. Matrices are [out, in].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from ..architecture.plans.blocks import Dimensions
from ..architecture.plans.catalogue import PLANS
from ..architecture.plans.config_checks import check_positive, check_whole_number
from ..architecture.plans.plan import Plan
from ..architecture.plans.rope import Rope
from ..errors import InputError
from ..text.brief import frozen

_DIMENSIONS = (
    "n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "n_inner", "vocab_size", "context_length",
)  # fmt: skip


OF_SOME = {"activation": "SiLU", "score_scales": ()}  # what only some architectures have otherwise


@frozen(slots=False)
class DecoderConfig(Dimensions):
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
    rope: Rope | None  # None: positions are learned
    tied: bool
    biases: tuple[str, ...] = ()  # which of blocks.BIASES every layer has
    qk_norm: bool = False
    window: int | None = None  # sliding window, in positions
    windowed_layers: tuple[int, ...] = ()
    adjacent_pairs: bool = False  # whether the file had pairs of RoPE's side by side, as GGUF permutes them
    activation: str = "SiLU"
    score_scales: tuple[float, ...] = ()  # of each layer's scores, where that is not 1/sqrt(head_dim)

    def __post_init__(self) -> None:
        if self.architecture not in PLANS:
            works = ", ".join(PLANS)
            raise InputError(f"architecture {self.architecture!r} is not supported; these are: {works}")
        for name in _DIMENSIONS:
            check_whole_number(name, getattr(self, name))
        check_positive("norm_eps", self.norm_eps)
        if self.n_head % self.n_kv_head:
            raise InputError(f"{self.n_head} heads do not divide among {self.n_kv_head} key-value heads")
        if self.rope is not None and self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd: RoPE turns pairs of channels")
        factors = self.rope.factors if self.rope is not None else ()
        if factors and len(factors) != self.head_dim // 2:
            pairs, found = self.head_dim // 2, len(factors)
            raise InputError(f"RoPE factors: expected one for each of {pairs} pairs, found {found}")
        if self.window is not None:
            check_whole_number("sliding window", self.window)

    @cached_property
    def plan(self) -> Plan:
        """How the model computes."""
        return PLANS[self.architecture](self)

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """How many positions each layer's queries see; None: all."""
        return tuple(self.window if i in self.windowed_layers else None for i in range(self.n_layer))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every parameter, in order of use; a tied lm_head is not among them."""
        return self.plan.parameters

    def describe(self) -> dict[str, Any]:
        """The same as plain data, but for what only other architectures have."""
        return {name: v for name, v in asdict(self).items() if name not in OF_SOME or v != OF_SOME[name]}
