"""Rules: how a model of either family computes, as plain data. Knows no values and no weights.

A hypothesis about a faulty engine is these rules with something replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..architecture.graph import Inputs
from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from .formulas import frequencies

Instead = Mapping[str, Callable[[str], Array]]


@dataclass(frozen=True, eq=False)
class Rotation:
    """RoPE: radians per position of each pair [n/2], and which channels make a pair.

    The first n channels of a head turn and the others stay; `factor` multiplies cos and sin, `offset`
    is the position of the first token.
    """

    frequencies: Array
    factor: float = 1.0
    adjacent: bool = False  # pairs (0, 1), (2, 3) ... where False is (0, n/2), (1, n/2 + 1) ...
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Rules:
    """How a model computes.

    `inputs` are what an operation reads, by its name without its layer ("stream" is what enters the
    layer, "last" what leaves the last one). `instead` gives what stands in the place of a parameter,
    by its name without its layer, from its whole name.
    """

    inputs: Inputs
    eps: float
    activation: str
    scale: float  # of the scores
    group: tuple[int, ...]  # whose keys and values each head has
    tokens: Array
    rotation: Rotation | None = None
    windows: tuple[int | None, ...] = ()  # of each layer
    instead: Instead = field(default_factory=dict)
    group_of_values: tuple[int, ...] = ()  # where it is not that of the keys
    eps_outside: bool = False  # x / (sqrt(mean(x^2)) + eps)
    centred: bool = False  # the mean is subtracted first
    norm_power: float = 0.5  # what the mean square is raised to; 0: the gain alone
    norm_exponent: float = 2.0  # of |x| before the mean, its inverse after it
    norm_summed: bool = False  # the sum of squares, not their mean
    per_head: bool = True  # norms of q and k
    norm_after_rotation: bool = False
    rotation_before_norm: bool = False  # q_norm is the norm of q turned, q_rope passes it on
    embedding_scale: float = 1.0
    rows_of_tokens: Callable[[Array], Array] | None = None  # [T] -> [T, C], where they are read otherwise
    position_offset: int = 0  # of learned positions
    ahead: int = 0  # how many later positions a query sees; -1: not even itself
    softmax_base: float = math.e
    softmax_axis: int = -1
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # factors of a sum's two parts
    caps: Mapping[str, float] = field(default_factory=dict)  # c * tanh(x / c), by kind
    act: Callable[[Array], Array] | None = None  # in place of the activation of that name

    def reading(self, **inputs: tuple[str, ...]) -> Rules:
        """The same rules where operations read other inputs; `attn_q` stands for attn.q."""
        return replace(self, inputs={**self.inputs, **{k.replace("_", ".", 1): v for k, v in inputs.items()}})

    def with_instead(self, instead: Instead) -> Rules:
        """The same rules where something stands in the place of parameters."""
        return replace(self, instead={**self.instead, **instead})

    def turning(self, **changes: object) -> Rules:
        """The same rules with another rotation."""
        assert self.rotation is not None
        return replace(self, rotation=replace(self.rotation, **changes))  # type: ignore[arg-type]


def rules_of(model: LanguageModel, tokens: Array) -> Rules:
    """How the model says that it computes."""
    config, rope = model.config, model.config.rope
    rotation = None if rope is None else Rotation(*frequencies(rope, config.head_dim))
    return Rules(
        inputs=model.inputs,
        eps=config.norm_eps,
        activation=config.activation,
        scale=1 / math.sqrt(config.head_dim),
        group=tuple(h * config.n_kv_head // config.n_head for h in range(config.n_head)),
        tokens=tokens,
        rotation=rotation,
        windows=config.windows,
    )
