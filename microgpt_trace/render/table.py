"""A Trace as tables for people. Every figure comes from the Trace; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from rich.text import Text

from ..architecture.kinds import Activation, Kind, Norm, Softmax
from ..architecture.plan import Operation
from ..arrays.stats import TensorStats
from ..hooks.event import EventSpec, TraceEvent
from ..text.printable import shown_token, with_ids
from ..text.wording import counted
from ..tracing.findings import Check
from ..tracing.result import LayerRow, Prediction, Trace
from .effects import change_column, print_before_and_after, print_interventions
from .layout import print_table
from .screen import Screen, escape, figure, labelled, ratio, significant
from .sections import Column

STAGES = {
    "embedding": "Stage 1: Embedding",
    "attention": "Stage 2: Multi-Head Self-Attention",
    "mlp": "Stage 3: MLP (FFN)",
    "head": "Stage 4: Language Model Head",
}


def print_trace(trace: Trace, screen: Screen, *, verbose: bool = False) -> None:
    """The whole trace: header, stages, predictions, what it reveals, self-check, gradients."""
    print_header(trace, screen)
    print_headline(trace, screen)
    if trace.intervened is not None:
        print_interventions(trace.intervened, screen)
    print_stages(trace, trace.events, screen, verbose)
    print_predictions(trace, screen)
    if trace.intervened is not None:
        print_before_and_after(trace.intervened, trace.predictions, trace.loss, screen)
    print_insights(trace, screen)
    print_backward(trace, screen)
    if trace.parameters:
        print_parameters(trace, screen)
    print_checks(trace.checks, screen)


def print_header(trace: Trace, screen: Screen) -> None:
    inputs, model = trace.input, trace.model
    tokens = ", ".join(map(str, inputs.tokens))
    screen.say(f'[bold]Input: "{escape(inputs.text)}" → tokens \\[{tokens}][/bold]')
    read = with_ids(inputs.labels, inputs.tokens)
    config = model["config"]
    layers = counted(config["n_layer"], "layer")
    dimensions = (
        f"{layers}, {config['n_head']} heads, width {config['n_embd']}, MLP {config['n_inner']}, "
        f"block {config['block_size']}"
    )
    pairs = [
        ("reads", f"{read}, to predict {' '.join(shown_token(t.label) for t in trace.targets)}"),
        ("vocabulary", model["vocabulary"]["convention"]),
        ("model", f"{model['origin']}, {model['parameters']:,} parameters ({model['dtype']})"),
        ("", dimensions),
    ]
    if model["trained_steps"]:
        pairs.insert(3, ("", f"trained for {counted(model['trained_steps'], 'step')}"))
    pairs += [("assumed", text) for text in model["assumed"]]
    pairs += [("note", text) for text in inputs.notes]
    labelled(pairs, screen)


_SPREADS = {
    "microgpt": "All heads are one product, with zeros between them: from attn.scores on, a NaN of one head "
    "shows in the others too.",
    "decoder": "A weight of zero times NaN is NaN: from attn.context on, a NaN in v shows at earlier "
    "positions too.",
}


def print_headline(trace: Trace, screen: Screen) -> None:
    """The first value that is not finite, before anything else."""
    for check in trace.checks:
        if check.id == "finite" and check.holds is False:
            screen.say(f"\n[bold red]Not finite: {escape(check.detail)}[/bold red]")
            screen.say(f"[dim]The first such value is exact. {_SPREADS[trace.model['family']]}[/dim]")


def print_stages(trace: Trace, events: Sequence[TraceEvent], screen: Screen, verbose: bool) -> None:
    """A table per stage of the forward events, with a second one of full statistics if verbose."""
    layered = trace.model["config"]["n_layer"] > 1
    forward = [event for event in events if event.phase == "forward"]
    layers = dict[int | None, LayerRow]()
    if events is trace.events:
        layers = {row.layer: row for row in trace.layers}
    number = partial(figure, digits=3) if trace.model["family"] == "microgpt" else significant
    overview, statistics = _overview_columns(trace, layers), _statistics_columns(trace.specs, number)
    if any(event.seconds is not None for event in forward):
        timed = [Column("time", _microseconds, right=True)]
    else:
        timed = []
    shown_layer = None
    for (stage, layer), group in groupby(forward, key=lambda event: (event.stage, event.layer)):
        events = list(group)
        if layered and layer is not None and layer != shown_layer:
            screen.say(f"\n[bold magenta]Layer {layer}[/bold magenta]")
            shown_layer = layer
        screen.say(f"\n[bold cyan]{STAGES[stage]}[/bold cyan]")
        said = overview if any(overview[-1].cell(event) for event in events) else overview[:-1]
        print_table([*said, *timed], events, screen)
        if verbose:
            screen.print()
            print_table(statistics, events, screen)
        weights = next((e for e in events if isinstance(_kind(trace.specs, e), Softmax)), None)
        own = trace.model["family"] == "microgpt"  # of a decoder they would be hundreds
        if verbose and own and weights and ("forward", weights.name) in trace.arrays:
            from .arrays import attention_matrices  # what only this needs costs 6 ms

            screen.say("\n[dim]Attention weights in percent, row = query, column = key[/dim]")
            attention_matrices(trace[weights.name], trace.input.labels, screen)


def _overview_columns(trace: Trace, layers: Mapping[int | None, LayerRow]) -> list[Column]:
    """microGPT's figures have two decimals; a decoder's, which reach 2e4, four significant digits."""
    number = figure if trace.model["family"] == "microgpt" else significant
    changed = [] if trace.intervened is None else [change_column(trace.intervened)]
    return [
        Column("operation", lambda e: e.expr, wrap=True),
        Column("shape", lambda e: str(list(e.shape))),
        Column("L2", lambda e: number(_stats(e).l2_norm), right=True),
        Column("range", lambda e: _range(_stats(e), number), style=_alarm),
        *changed,
        Column("note", lambda e: _note(e, trace, layers), remark=True),
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
    return "–" if event.seconds is None else f"{event.seconds * 1e6:,.0f} µs"


def _alarm(event: TraceEvent) -> str:
    return "red" if _stats(event).nonfinite_count else ""


def _kind(specs: Mapping[str, EventSpec], event: TraceEvent) -> Kind | None:
    spec = specs[event.name]
    return spec.kind if isinstance(spec, Operation) else None


def _note(event: TraceEvent, trace: Trace, layers: Mapping[int | None, LayerRow]) -> str:
    """What is worth saying about a tensor, from its own statistics and its layer's."""
    stats, kind = _stats(event), _kind(trace.specs, event)
    if isinstance(kind, Activation) and event.layer in layers:
        layer = layers[event.layer]
        return f"← {layer.near_zero:.0%} within ±{layer.near_zero_threshold:g}"
    if isinstance(kind, Activation) and trace.model["family"] == "microgpt":
        return f"← {stats.zero_count / stats.count:.0%} zeroed"
    if isinstance(kind, Norm) and not kind.head_dim and stats.l2_norm is not None:
        whole = math.sqrt(event.shape[0] * event.shape[1])
        return f"√({event.shape[0]}·{event.shape[1]})" if abs(stats.l2_norm / whole - 1) < 0.01 else ""
    if kind is not None and kind.causal:
        return "causal"
    return ""


