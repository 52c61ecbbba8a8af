"""LayeredConfig: the config of a decoder whose layers are attention and an MLP. Layout: the differences of
its plan from the plan of a Llama. This module depends on no single architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Literal

from ..plans.blocks import Blocks
from ..plans.kinds import Add, Clip
from ..plans.plan import Plan
from ..text.frozen import frozen
from .config import DecoderConfig

Norms = Literal["before", "after", "both"]
Parallel = Literal["", "two norms", "one norm"]


@frozen(slots=False, eq=False)
class Layout:
    """The differences of a plan from the plan of a Llama.

    - `norms`: attention and the MLP have a norm before, or after, or both. If `centred` is true, these norms
      and the last norm are LayerNorms. If `biased` is true, they have biases.
    - `parallel`: attention and the MLP read the same residual stream, and their outputs are added together.
      Each has its own norm before, or both read one norm, named attn.norm.
    - `qk_norm`: the norms of q and k, if the config asks for them, are norms of heads with one gain for all
      heads, of whole rows, or of heads with a gain for each head. They have no bias. If `qk_norm` is "",
      `turned` adds the norms.
    - `adjacent`: RoPE turns pairs of neighbouring channels.
    - `turned` adds rows after RoPE of q and k in a layer. `slopes` are those of ALiBi, and `clip` is the
      largest absolute value of q, k and v.
    - `embedding` adds the rows up to the first layer, and `mlp` the rows of an MLP that reads a row.
      `attention` adds the rows of attention, from a row that is read to the output, if they differ.
    - `branch_factor` multiplies the outputs of attention and the MLP, and `logits_factor` the logits.
    """

    norms: Norms = "before"
    centred: bool = False
    biased: bool = False
    parallel: Parallel = ""
    qk_norm: Literal["heads", "rows", "each head", ""] = "heads"
    adjacent: bool = False
    turned: Callable[[Blocks, int, str, str], tuple[str, str]] | None = None
    slopes: tuple[float, ...] = ()
    clip: float | None = None
    embedding: Callable[[Blocks], str] = Blocks.embedding
    mlp: Callable[[Blocks, str], str] = Blocks.gated_mlp
    attention: Callable[[Blocks, str], str] | None = None
    sinks: bool = False  # True if attention has sinks
    score_scale: float | None = None  # None means the scale of the config
    scores_cap: float | None = None
    branch_factor: float | None = None
    logits_factor: float | None = None
    logits_cap: float | None = None
    head_biased: bool = False  # True if the output matrix has a bias


@frozen(slots=False)
class LayeredConfig(DecoderConfig):
    """A config whose plan has a layout, which may depend on options of a subclass."""

    @property
    def layout(self) -> Layout:
        return Layout()

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self)


def plan_of(config: LayeredConfig) -> Plan:
    """Return the plan of a decoder. The config determines the biases of matrices, and the RoPE, the window
    and the scale of the scores of each layer."""
    rows, layout = Blocks(config), config.layout
    norm = partial(rows.norm, centred=layout.centred, biased=layout.biased)
    before, after = layout.norms != "after", layout.norms != "before"

    def finished(half: str, out: str) -> str:
        of = f"{half}_out"
        out = norm(f"{half}.post_norm", out, of=of) if after else out
        return rows.scaled(f"{half}.scaled", out, layout.branch_factor, of)

    stream = layout.embedding(rows)
    for i in rows.layers():
        of_both = " and pre-FFN" * (layout.parallel == "one norm")
        source = norm("attn.norm", stream, f"pre-attn{of_both}") if before else stream
        attention = layout.attention or partial(_attention, config=config, layout=layout, layer=i)
        out = finished("attn", attention(rows, source))
        if not layout.parallel:
            stream = source = rows.add_branch("attn", stream, out)
        if before and layout.parallel != "one norm":
            source = norm("mlp.norm", stream, "pre-FFN")
        mlp = finished("mlp", layout.mlp(rows, source))
        if layout.parallel:
            mlp = rows.add("mlp.both", Add(), out, mlp, expr="both = attn_out + mlp_out")
        stream = rows.add_branch("mlp", stream, mlp, "both" * bool(layout.parallel))
    last = norm("final.norm", stream, "final")
    factor, cap = layout.logits_factor, layout.logits_cap
    return rows.predictions(last, factor=factor, cap=cap, biased=layout.head_biased)


def _attention(rows: Blocks, source: str, config: DecoderConfig, layout: Layout, layer: int) -> str:
    """Add the rows of attention that reads a row, from q, k and v to the output."""
    q, k, v = rows.queries_keys_values(source)
    if clip := layout.clip:
        expr, kind = f"{{0}} = min(max({{0}}, -{clip:g}), {clip:g})", Clip(-clip, clip)
        values = zip("qkv", (q, k, v), strict=True)
        q, k, v = (rows.add(f"attn.{n}_clipped", kind, own, expr=expr.format(n)) for n, own in values)
    if config.qk_norm and layout.qk_norm:
        dim, by_head = None if layout.qk_norm == "rows" else config.head_dim, layout.qk_norm == "each head"
        q, k = rows.norms_of_queries_and_keys(q, k, dim, centred=layout.centred, by_head=by_head)
    if rope := config.ropes[layer]:
        q, k = rows.rotations(q, k, rope, config.rotary_dim, layout.adjacent)
    if layout.turned:
        q, k = layout.turned(rows, layer, q, k)
    scale = config.score_scales[layer] if config.score_scales else layout.score_scale
    return rows.attention(
        q, k, v, scale, config.windows[layer], layout.scores_cap, sinks=layout.sinks, slopes=layout.slopes
    )
