"""Hypotheses: what a mistake would make of an operation, and what is said of it.

Knows no mistake by itself; they are in the modules hypotheses_*. They are tried in trying.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..architecture.plan import kind_of, layer_of, prefix_of
from ..arrays.stats import Array
from ..brief import one_line
from .fitting import PLAIN, Family
from .judging import Judge, row_errors
from .operations import Weights, inputs_of
from .rules import Rules
from .telling import Seen

ELEMENTWISE = ("mlp.act", "mlp.hidden", "attn.weights", "probs")  # operations in which nothing cancels


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A mistake: the rules by which the engine would have computed, or what it did to the right value.

    `claim` goes on after "layer 0, q after RoPE: ". `rank` is PLAIN for one mistake, NUMBERED where it
    has a number taken from the dump, COMBINED for two at a time, DESCRIBED for what only tells how the
    values differ. `value` is the number, `low` and `high` those around it that fit as well. Of one that is
    `of_no_number` a row of which nothing finite follows is no objection.
    """

    id: str
    claim: str
    rules: Rules | None = None
    transform: Transform | None = None
    rank: int = PLAIN
    value: float | None = None
    low: float | None = None
    high: float | None = None
    of_no_number: bool = False

    __repr__ = one_line


@dataclass(frozen=True)
class Finding:
    """A hypothesis about an operation that was tried, or a fact about the tokens.

    `residual` is the error that it leaves (relative L2 of the worst row), `also_explains` the other
    wrong operations that the same mistake explains, `cannot_be_told_from` the claims that fit this
    operation as well. `value` is the number of a mistake that has one, and all from `low` to `high` fit
    as well as it.
    """

    operation: str
    id: str
    claim: str
    residual: float
    explains: bool
    also_explains: tuple[str, ...] = ()
    cannot_be_told_from: tuple[str, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Case:
    """A wrong operation: the dump's values beside what follows from the dump's own inputs.

    `positions` are those of the rows of `found`, None where it has all; `expected` is float32 or float64.
    """

    name: str
    found: Array
    expected: Array
    positions: Sequence[int] | None
    judge: Judge
    error: float

    @property
    def rules(self) -> Rules:
        return self.judge.plain.rules

    @property
    def weights(self) -> Weights:
        return self.judge.plain.weights

    @property
    def kind(self) -> str:
        return kind_of(self.name)

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

    @property
    def prefix(self) -> str:
        return prefix_of(self.name)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of all operations since the dump's own inputs."""
        return frozenset(map(kind_of, (*self.judge.plain.between(self.name), self.name)))

    @property
    def alone(self) -> bool:
        """The dump has all the operation's inputs, and all rows of its output: numbers can be measured."""
        return len(self.kinds) == 1 and self.positions is None

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """The dump's own inputs, float64; only where the operation stands alone."""
        values = self.judge.plain.values
        return tuple(np.asarray(values[name], np.float64) for name in inputs_of(self.rules, self.name))

    @cached_property
    def largest(self) -> float:
        """The largest error of a row, infinite where one is not finite."""
        errors = row_errors(self.found, self.expected, self.judge.compared(self.name))
        return float(np.nanmax(errors, initial=0))

    @cached_property
    def products(self) -> dict[str, str]:
        """The matrices of this layer that take part, and the products they are in: attn_wq -> attn.q"""
        behind = self.weights.behind
        found = {behind[kind]: kind for kind in behind if kind in self.kinds and self.has(behind[kind])}
        return found | ({"attn_wo": "attn.head"} if self.kind == "attn.head" else {})

    def value(self, kind: str) -> Array:
        """The event of that kind in this layer: the dump's, or what follows for it."""
        return self.judge.plain.value(self.prefix + kind)

    def has(self, parameter: str) -> bool:
        """Whether this layer has a parameter of that kind, or the layers before the model's end have it."""
        return self.whole_name(parameter) in self.weights

    def whole_name(self, parameter: str) -> str:
        """A parameter of this layer; at the model's ends its own, or else the first layer's."""
        own = self.prefix + parameter
        return own if self.layer is not None or own in self.weights else f"layer0.{parameter}"

    @cached_property
    def seen(self) -> Seen:
        """What predictions are held against."""
        judge, alone = self.judge, len(self.kinds) == 1
        elements = alone and self.kind in ELEMENTWISE
        compared, precision = judge.compared(self.name), judge.plain.precision.name
        return Seen(self.found, self.expected, compared, precision, elements)


Transform = Callable[[Case, Array], Array]
Generator = Callable[[Case], Iterable["Hypothesis | Family"]]


def words_of(name: str) -> str:
    """An event as an engineer calls it: "layer 0, q after RoPE"."""
    layer, kind = layer_of(name), kind_of(name)
    words = words_of_kind(kind)
    if kind == "attn.head":
        words = f"share of head {name.rpartition('head')[2]}"
    return words if layer is None else f"layer {layer}, {words}"


def words_of_kind(kind: str) -> str:
    """An event without its layer, in words: "q after RoPE" of attn.q_rope"""
    return _WORDS.get(kind, kind)


_WORDS = {
    "embed.tok": "token embedding", "embed.pos": "position embedding", "embed.sum": "sum of the embeddings",
    "embed.norm": "norm of the embedding", "attn.norm": "norm before attention", "attn.q": "q", "attn.k": "k",
    "attn.v": "v", "attn.q_norm": "q after its norm", "attn.k_norm": "k after its norm",
    "attn.q_rope": "q after RoPE", "attn.k_rope": "k after RoPE", "attn.scores": "attention scores",
    "attn.weights": "attention weights", "attn.context": "attention context", "attn.out": "attention output",
    "attn.residual": "stream after attention", "mlp.norm": "norm before the MLP", "mlp.gate": "gate",
    "mlp.up": "up", "mlp.act": "activation", "mlp.hidden": "activation times up", "mlp.down": "MLP output",
    "mlp.residual": "stream after the MLP", "final.norm": "final norm", "logits": "logits",
    "probs": "probabilities", "loss": "loss",
}  # fmt: skip
