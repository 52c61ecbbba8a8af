"""RowBuilder: collects the rows of a plan. Blocks: adds the rows of norms, attention and other parts. This
module depends on no single architecture.

In the names of parameters, wq means the matrix of q and bq the bias of q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import kinds
from .kinds import Kind, window_words
from .plan import Operation, Plan, stage_of

if TYPE_CHECKING:
    from .rope import Rope

BIASES = (  # the biases that a layer may have
    "attn_bq", "attn_bk", "attn_bv", "attn_bq_a", "attn_bkv_a", "attn_bk_pe", "attn_bo",
    "mlp_brouter", "mlp_bgate", "mlp_bup", "mlp_bdown", "mlp_bgate_experts", "mlp_bup_experts",
    "mlp_bdown_experts",
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
    experts: int = 0  # the number of experts in a layer with experts
    experts_used: int = 0  # the number of experts that each position uses

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the name and shape of every parameter, in order of use."""
        raise NotImplementedError


class RowBuilder:
    """Collects the rows of a plan. The caller omits the layer from the names of events and parameters:
    attn.q, attn_wq."""

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self.layer: int | None = None  # the layer of new rows; None before and after the layers
        self._causal: dict[str, bool] = {}  # `causal` of each row

    def name(self, short: str) -> str:
        """Return the full name of an event or a parameter, such as layer3.attn.q for attn.q in layer 3."""
        return f"layer{self.layer}.{short}" if short.startswith(("attn", "mlp")) else short

    def add(
        self, name: str, kind: Kind, *inputs: str, expr: str, parameter: str = "", overview: bool = False,
        extra: bool = False, parts: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Add a row and return its full name."""
        full_name, sources = self.name(name), tuple(map(self.name, inputs))
        causal = self._causal[full_name] = kind.hides([self._causal[source] for source in sources])
        self.rows.append(
            Operation(
                full_name, stage_of(name), self.layer, expr, parameter, causal, overview, extra, kind,
                sources, tuple(parts),
            )
        )  # fmt: skip
        return full_name


class Blocks(RowBuilder):
    """Adds rows and blocks of rows for a config. Each method returns the name of the row with the result."""

    def __init__(self, config: Dimensions) -> None:
        super().__init__()
        self.config = config

    def layers(self) -> Iterator[int]:
        """Yield the number of each layer. Rows added meanwhile belong to this layer."""
        for layer in range(self.config.n_layer):
            self.layer = layer
            yield layer
        self.layer = None

    def norm(
        self, name: str, source: str, words: str = "", centred: bool = False,
        biased: bool = False, head_dim: int | None = None, eps: float | None = None, of: str = "",
        by_head: bool = False,
    ) -> str:  # fmt: skip
        """Add a LayerNorm with gain if `centred`, else an RMSNorm with gain; with a bias if `biased`.

        The gain of attn.post_norm is attn_post_norm, and the bias attn_bpost_norm. `of` is the symbol of a
        value other than the residual stream, such as "q". `head_dim` is the width of the heads if each head
        is normed. If `by_head` is true, each head has its own gain.
        """
        half, _, rest = name.partition(".")
        gain, bias = self.name(f"{half}_{rest}"), self.name(f"{half}_b{rest}") if biased else None
        eps, function = self.config.norm_eps if eps is None else eps, "LayerNorm" if centred else "RMSNorm"
        kind = kinds.Norm(eps, gain, head_dim, centred, bias, by_head)
        expr = f"{of or 'x_n'} = {function}({of or 'x'}) * g" + "[head]" * by_head + " + b" * biased
        expr += " per head" * bool(head_dim) + f" [{words}]" * bool(words)
        parameter = f"g = {gain}" + f", b = {bias}" * biased
        return self.add(name, kind, source, expr=expr, parameter=parameter, overview=half == "final")

    def scaled(self, name: str, source: str, factor: float | None, of: str = "x") -> str:
        """Add the value times a factor. `of` is the symbol of the value, such as "attn_out". Without a
        factor, add nothing and return `source`."""
        if factor is None:
            return source
        return self.add(name, kinds.Scale(factor), source, expr=f"{of} = {of} * {factor:.6g}")

    def capped(self, name: str, source: str, limit: float | None, of: str) -> str:
        """Add limit * tanh(value / limit). Without a limit, add nothing and return `source`."""
        if limit is None:
            return source
        expr = f"{of} = {limit:.6g} * tanh({of} / {limit:.6g})"
        return self.add(name, kinds.Cap(limit), source, expr=expr)

    def rotations(
        self, q: str, k: str, rope: Rope, channels: int | None = None, adjacent: bool = False
    ) -> tuple[str, str]:
        """Add RoPE of q and k. Only the first `channels` of each head turn; by default, all channels. If
        `adjacent` is true, the two channels of a pair are neighbours."""
        dim = self.config.head_dim
        kind = kinds.Rotation(rope, dim, channels or dim, adjacent)
        words = f" [first {kind.channels} of {dim} channels]" * (kind.channels < dim)
        words += " [pairs of neighbours]" * adjacent
        q, k = (
            self.add(f"attn.{n}_rope", kind, source, expr=f"{n} = RoPE({n}, position){words}")
            for n, source in (("q", q), ("k", k))
        )
        return q, k

    def scaled_by_position(self, q: str, strength: float, period: int, shift: int = 0) -> str:
        """Add q times a factor that grows with the position, as in `PositionScale`."""
        position = f"(position + {shift})" if shift else "position"
        expr = f"q = q * (1 + {strength:g} * ln(1 + floor({position} / {period})))"
        return self.add("attn.q_scaled", kinds.PositionScale(strength, period, shift), q, expr=expr)

    def norms_of_queries_and_keys(
        self, q: str, k: str, head_dim: int | None = None, name: str = "norm", **options: Any
    ) -> tuple[str, str]:
        """Add norms of q and k: of each head if `head_dim` is given, or else of whole rows. The norm of q is
        named attn.q_norm, or attn.q_ and another name. `options` are those of `norm`."""
        options["head_dim"] = head_dim
        q, k = (self.norm(f"attn.{n}_{name}", own, of=n, **options) for n, own in (("q", q), ("k", k)))
        return q, k

    def embedding(self, factor: float | None = None, symbol: str = "x") -> str:
        """Add the embedding of the tokens, and the embedding times a factor."""
        tokens = kinds.Lookup("wte", "tokens", self.config.vocab_size, self.config.n_embd)
        expr = f"{symbol} = wte[tokens]"
        stream = self.add("embed.tok", tokens, expr=expr, parameter="wte", overview=True)
        return self.scaled("embed.scaled", stream, factor, symbol)

    def add_branch(self, half: str, stream: str, branch: str, of: str = "") -> str:
        """Add the sum of the residual stream and the output of attention or of the MLP (`half`), or of the
        output with the symbol `of`."""
        expr = f"x = x_res + {of or f'{half}_out'} [residual]"
        return self.add(f"{half}.residual", kinds.Add(), stream, branch, expr=expr, overview=half == "mlp")

    def gated_mlp(self, source: str) -> str:
        """Add the rows of an MLP with a gate: down(function(gate(x)) * up(x))."""
        inner, width = self.config.n_inner, self.config.n_embd
        gate = self.product("mlp.gate", "wgate", source, inner, "gate = x_n", "gate_proj")
        up = self.product("mlp.up", "wup", source, inner, "up = x_n", "up_proj")
        hidden = self.gated(gate, up)
        return self.product("mlp.down", "wdown", hidden, width, "mlp_out = hidden", "ffn_down")

    def gated(self, gate: str, up: str, prefix: str = "mlp.") -> str:
        """Add function(gate) * up. The names of the two rows begin with the prefix."""
        function = self.config.activation
        act = self.add(f"{prefix}act", kinds.Activation(function), gate, expr=f"act = {function}(gate)")
        return self.add(f"{prefix}hidden", kinds.Multiply(), act, up, expr="hidden = act * up")

    def plain_mlp(self, source: str) -> str:
        """Add the rows of an MLP without a gate: down(function(up(x)))."""
        act = self.config.activation
        up = self.product("mlp.up", "wup", source, self.config.n_inner, "up = x_n", "up_proj")
        learned = tuple(map(self.name, ("mlp_alpha_p", "mlp_alpha_n"))) if act == "xIELU" else ()
        parameter = f"a from {learned[0]}, b from {learned[1]}" if learned else ""
        kind = kinds.Activation(act, learned)
        hidden = self.add("mlp.act", kind, up, expr=f"act = {act}(up)", parameter=parameter)
        return self.product("mlp.down", "wdown", hidden, self.config.n_embd, "mlp_out = act", "ffn_down")

    def mixture(
        self, source: str, inner: int, normalised: bool, gated: Callable[[str, str], str] | None = None
    ) -> str:
        """Add a router, which chooses the experts with the largest logits, and their MLPs."""
        count = self.config.experts_used
        router = self.product("mlp.router", "wrouter", source, self.config.experts, "router = x_n")
        expr = f"chosen = the {f'{count} ' * (count > 1)}largest of router"
        chosen = self.add("mlp.chosen", kinds.Choice(count), router, expr=expr)
        expr = f"routing = softmax(router{'[chosen])' if normalised else ')[chosen]'}"
        routing = self.add("mlp.routing", kinds.Routing(normalised), router, chosen, expr=expr)
        return self.experts(source, inner, chosen, routing, gated)

    def experts(
        self, source: str, inner: int, chosen: str, routing: str = "",
        gated: Callable[[str, str], str] | None = None, prefix: str = "mlp.", of: str = "mlp_out",
    ) -> str:  # fmt: skip
        """Add the gated MLPs of the experts that the row `chosen` lists, and the sum of their outputs times
        their shares, the row `routing`, if it is given. `gated` adds the rows from gate and up to hidden. The
        names of the MLPs' rows begin with the prefix, and `of` is the symbol of the sum."""
        width, left = self.config.n_embd, "down = hidden"
        gate = self.product(f"{prefix}gate", "wgate", source, inner, "gate = x_n", chosen=chosen)
        up = self.product(f"{prefix}up", "wup", source, inner, "up = x_n", chosen=chosen)
        hidden = gated(gate, up) if gated else self.gated(gate, up, prefix)
        down = self.product(f"{prefix}down", "wdown", hidden, width, left, chosen=chosen, beside=True)
        expr = f"{of} = sum of routing * down"
        return self.add("mlp.mixture", kinds.Mixture(), down, routing, expr=expr) if routing else down

    def shared_mlp(self, source: str, inner: int) -> str:
        """Add the rows of a gated MLP that all positions use beside the experts."""
        gate = self.product("mlp.shared_gate", "wgate_shared", source, inner, "gate = x_n")
        up = self.product("mlp.shared_up", "wup_shared", source, inner, "up = x_n")
        hidden = self.gated(gate, up, "mlp.shared_")
        return self.product("mlp.shared_down", "wdown_shared", hidden, self.config.n_embd, "down = hidden")

    def product(
        self, name: str, matrix: str, source: str, width: int, left: str,
        words: str = "", parts: Sequence[str] = (), chosen: str = "", beside: bool = False,
    ) -> str:  # fmt: skip
        """Add x @ W.T, plus a bias if the config lists the bias (attn_bq for attn_wq). With the row `chosen`
        of chosen experts, add x @ W[e].T for each of them. `beside` is explained in `Experts`."""
        half, vector = name.partition(".")[0], matrix.replace("w", "b", 1)
        ending, index, inputs = ("_experts", "[chosen]", [source, chosen]) if chosen else ("", "", [source])
        biased = f"{half}_{vector}{ending}" in self.config.biases
        weight = self.name(f"{half}_{matrix}{ending}")
        bias = self.name(f"{half}_{vector}{ending}") if biased else None
        kind: Kind = kinds.Linear(weight, width, bias)
        if chosen:
            kind = kinds.Experts(weight, self.config.experts, width, bias, beside)
        expr = f"{left} @ {matrix}{index}" + f" + {vector}{index}" * biased + f" [{words}]" * bool(words)
        parameter = f"{matrix} = {weight}" + ".T" * (not chosen) + f", {vector} = {bias}" * biased
        return self.add(name, kind, *inputs, expr=expr, parameter=parameter, parts=parts)

    def queries_keys_values(self, source: str, words: str = "{}_proj") -> tuple[str, str, str]:
        """Add the rows of q, k and v, which may differ in the number of heads."""
        heads_of = (("q", self.config.n_head), ("k", self.config.n_kv_head), ("v", self.config.n_kv_head))
        q, k, v = (
            self.product(
                f"attn.{n}", f"w{n}", source, heads * self.config.head_dim, f"{n} = x_n", words.format(n)
            )
            for n, heads in heads_of
        )
        return q, k, v

    def attention(
        self, q: str, k: str, v: str, scale: float | None = None,
        window: int | None = None, cap: float | None = None, overview: bool = False,
        words: Sequence[str] = (" [attn]", "o_proj"), sinks: bool = False, of_keys: str = "",
        slopes: Sequence[float] = (),
    ) -> str:  # fmt: skip
        """Add the rows of attention, starting with the scores. `of_keys` describes keys of another layer.
        By default, `scale` is 1/sqrt(head_dim), a query sees all earlier positions, and the scores have no
        cap. With `sinks`, each head has a score without a key. `slopes` are the heads' slopes of ALiBi.
        """
        dim, queries, keys = self.config.head_dim, self.config.n_head, self.config.n_kv_head
        group = tuple(h * keys // queries for h in range(queries))  # the key-value head of each query head
        usual = 1 / math.sqrt(dim)
        scale = usual if scale is None else scale
        by = f" / sqrt({dim})" if scale == usual else f" * {scale:.6g}" * (scale != 1)
        kind, expr = kinds.Scores(dim, group, scale), f"scores = q @ k.T{by}{of_keys}"
        scores = self.add("attn.scores", kind, q, k, expr=expr)
        scores = self.capped("attn.capped", scores, cap, "scores")
        if slopes:
            by = "scores = scores + slope * (key - query) [ALiBi]"
            scores = self.add("attn.biased", kinds.Alibi(tuple(slopes)), scores, expr=by)
        words = (of_keys + words[0], words[1])
        return self.weighted_values(scores, v, dim, group, window, overview, words, sinks)

    def weighted_values(
        self, scores: str, v: str, dim: int, group: tuple[int, ...], window: int | None = None,
        overview: bool = False, words: Sequence[str] = (" [attn]", "o_proj"), sinks: bool = False,
    ) -> str:  # fmt: skip
        """Add the rows of attention after the scores. Head h uses values of width `dim`, of head group[h]."""
        mask = "mask" if window is None else f"mask + {window_words(window)}"
        expr = f"weights = softmax(scores + {mask}{', and sinks' * sinks})"
        kind = kinds.Softmax(window, self.name("attn_sinks") if sinks else None)
        parameter = f"sinks = {kind.sinks}" if sinks else ""
        self.add("attn.weights", kind, scores, expr=expr, parameter=parameter, overview=overview)
        expr = f"context = weights @ v{words[0]}"
        context = self.add("attn.context", kinds.Context(dim, group), "attn.weights", v, expr=expr)
        weight, width, heads = self.name("attn_wo"), self.config.n_embd, []
        for h in range(len(group)):
            first, end = h * dim, (h + 1) * dim
            head = self.add(
                f"attn.head{h}", kinds.Linear(weight, width, columns=(first, end)), context,
                expr=f"head_{h}_out @ wo[{h}]", parameter=f"{weight}[:, {first}:{end}]",
                overview=overview, extra=not overview,
            )  # fmt: skip
            heads.append(head)
        return self.product("attn.out", "wo", context, width, "attn_out = context", words[1], heads)

    def predictions(
        self, source: str, read: str = "x_n", factor: float | None = None,
        cap: float | None = None, biased: bool = False,
    ) -> Plan:  # fmt: skip
        """Add the rows from the logits to the loss. Return the plan of all rows. If `biased` is true, the
        output matrix has the bias lm_bhead.

        With a `factor` or a `cap`, the product with the output matrix is logits.raw. With both, logits.scaled
        is the product times the factor, before the cap.
        """
        bias = "lm_bhead" if biased else None
        head = kinds.Linear("wte" if self.config.tied else "lm_head", self.config.vocab_size, bias)
        expr, parameter = f"logits = {read} @ w_lm" + " + b_lm" * biased, f"w_lm = {head.weight}.T"
        parameter += f", b_lm = {bias}" * biased
        name = "logits" if factor is cap is None else "logits.raw"
        logits = self.add(name, head, source, expr=expr, parameter=parameter, overview=True)
        logits = self.scaled("logits" if cap is None else "logits.scaled", logits, factor, "logits")
        self.capped("logits", logits, cap, "logits")
        self.add("probs", kinds.Probabilities(), "logits", expr="probs = softmax(logits)")
        self.add("loss", kinds.Loss(), "logits", expr="loss = mean(-log probs[target])")
        return Plan(self.rows)