def print_predictions(trace: Trace, screen: Screen) -> None:
    """One row per position, then the mean and what chance would give."""
    depth = len(trace.predictions[0].top) if trace.predictions else 1
    columns = [
        Column("pos", lambda p: str(p.position), right=True),
        Column("seen", lambda p: shown_token(p.seen) if p.seen else "BOS"),
        Column("target", lambda p: shown_token(p.target.label)),
        Column("predicted", lambda p: shown_token(p.predicted.label) if p.predicted else "–"),
        Column("P(target)", lambda p: f"{p.target.p:.3f}", right=True),
        Column("", lambda p: f"{screen.bar(p.target.p, 10):<10}", bar=True, style=lambda _: "cyan"),
        Column("rank", lambda p: str(p.rank or "–"), right=True),
        Column("loss", lambda p: figure(p.loss), right=True),
    ]
    screen.say("\n[bold cyan]Predictions[/bold cyan]")
    print_table(columns, trace.predictions, screen)
    if depth > 1:
        screen.say(f"\n[bold cyan]Top {depth}[/bold cyan]")
        top = [*columns[:2], Column("candidates", _candidates, wrap=True)]
        print_table(top, trace.predictions, screen)
    vocabulary = trace.model["config"]["vocab_size"]
    screen.say(
        f"mean loss [bold]{figure(trace.loss, 4)}[/bold], "
        f"chance would give ln {vocabulary} = {trace.chance_loss:.4f}"
    )


