"""A production model's layers as a table, a row each. Every figure comes from the Trace."""

from __future__ import annotations

from ..architecture.kinds import Activation
from ..tracing.result import Trace
from .interventions import last_of_layers, layer_change_column
from .numbers import ratio, significant
from .sections import Column, Section, Table, Words, words
from .trace_attention import kind_in

WIDE = 92  # characters from which on the table has all its columns


def layers_section(trace: Trace, brief: bool = False) -> Section:
    """The residual stream after each layer, and what the layer's branches wrote into it; if not `brief`, what
    the columns are."""
    layers, intervened = trace.layers, trace.intervened
    columns = [
        Column("layer", lambda r: str(r.layer), right=True),
        Column("L2", lambda r: significant(r.stream.l2_norm), right=True),
        Column("row L2", lambda r: significant(r.row_norm), right=True),
        Column("min", lambda r: significant(r.stream.min), right=True),
        Column("max", lambda r: significant(r.stream.max), right=True),
        Column("attn", lambda r: ratio(r.attention_share), right=True),
        Column("mlp", lambda r: ratio(r.mlp_share), right=True),
        Column("~0", lambda r: f"{r.near_zero:.1%}", right=True),
        Column("cosine", lambda r: f"{r.turn:.3f}", right=True, from_width=WIDE),
        Column("sink", lambda r: "–" if r.sink is None else f"{r.sink:.0%}", right=True, from_width=WIDE),
        Column("NaN/Inf", lambda r: f"{r.nan_count}/{r.inf_count}" if r.nan_count or r.inf_count else "0"),
    ]
    if intervened is not None:
        columns.append(layer_change_column(intervened, trace.specs.values()))
    last = last_of_layers(trace.specs.values())
    table = Table(columns, layers, about=lambda row: last[row.layer])
    legend = () if brief else _legend(trace)
    return Section([table, *legend], "Residual stream after each layer")


def _legend(trace: Trace) -> tuple[Words, Words]:
    """What the columns are."""
    layers = trace.layers
    threshold = layers[0].near_zero_threshold if layers else 0
    kinds = (kind_in(trace.specs, event.name) for event in trace.specs.values())
    activation = next(kind.function for kind in kinds if isinstance(kind, Activation))
    legend = (
        "row L2: median of the rows; attn, mlp: |write| / |stream|, median of the rows; "
        f"~0: {activation} outputs within ±{threshold:g}"
    )
    further = f"from {WIDE} columns on, cosine: of output and input; sink: attention on position 0"
    return words(legend, "dim"), words(further, "dim")
