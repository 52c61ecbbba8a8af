"""Blocks: functions that add the rows of norms, attention and other parts. RowBuilder: collects the rows of a
plan. This module depends on no single architecture.

In the names of parameters, wq means the matrix of q and bq the bias of q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .kinds import Context, Kind, Linear, Loss, Norm, Probabilities, Scores, Softmax
from .plan import Operation, Plan, stage_of

BIASES = (  # the biases that a layer may have
    "attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown", "attn_bnorm",
    "mlp_bnorm",
)  # fmt: skip


class Dimensions:
    """The settings that the config of every architecture has."""

    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_inner: int
    vocab_size: int
    context_length: int  # the largest number of positions
    norm_eps: float
    activation: str  # the name of the MLP's function, as in the kind Activation
    rope: Any = None  # a `Rope` of rope.py, or None if the model has learned positions
    tied: bool = False  # True if the token embedding is also the output matrix
    biases: tuple[str, ...] = ()  # the names of the biases in each layer, such as "attn_bq"
    qk_norm: bool = False  # True if q and k of each head are normalised
    score_scales: tuple[float, ...] = ()  # a scale for each layer; () means 1/sqrt(head_dim)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: the number of positions that a query sees, or None for no limit."""
        return (None,) * self.n_layer

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the name and shape of every parameter, in order of use."""
        raise NotImplementedError


def norm(
    rows: RowBuilder, config: Dimensions, name: str, stream: str, words: str, centred: bool = False
) -> str:
    """Add a LayerNorm with gain and bias if `centred`, else an RMSNorm with gain. Return the event's name."""
    half = name.partition(".")[0]
    gain, bias = rows.name(f"{half}_norm"), rows.name(f"{half}_bnorm") if centred else None
    kind = Norm(config.norm_eps, gain, centred=centred, bias=bias)
    expr = f"x_n = {'LayerNorm' if centred else 'RMSNorm'}(x) * g" + " + b" * centred + f" [{words}]"
    parameter = f"g = {gain}" + f", b = {bias}" * centred
    return rows.add(name, kind, stream, expr=expr, parameter=parameter, overview=half == "final")


def product(
    rows: RowBuilder, config: Dimensions, name: str, matrix: str, source: str, width: int, left: str,
    words: str = "", parts: Sequence[str] = (),
) -> str:  # fmt: skip
    """Add x @ W.T, plus a bias if the config lists the bias (attn_bq for attn_wq). Return the row's name."""
    half, vector = name.partition(".")[0], matrix.replace("w", "b", 1)
    biased = f"{half}_{vector}" in config.biases
    kind = Linear(rows.name(f"{half}_{matrix}"), width, rows.name(f"{half}_{vector}") if biased else None)
    expr = f"{left} @ {matrix}" + f" + {vector}" * biased + f" [{words}]" * bool(words)
    parameter = f"{matrix} = {kind.weight}.T" + f", {vector} = {kind.bias}" * biased
    return rows.add(name, kind, source, expr=expr, parameter=parameter, parts=parts)


def queries_keys_values(
    rows: RowBuilder, config: Dimensions, source: str, words: str = "{}_proj"
) -> tuple[str, str, str]:
    """Add the rows of q, k and v, which may differ in the number of heads. Return the rows' names."""
    heads_of = (("q", config.n_head), ("k", config.n_kv_head), ("v", config.n_kv_head))
    q, k, v = (
        product(
            rows, config, f"attn.{n}", f"w{n}", source, heads * config.head_dim, f"{n} = x_n", words.format(n)
        )
        for n, heads in heads_of
    )
    return q, k, v


def attention(
    rows: RowBuilder, config: Dimensions, layer: int, q: str, k: str, v: str,
    overview: bool = False, words: Sequence[str] = (" [attn]", "o_proj"),
) -> str:  # fmt: skip
    """Add the rows of attention, starting with the scores. Return the name of the attention output."""
    dim, width, queries, keys = config.head_dim, config.n_embd, config.n_head, config.n_kv_head
    group = tuple(h * keys // queries for h in range(queries))  # the key-value head of each query head
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
    for h in range(queries):
        first, end = h * dim, (h + 1) * dim
        head = rows.add(
            f"attn.head{h}", Linear(weight, width, columns=(first, end)), context, overview=overview,
            expr=f"head_{h}_out @ wo[{h}]", parameter=f"{weight}[:, {first}:{end}]", extra=not overview,
        )  # fmt: skip
        heads.append(head)
    return product(rows, config, "attn.out", "wo", context, width, "attn_out = context", words[1], heads)


def predictions(rows: RowBuilder, config: Dimensions, source: str, read: str = "x_n") -> Plan:
    """Add the rows from the logits to the loss. Return the plan of all rows."""
    head = Linear("wte" if config.tied else "lm_head", config.vocab_size)
    expr, parameter = f"logits = {read} @ w_lm", f"w_lm = {head.weight}.T"
    rows.add("logits", head, source, expr=expr, parameter=parameter, overview=True)
    rows.add("probs", Probabilities(), "logits", expr="probs = softmax(logits)")
    rows.add("loss", Loss(), "logits", expr="loss = mean(-log probs[target])")
    return Plan(rows.rows)


class RowBuilder:
    """Collects the rows of a plan. The caller omits the layer from the names of events and parameters:
    attn.q, attn_wq."""

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self.layer: int | None = None  # the layer of new rows; None before and after the layers

    def name(self, short: str) -> str:
        """Return the full name of an event or a parameter, such as layer3.attn.q for attn.q in layer 3."""
        return f"layer{self.layer}.{short}" if short.startswith(("attn", "mlp")) else short

    def add(
        self, name: str, kind: Kind, *inputs: str, expr: str, parameter: str = "", overview: bool = False,
        extra: bool = False, parts: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Add a row and return its full name."""
        full_name = self.name(name)
        self.rows.append(
            Operation(
                full_name, stage_of(name), self.layer, expr, parameter, kind.causal, overview, extra, kind,
                tuple(map(self.name, inputs)), tuple(parts),
            )
        )  # fmt: skip
        return full_name
