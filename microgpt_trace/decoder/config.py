"""DecoderConfig: the dimensions and conventions of a production model, and its parameters.

Parameters are named in the style of microgpt.py's state dict: matrices `wte`, `layer0.attn_wq`,
`layer0.mlp_wdown`, `lm_head`; biases `layer0.attn_bq`; gains and biases of norms `layer0.attn_norm`,
`layer0.attn_bnorm`, `final_norm`. Matrices are [out, in].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from ..errors import InputError
from ..plans.blocks import Dimensions
from ..plans.config_checks import check_positive, check_whole_number
from ..plans.plan import Plan
from ..plans.rope import Rope
from ..text.frozen import frozen

_DIMENSIONS = (
    "n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "n_inner", "vocab_size", "context_length",
)  # fmt: skip
# `describe` leaves out these values.
OMITTED_DEFAULTS = {
    "activation": "SiLU", "score_scales": (), "rotary_dim": None, "window_rope": None,
    "layers_without_rope": (),
}  # fmt: skip


@frozen(slots=False)
class DecoderConfig(Dimensions):
    """The dimensions and conventions of a decoder. Raises InputError if the values contradict each other.

    Each architecture has a subclass with its plan, and with the options that only this architecture has.
    """

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
    rope: Rope | None  # None if the model has learned positions
    tied: bool
    biases: tuple[str, ...] = ()  # the names of the biases in each layer, from blocks.BIASES
    qk_norm: bool = False
    window: int | None = None  # the number of positions that a query sees in windowed layers
    windowed_layers: tuple[int, ...] = ()
    adjacent_pairs: bool = False  # True if the file stores RoPE pairs side by side, like GGUF
    activation: str = "SiLU"
    score_scales: tuple[float, ...] = ()  # a scale for each layer; () means 1/sqrt(head_dim)
    rotary_dim: int | None = None  # the number of channels of each head that RoPE turns; None means all
    window_rope: Rope | None = None  # RoPE of the layers with a window; None means `rope`
    layers_without_rope: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in _DIMENSIONS:
            check_whole_number(name, getattr(self, name))
        check_positive("norm_eps", self.norm_eps)
        if self.n_head % self.n_kv_head:
            text = f"n_head {self.n_head}: expected a multiple of n_kv_head {self.n_kv_head}"
            raise InputError(text, "n_head")
        channels = self.rotary_dim or self.full_head_dim
        if self.rope is not None and (channels % 2 or channels > self.full_head_dim):
            raise InputError(f"head_dim: RoPE needs an even number, found {channels}", "head_dim")
        factors, pairs = self.rope.factors if self.rope else (), channels // 2
        pairs *= 2 if self.rope and self.rope.kind == "longrope" else 1  # of short and of long texts
        if factors and len(factors) != pairs:
            text = f"RoPE factors: expected {pairs}, one for each pair, found {len(factors)}"
            raise InputError(text, "rope_factors")
        if self.window is not None:
            check_whole_number("window", self.window)

    @property
    def full_head_dim(self) -> int:
        """The width of a head in layers without a window."""
        return self.head_dim

    @property
    def unused(self) -> tuple[str, ...]:
        """The names of parameters that a file may have, although no row reads them."""
        return ()

    @property
    def plan(self) -> Plan:
        """The model as rows of operations in order of computation."""
        raise NotImplementedError

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: the number of positions that a query sees, or None for no limit."""
        return tuple(self.window if i in self.windowed_layers else None for i in range(self.n_layer))

    @cached_property
    def ropes(self) -> tuple[Rope | None, ...]:
        """RoPE of each layer, or None if the layer has no RoPE."""
        windowed = self.window_rope or self.rope
        kinds = (windowed if i in self.windowed_layers else self.rope for i in range(self.n_layer))
        return tuple(None if i in self.layers_without_rope else rope for i, rope in enumerate(kinds))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the name and shape of every parameter, in order of use. A tied lm_head is left out."""
        return self.plan.parameters

    def describe(self) -> dict[str, Any]:
        """Return the config as plain data. Fields that equal OMITTED_DEFAULTS are left out."""
        omitted = OMITTED_DEFAULTS.items()
        return {name: value for name, value in asdict(self).items() if (name, value) not in omitted}
