"""Blocks: rows that several architectures have alike, and RowBuilder, which collects the rows of a plan.
Knows no architecture by itself.

Names of events and parameters follow the plan of each: wq is the matrix of q, bq its bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .kinds import Context, Kind, Linear, Loss, Norm, Probabilities, Scores, Softmax
from .plan import Operation, Plan, stage_of

BIASES = (  # that layers may have, as their architecture or their file says
    "attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown", "attn_bnorm",
    "mlp_bnorm",
)  # fmt: skip


class Dimensions:
    """What the rest of the program, and the rows of a plan, ask of a config. Shape letters are those of
    microgpt/operations.py."""

    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_inner: int
    vocab_size: int
    context_length: int  # how many positions the model reads at most, or was made for
    norm_eps: float
    activation: str  # the function of the MLP, as Activation names it
    rope: Any = None  # how q and k turn with the position, a `Rope` of rope.py; None of learned positions
    tied: bool = False  # whether the embedding makes the logits too
    biases: tuple[str, ...] = ()  # those that every layer has, as "attn_bq"
    qk_norm: bool = False  # whether each head's q and k are normed
    score_scales: tuple[float, ...] = ()  # of each layer's scores; empty: 1/sqrt(head_dim) in all

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many positions each layer's queries see; None: all."""
        return (None,) * self.n_layer

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every parameter, in order of use."""
        raise NotImplementedError


def norm(
    rows: RowBuilder, config: Dimensions, name: str, stream: str, words: str, centred: bool = False
) -> str:
    """RMSNorm with a gain, or LayerNorm with gain and bias, of what is read of the stream."""
    half = name.partition(".")[0]
    gain, bias = rows.name(f"{half}_norm"), rows.name(f"{half}_bnorm") if centred else None
    kind = Norm(config.norm_eps, gain, centred=centred, bias=bias)
    expr = f"x_n = {'LayerNorm' if centred else 'RMSNorm'}(x) * g" + " + b" * centred + f" [{words}]"
    behind = f"g = {gain}" + f", b = {bias}" * centred
    return rows.add(name, kind, stream, expr=expr, behind=behind, overview=half == "final")


def product(
    rows: RowBuilder, config: Dimensions, name: str, matrix: str, source: str, width: int, made: str,
    words: str = "", parts: Sequence[str] = (),
) -> str:  # fmt: skip
    """x @ W.T, and the bias where the layers have one of that name: attn_bq beside attn_wq."""
    half, vector = name.partition(".")[0], matrix.replace("w", "b", 1)
    biased = f"{half}_{vector}" in config.biases
    kind = Linear(rows.name(f"{half}_{matrix}"), width, rows.name(f"{half}_{vector}") if biased else None)
    expr = f"{made} @ {matrix}" + f" + {vector}" * biased + f" [{words}]" * bool(words)
    behind = f"{matrix} = {kind.weight}.T" + f", {vector} = {kind.bias}" * biased
    return rows.add(name, kind, source, expr=expr, behind=behind, parts=parts)


def queries_keys_values(
    rows: RowBuilder, config: Dimensions, source: str, words: str = "{}_proj"
) -> tuple[str, str, str]:
    """q, k and v of as many heads as there are of each."""
    of = (("q", config.n_head), ("k", config.n_kv_head), ("v", config.n_kv_head))
    q, k, v = (
        product(
            rows, config, f"attn.{n}", f"w{n}", source, heads * config.head_dim, f"{n} = x_n", words.format(n)
        )
        for n, heads in of
    )
    return q, k, v


def attention(
    rows: RowBuilder, config: Dimensions, layer: int, q: str, k: str, v: str,
    overview: bool = False, words: Sequence[str] = (" [attn]", "o_proj"),
) -> str:  # fmt: skip
    """From what meets in the scores, times the layer's scale, to what the heads together write."""
    dim, width, queries, keys = config.head_dim, config.n_embd, config.n_head, config.n_kv_head
    group = tuple(h * keys // queries for h in range(queries))  # whose keys and values a head has
    usual, window = 1 / math.sqrt(dim), config.windows[layer]
    scale = config.score_scales[layer] if config.score_scales else usual
    by = f"/ sqrt({dim})" if scale == usual else f"* {scale:.6g}"
    rows.add("attn.scores", Scores(dim, group, scale), q, k, expr=f"scores = q @ k.T {by}")
    mask = "mask" if window is None else f"mask + window {window}"
    expr = f"weights = softmax(scores + {mask})"
    rows.add("attn.weights", Softmax(window), "attn.scores", expr=expr, overview=overview)
    expr = f"context = weights @ v{words[0]}"
    context = rows.add("attn.context", Context(dim, group), "attn.weights", v, expr=expr)
    weight, heads = rows.name("attn_wo"), []
    for h in range(queries):  # the columns of a head
        own = (h * dim, (h + 1) * dim)
        kind, expr = Linear(weight, width, columns=own), f"head_{h}_out @ wo[{h}]"
        behind = f"{weight}[:, {own[0]}:{own[1]}]"
        name = f"attn.head{h}"
        heads.append(
            rows.add(name, kind, context, expr=expr, behind=behind, overview=overview, extra=not overview)
        )
    return product(rows, config, "attn.out", "wo", context, width, "attn_out = context", words[1], heads)


def predictions(rows: RowBuilder, config: Dimensions, source: str, read: str = "x_n") -> Plan:
    """From what the head reads to the loss, and the plan of all rows."""
    head = Linear("wte" if config.tied else "lm_head", config.vocab_size)
    expr, behind = f"logits = {read} @ w_lm", f"w_lm = {head.weight}.T"
    rows.add("logits", head, source, expr=expr, behind=behind, overview=True)
    rows.add("probs", Probabilities(), "logits", expr="probs = softmax(logits)")
    rows.add("loss", Loss(), "logits", expr="loss = mean(-log probs[target])")
    return Plan(rows.rows)


class RowBuilder:
    """Collects the rows of a plan. Within a layer the names of its events and parameters come without it:
    attn.q, attn_wq."""

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self.layer: int | None = None  # which what follows is in; None: before or after them

    def name(self, own: str) -> str:
        """The whole name of an event or a parameter of this layer."""
        return f"layer{self.layer}.{own}" if own.startswith(("attn", "mlp")) else own

    def add(
        self, name: str, kind: Kind, *inputs: str, expr: str, behind: str = "", overview: bool = False,
        extra: bool = False, parts: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Add a row; its whole name."""
        whole = self.name(name)
        self.rows.append(
            Operation(
                whole, stage_of(name), self.layer, expr, behind, kind.causal, overview, extra, kind,
                tuple(map(self.name, inputs)), tuple(parts),
            )
        )  # fmt: skip
        return whole
