"""The events of a trace as tables, stage by stage, and the backward pass; of a production model the layers, a
row each. Every figure comes from the Trace; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby

from ...architecture.plans.kinds import Activation, Norm
from ...arrays.stats import TensorStats
from ...hooks.event import EventSpec, TraceEvent
from ...tracing.result import LayerRow, ParameterRow, Trace
from ..numbers import figure, ratio, significant
from ..sections import Block, Column, Section, Table, Words, name_of, words
from .attention import attention_sections, kind_in
from .interventions import change_column, last_of_layers, layer_change_column

STAGES = {
    "embedding": "Stage 1: Embedding",
    "attention": "Stage 2: Multi-Head Self-Attention",
    "mlp": "Stage 3: MLP (FFN)",
    "head": "Stage 4: Language Model Head",
}


def stage_sections(trace: Trace, events: Sequence[TraceEvent], verbose: bool) -> Iterator[Section]:
    """A table per stage of the forward events, with a second one of full statistics if verbose."""
    layered = trace.model["config"]["n_layer"] > 1
    forward = [event for event in events if event.phase == "forward"]
    layers = dict[int | None, LayerRow]()
    if events is trace.events:
        layers = {row.layer: row for row in trace.layers}
    number = significant if trace.layers else partial(figure, digits=3)
    columns, statistics = _event_columns(trace, layers), _statistics_columns(trace.specs, number)
    shown_layer = None
    for (stage, layer), group in groupby(forward, key=lambda event: (event.stage, event.layer)):
        events = list(group)
        if layered and layer is not None and layer != shown_layer:
            yield Section((), f"Layer {layer}", style="bold magenta")
            shown_layer = layer
        yield Section([Table(columns, events, about=name_of)], STAGES[stage])
        if verbose:
            yield Section([Table(statistics, events, about=name_of)])
        yield from attention_sections(trace, events, whole=verbose)


def _event_columns(trace: Trace, layers: Mapping[int | None, LayerRow]) -> list[Column]:
    """Figures have two decimals; those of a model whose layers are rows of a table, which reach 2e4, four
    significant digits."""
    number = significant if trace.layers else figure
    changed = [] if trace.intervened is None else [change_column(trace.intervened)]
    return [
        Column("operation", lambda e: e.expr, wrap=True),
        Column("shape", lambda e: str(list(e.shape))),
        Column("L2", lambda e: number(_stats(e).l2_norm), right=True),
        Column("range", lambda e: _range(_stats(e), number), style=_alarm),
        *changed,
        Column("note", lambda e: _note(e, trace, layers), remark=True),
        Column("time", _microseconds, right=True),
    ]


def _statistics_columns(
    specs: Mapping[str, EventSpec], number: Callable[[float | None], str]
) -> list[Column]:
    return [
        Column("event", lambda e: e.name),
        Column("mean", lambda e: number(_stats(e).mean), right=True),
        Column("std", lambda e: number(_stats(e).std), right=True),
        Column("zeros", lambda e: f"{_stats(e).zero_count:,}", right=True),
        Column("NaN/Inf", lambda e: f"{_stats(e).nan_count}/{_stats(e).inf_count}", right=True),
        Column("parameter", lambda e: specs[e.name].parameter, wrap=True),
    ]


def _stats(event: TraceEvent) -> TensorStats:
    assert event.stats is not None  # a Trace's events carry statistics
    return event.stats


def _range(stats: TensorStats, number: Callable[[float | None], str] = figure) -> str:
    """The range of the finite values, or how many are not finite."""
    if stats.nonfinite_count:
        return f"{stats.nan_count} NaN, {stats.inf_count} Inf"
    return "–" if stats.min is None else f"[{number(stats.min)}, {number(stats.max)}]"


def _microseconds(event: TraceEvent) -> str:
    return "" if event.seconds is None else f"{event.seconds * 1e6:,.0f} µs"


def _alarm(event: TraceEvent) -> str:
    return "red" if _stats(event).nonfinite_count else ""


def _note(event: TraceEvent, trace: Trace, layers: Mapping[int | None, LayerRow]) -> str:
    """What is worth saying about a tensor, from its own statistics and its layer's."""
    stats, kind = _stats(event), kind_in(trace.specs, event.name)
    if isinstance(kind, Activation) and event.layer in layers:
        layer = layers[event.layer]
        return f"← {layer.near_zero:.0%} within ±{layer.near_zero_threshold:g}"
    if isinstance(kind, Activation) and kind.function == "ReLU":
        return f"← {stats.zero_count / stats.count:.0%} zeroed"
    if isinstance(kind, Norm) and not kind.head_dim and stats.l2_norm is not None:
        whole = math.sqrt(event.shape[0] * event.shape[1])
        return f"√({event.shape[0]}·{event.shape[1]})" if abs(stats.l2_norm / whole - 1) < 0.01 else ""
    if kind is not None and kind.causal:
        return "causal"
    return ""


def backward_sections(trace: Trace) -> list[Section]:
    """The gradients in the order of the backward pass, each beside the activation of its name."""
    activations = {e.name: _stats(e) for e in trace.events if e.phase == "forward"}
    gradients = [e for e in trace.events if e.phase == "backward" and e.name in activations]
    if not gradients:
        return []
    columns = [
        Column("tensor", lambda e: e.name),
        Column("L2", lambda e: figure(activations[e.name].l2_norm), right=True),
        Column("range", lambda e: _range(activations[e.name])),
        Column("grad L2", lambda e: figure(_stats(e).l2_norm, 4), right=True),
        Column("grad range", lambda e: _range(_stats(e), lambda v: figure(v, 4)), style=_alarm),
        Column("time", _microseconds, right=True),
    ]
    aside = "d loss / d tensor, beside the tensor"
    return [Section([Table(columns, gradients, about=name_of)], "Backward pass", aside), *_parameters(trace)]


def _parameters(trace: Trace) -> list[Section]:
    """Every parameter with its gradient, and its update where a step was taken."""
    if not trace.parameters:
        return []
    columns = [
        Column("parameter", lambda p: p.name),
        Column("shape", lambda p: str(list(p.shape))),
        Column("L2", lambda p: figure(p.l2_norm), right=True),
        Column("grad L2", lambda p: figure(p.gradient_l2, 4), right=True),
        Column("grad/weight", lambda p: ratio(p.gradient_ratio), right=True),
    ]
    if trace.step is not None:
        columns += [
            Column("update L2", lambda p: figure(p.update_l2, 4), right=True),
            Column("update/weight", lambda p: ratio(p.update_ratio), right=True),
        ]
    blocks: list[Block] = [Table(columns, trace.parameters, about=name_of), *_not_finite(trace.parameters)]
    if trace.step is not None:
        step = trace.step
        said = f"Adam step {step.number:,} (lr {step.lr:g}, {step.note}): "
        blocks.append(words(f"{said}loss {step.loss_before:.4f} → {step.loss_after:.4f}"))
    return [Section(blocks, "Parameters")]


def _not_finite(rows: Sequence[ParameterRow]) -> Iterator[Words]:
    for row in rows:
        for what, count in (
            (row.name, row.nonfinite),
            (f"gradient of {row.name}", row.gradient_nonfinite),
            (f"update of {row.name}", row.update_nonfinite),
        ):
            if count:
                said = "1 value is" if count == 1 else f"{count:,} values are"
                yield words(f"{what}: {said} not finite, and not in its L2", "bold red")


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