def _candidates(prediction: Prediction) -> str:
    return "  ".join(f"{shown_token(c.label)}={c.p:.3f}" for c in prediction.top)


def print_insights(trace: Trace, screen: Screen) -> None:
    from rich.padding import Padding

    screen.say("\n[bold cyan]What the trace reveals[/bold cyan]")
    for insight in trace.insights:
        screen.say(f"[bold]{insight.title}[/bold]")
        screen.print(Padding(Text(screen.words(insight.text)), (0, 0, 0, 2)))


def print_backward(trace: Trace, screen: Screen) -> None:
    """The gradients in the order of the backward pass, each beside the activation of its name."""
    activations = {e.name: _stats(e) for e in trace.events if e.phase == "forward"}
    gradients = [e for e in trace.events if e.phase == "backward" and e.name in activations]
    if not gradients:
        return
    columns = [
        Column("tensor", lambda e: e.name),
        Column("L2", lambda e: figure(activations[e.name].l2_norm), right=True),
        Column("range", lambda e: _range(activations[e.name])),
        Column("grad L2", lambda e: figure(_stats(e).l2_norm, 4), right=True),
        Column("grad range", lambda e: _range(_stats(e), lambda v: figure(v, 4)), style=_alarm),
    ]
    if any(event.seconds is not None for event in gradients):
        columns.append(Column("time", _microseconds, right=True))
    screen.say("\n[bold cyan]Backward pass[/bold cyan] [dim]d loss / d tensor, beside the tensor[/dim]")
    print_table(columns, gradients, screen)


def print_parameters(trace: Trace, screen: Screen) -> None:
    """Every parameter with its gradient, and its update where a step was taken."""
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
    screen.say("\n[bold cyan]Parameters[/bold cyan]")
    print_table(columns, trace.parameters, screen)
    for row in trace.parameters:
        for what, count in (
            (row.name, row.nonfinite),
            (f"gradient of {row.name}", row.gradient_nonfinite),
            (f"update of {row.name}", row.update_nonfinite),
        ):
            if count:
                said = "1 value is" if count == 1 else f"{count:,} values are"
                screen.say(f"[bold red]{what}: {said} not finite, and not in its L2[/bold red]")
    if trace.step is not None:
        step = trace.step
        screen.say(
            f"Adam step {step.number:,} (lr {step.lr:g}, {step.note}): "
            f"loss {step.loss_before:.4f} → {step.loss_after:.4f}"
        )


def print_checks(checks: Sequence[Check], screen: Screen) -> None:
    """One line while all is well; a violation gets a red line of its own."""
    held = [check for check in checks if check.holds]
    failed = [check for check in checks if check.holds is False]
    skipped = [check for check in checks if check.holds is None]
    style = "red" if failed else "green"
    made = len(held) + len(failed)
    rest = f", {len(skipped)} not checked" if skipped else ""
    screen.say(f"\n[bold {style}]Self-check: {len(held)} of {made} hold{rest}[/bold {style}]")
    if held:
        screen.say(f"[dim]{'; '.join(_measured(check) for check in held)}[/dim]")
    for check in held:
        if check.id == "finite" and check.detail:
            screen.say(f"note: {escape(check.detail)}")
    for check in failed:
        screen.say(f"[bold red]violated: {escape(_measured(check))}: {escape(check.detail)}[/bold red]")
    for check in skipped:
        screen.say(f"not checked: {check.claim} ({escape(check.detail)})")


def _measured(check: Check) -> str:
    if check.deviation is None:
        return check.claim
    limit = f" ≤ {check.tolerance:.0e}" if check.holds and check.tolerance else ""
    sign = "" if check.holds else f", allowed {check.tolerance:.0e}"
    return f"{check.claim} (off by {check.deviation:.1e}{limit}{sign})" if check.deviation else check.claim
