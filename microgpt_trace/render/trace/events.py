"""Tables of a trace: the events of each stage with attention matrices, the backward pass, and the layers and
experts of a production model. All numbers in these tables are fields of the Trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from ...arrays.stats import TensorStats
from ...hooks.event import EventSpec, TraceEvent
from ...measuring.expert_choices import ExpertChoices
from ...plans.kinds import Activation, Kind, Norm, Softmax
from ...plans.plan import Operation
from ...text.wording import counted
from ...tracing.findings import TargetGradients
from ...tracing.result import LayerRow, ParameterRow, Trace
from ..characters import token_label
from ..numbers import figure, four_decimals, ratio, significant
from ..sections import AttentionMatrices, Column, Section, Table, Words, fields, name_of, table_section, words
from .intervention_sections import change_column, layer_change_column

STAGES = {
    "embedding": "Stage 1: Embedding",
    "attention": "Stage 2: Multi-Head Self-Attention",
    "mlp": "Stage 3: MLP (FFN)",
    "head": "Stage 4: Language Model Head",
}
MOST_TOKENS = 64  # largest number of tokens for which attention matrices are shown


def stage_sections(trace: Trace, events: Sequence[TraceEvent], verbose: bool) -> Iterator[Section]:
    """Return a table of the forward events of each stage. `verbose` adds a table with more statistics."""
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
        yield from attention_sections(trace, events, verbose)


def _event_columns(trace: Trace, layers: Mapping[int | None, LayerRow]) -> list[Column]:
    """Return the columns of a table of events. The numbers of a microGPT have two decimals. The numbers of a
    production model can reach 2e4, so they have four significant digits."""
    number = significant if trace.layers else figure
    changed = [] if trace.intervened is None else [change_column(trace.intervened)]
    return [
        Column("operation", lambda e: e.expr, wrap=True),
        Column("shape", lambda e: str(list(e.shape))),
        *fields(number, {"L2": "stats.l2_norm"}),
        Column("range", lambda e: _range(e.stats, number), style=_alarm),
        *changed,
        Column("note", lambda e: _note(e, trace, layers), remark=True),
        Column("time", _microseconds, right=True),
    ]


def _statistics_columns(
    specs: Mapping[str, EventSpec], number: Callable[[float | None], str]
) -> list[Column]:
    return [
        Column("event", name_of),
        *fields(number, {"mean": "stats.mean", "std": "stats.std"}),
        *fields("{:,}".format, {"zeros": "stats.zero_count"}),
        Column("NaN/Inf", lambda e: f"{e.stats.nan_count}/{e.stats.inf_count}", right=True),
        Column("parameter", lambda e: specs[e.name].parameter, wrap=True),
    ]


def _range(stats: TensorStats, number: Callable[[float | None], str] = figure) -> str:
    """Return the range of the values, or the counts of NaN and Inf if some values are not finite."""
    if stats.nonfinite_count:
        return f"{stats.nan_count} NaN, {stats.inf_count} Inf"
    return "–" if stats.min is None else f"[{number(stats.min)}, {number(stats.max)}]"


def _microseconds(event: TraceEvent) -> str:
    return "" if event.seconds is None else f"{event.seconds * 1e6:,.0f} µs"


def _alarm(event: Any) -> str:
    return "red" if event.stats.nonfinite_count else ""


def _note(event: Any, trace: Trace, layers: Mapping[int | None, LayerRow]) -> str:
    """Return a remark about an event, based on the statistics of the event and of its layer."""
    stats, kind = event.stats, kind_in(trace.specs, event.name)
    if isinstance(kind, Activation) and event.layer in layers:
        layer = layers[event.layer]
        return f"← {layer.near_zero:.0%} within ±{layer.near_zero_threshold:g}"
    if isinstance(kind, Activation) and kind.function == "ReLU":
        return f"← {stats.zero_count / stats.count:.0%} zeroed"
    if isinstance(kind, Norm) and not kind.head_dim and stats.l2_norm is not None:
        normalized = math.sqrt(event.shape[0] * event.shape[1])
        return f"√({event.shape[0]}·{event.shape[1]})" if abs(stats.l2_norm / normalized - 1) < 0.01 else ""
    if event.name in trace.specs and trace.specs[event.name].causal:
        return "causal"
    return ""


def attention_sections(trace: Trace, events: Sequence[TraceEvent], verbose: bool) -> Iterator[Section]:
    """Yield a section for each event with attention weights that the trace stored. All sections together fit
    on one screen. If `verbose` is set, events of the overview show all heads instead."""
    weights = _weights(trace, events)
    for event in weights:
        length = event.shape[-1]
        if length > MOST_TOKENS:
            cause = f"The attention weights of {length:,} tokens do not fit here"
            yield Section([words(f"{cause}; --show '{event.name}[0]' prints one head.", "dim")])
        elif ("forward", event.name) in trace.arrays:
            all_heads = verbose and trace.specs[event.name].overview
            sharing = None if all_heads else len(_weights(trace, trace.events))
            yield Section([_matrices(trace, event.name, sharing)])


def _weights(trace: Trace, events: Sequence[TraceEvent]) -> list[TraceEvent]:
    """Return the events with attention weights of the whole text, without the events of generated tokens."""
    length = len(trace.input.tokens)
    return [
        event
        for event in events
        if event.phase == "forward"
        and isinstance(kind_in(trace.specs, event.name), Softmax)
        and event.shape[1:] == (length, length)
    ]


def kind_in(specs: Mapping[str, EventSpec], name: str) -> Kind | None:
    """Return the kind of an event, or None if the event is not a row of the plan."""
    spec = specs[name]
    return spec.kind if isinstance(spec, Operation) else None


def _matrices(trace: Trace, name: str, sharing: int | None) -> AttentionMatrices:
    weights = trace[name]
    largest = weights[:, :, 1:].max(axis=(1, 2), initial=0.0)  # of each head; heads with NaN come first
    order = np.argsort(-np.where(np.isnan(largest), np.inf, largest), kind="stable").tolist()
    more = f"the heads with the largest weight after position 0; --show '{name}[{order[-1]}]' prints another "
    more += "head" + ", --verbose prints all" * trace.specs[name].overview
    in_figures = f"; --show '{name}[{order[0]}]' prints a whole head"
    in_file = f"; --layer {name} --save FILE saves all weights"
    return AttentionMatrices(weights, trace.input.labels, order, more, sharing, in_figures, in_file)


def backward_sections(trace: Trace) -> list[Section]:
    """Return a table of activations and gradients in order of the backward pass, and one of parameters."""
    activations: dict[str, Any] = {e.name: e.stats for e in trace.events if e.phase == "forward"}
    gradients = [e for e in trace.events if e.phase == "backward" and e.name in activations]
    scalar, more = trace.scalar.name if trace.scalar else "loss", trace.more_gradients
    columns = [
        Column("tensor", name_of),
        Column("L2", lambda e: figure(activations[e.name].l2_norm), right=True),
        Column("range", lambda e: _range(activations[e.name])),
        *fields(four_decimals, {"grad L2": "stats.l2_norm"}),
        Column("grad range", lambda e: _range(e.stats, four_decimals), style=_alarm),
        Column("time", _microseconds, right=True),
    ]
    aside = f"each tensor and its gradient, d {scalar} / d tensor"
    if more:
        columns = [*columns[:2], *fields(four_decimals, {f"d {scalar}": "stats.l2_norm"})]
        columns += (_norms_column(own) for own in more)
        aside = "L2 of each tensor, and of the gradient of each logit with respect to the tensor"
    backward = table_section("Backward pass", columns, gradients, about=name_of, aside=aside)
    return [*backward, *_parameters(trace)] if backward else []


def _norms_column(own: TargetGradients) -> Column:
    """Return a column with the L2 norm of the gradients of one scalar."""
    norms = {event.name: event.stats.l2_norm for event in own.events if event.stats is not None}
    return Column(f"d {own.scalar.name}", lambda e: four_decimals(norms[e.name]), right=True)


def _parameters(trace: Trace) -> list[Section]:
    """Return a table of the parameters with their gradients, and with their updates if a step was taken."""
    columns = [
        Column("parameter", name_of),
        Column("shape", lambda p: str(list(p.shape))),
        *fields(figure, {"L2": "l2_norm"}),
        *fields(four_decimals, {"grad L2": "gradient_l2"}),
        *fields(ratio, {"grad/weight": "gradient_ratio"}),
    ]
    more = [*_not_finite(trace.parameters)]
    if step := trace.step:
        columns += fields(four_decimals, {"update L2": "update_l2"})
        columns += fields(ratio, {"update/weight": "update_ratio"})
        adam = f"Adam step {step.number:,} (lr {step.lr:g}, {step.note})"
        more.append(words(f"{adam}: loss {step.loss_before:.4f} → {step.loss_after:.4f}"))
    return table_section("Parameters", columns, trace.parameters, about=name_of, more=more)


def _not_finite(rows: Sequence[ParameterRow]) -> Iterator[Words]:
    for row in rows:
        counts = row.nonfinite, row.gradient_nonfinite, row.update_nonfinite
        for prefix, count in zip(("", "gradient of ", "update of "), counts, strict=True):
            if count:
                values = "1 value is" if count == 1 else f"{count:,} values are"
                yield words(f"{prefix}{row.name}: {values} not finite and not counted in L2", "bold red")


WIDE = 92  # smallest terminal width at which the table of layers has all columns


def layers_section(trace: Trace, brief: bool) -> Section:
    """Return a table of the residual stream after each layer, and of the relative outputs of attention and
    MLP. Unless `brief`, a legend explains the columns."""
    columns = [
        *fields(str, {"layer": "layer"}),
        *fields(significant, {"L2": "stream.l2_norm", "row L2": "row_norm"}),
        *fields(significant, {"min": "stream.min", "max": "stream.max"}),
        *fields(ratio, {"attn": "attention_share", "mlp": "mlp_share"}),
        *fields("{:.1%}".format, {"~0": "near_zero"}),
        *fields("{:.3f}".format, {"cosine": "turn"}, from_width=WIDE),
        Column("sink", lambda r: "–" if r.sink is None else f"{r.sink:.0%}", right=True, from_width=WIDE),
        Column("NaN/Inf", lambda r: f"{r.nan_count}/{r.inf_count}" if r.nan_count or r.inf_count else "0"),
    ]
    last = {spec.layer: spec.name for spec in trace.specs.values() if isinstance(spec, Operation)}
    if trace.intervened is not None:
        columns.append(layer_change_column(trace.intervened, last))
    table = Table(columns, trace.layers, about=lambda row: last[row.layer])
    return Section([table, *(() if brief else _legend(trace))], "Residual stream after each layer")


def _legend(trace: Trace) -> Iterator[Words]:
    threshold = trace.layers[0].near_zero_threshold
    kinds = (kind_in(trace.specs, event.name) for event in trace.specs.values())
    activation = next(kind.function for kind in kinds if isinstance(kind, Activation))
    yield words(
        "row L2: median L2 of the rows; attn, mlp: median of |write| / |residual stream| over the rows; "
        f"~0: share of {activation} outputs within ±{threshold:g}",
        "dim",
    )
    wide = "cosine: between the layer's output and input; sink: attention on position 0"
    yield words(f"{wide} (cosine and sink need a terminal of {WIDE} columns)", "dim")


MOST_LOADED = 2  # number of experts to name
EXPERTS = (
    "used: chosen by a position; entropy: of the experts' shares of all choices / of equal shares, in bits",
    "margin: the logit or corrected score of the last chosen expert minus that of the best other expert "
    "(median and smallest). If a margin is small, rounding can change the choice, and another engine may use "
    "the other expert. bf16: positions whose margin is 0 in bfloat16, which rounds a number by up to 0.4 %",
)


def experts_sections(trace: Trace, brief: bool) -> list[Section]:
    """Return a table of the experts that the positions choose in each layer, or [] without experts. Unless
    `brief`, a legend explains the columns."""

    def most_loaded(own: ExpertChoices) -> str:
        order = sorted(range(len(own.load)), key=lambda expert: -own.load[expert])[:MOST_LOADED]
        return ", ".join(f"{expert} ×{own.load[expert]:,}" for expert in order if own.load[expert])

    def smallest_margin(own: ExpertChoices) -> str:
        if (at := own.closest) is None:
            return "–"
        token = token_label(trace.input.labels[at.position])
        return f"{ratio(at.margin)} @{at.position} {token}: {at.chosen} over {at.other}"

    columns = [
        *fields(str, {"layer": "layer"}),
        Column("used", lambda own: f"{own.used}/{len(own.load)}", right=True),
        Column("most loaded", most_loaded, wrap=True),
        Column("entropy", lambda own: f"{own.load_entropy:.2f}/{own.most_entropy:.2f}", right=True),
        *fields(ratio, {"median": "median_margin"}),
        Column("smallest margin", smallest_margin, wrap=True),
        Column("bf16", lambda own: "–" if own.tied_in_bf16 is None else str(own.tied_in_bf16), right=True),
    ]
    sizes = dict.fromkeys((own.positions, own.count) for own in trace.experts)
    aside = " or ".join(f"{counted(n, 'position')}, {counted(k, 'expert')} for each" for n, k in sizes)
    legend = () if brief else EXPERTS
    return table_section("Experts", columns, trace.experts, *legend, about=attrgetter("event"), aside=aside)
