"""The trace of a decoder as tables: header, a row per layer, predictions, lens, continuation, rules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from ..decoder.config import OF_SOME
from ..text.printable import on_one_line, shown_token, with_ids
from ..text.wording import counted
from ..tracing.anomalies import TOO_FEW
from ..tracing.findings import Anomaly
from ..tracing.result import Candidate, GeneratedToken, Prediction, Trace
from .effects import layer_change_column, print_before_and_after, print_interventions
from .layout import print_table
from .screen import (
    Screen,
    at_right,
    escape,
    figure,
    labelled,
    probability,
    ratio,
    shorten,
    significant,
)
from .sections import Column
from .table import print_checks, print_headline, print_insights, print_stages

MAX_LABELS = 40  # tokens whose text the header spells out
MAX_ROWS = 64  # positions whose predictions are listed before some are left out
WIDE = 92  # columns of a terminal from which on the overview has all its columns


def print_decoder_trace(
    trace: Trace, screen: Screen, *, verbose: bool = False, overview: bool = True
) -> None:
    """The whole trace. `overview` shows a row per layer in place of the layers' events."""
    print_header(trace, screen)
    print_headline(trace, screen)
    if trace.intervened is not None:
        print_interventions(trace.intervened, screen)
    whole = [event for event in trace.events if event.layer is None]
    if overview:
        print_stages(trace, [e for e in whole if e.stage == "embedding"], screen, verbose)
        print_layers(trace, screen)
        print_stages(trace, [e for e in whole if e.stage == "head"], screen, verbose)
    else:
        print_stages(trace, trace.events, screen, verbose)
    print_predictions(trace, screen)
    if trace.intervened is not None:
        print_before_and_after(trace.intervened, trace.predictions, trace.loss, screen)
    if trace.lens:
        print_lens(trace, screen)
    if trace.generation or trace.generation_end:
        print_generation(trace, screen, verbose)
    print_insights(trace, screen)
    print_anomalies(trace.anomalies, screen)
    print_checks(trace.checks, screen)


def print_header(trace: Trace, screen: Screen) -> None:
    """What was read, the model, how it is stored, and the chain of its layers."""
    inputs, model = trace.input, trace.model
    tokens = ", ".join(map(str, inputs.tokens[:MAX_LABELS]))
    more = len(inputs.tokens) - MAX_LABELS
    tokens += f", … {more:,} more" if more > 0 else ""
    said = f"{_quoted(inputs.text)} → " if inputs.text else ""
    screen.print(Text(screen.words(f"Input: {said}tokens [{tokens}]"), "bold"))
    read = with_ids(inputs.labels[:MAX_LABELS], inputs.tokens[:MAX_LABELS])
    count = len(inputs.tokens)
    pairs = [("reads", f"{counted(count, 'token')}: {read}{' …' * (more > 0)}")]
    pairs += model_facts(model)
    pairs += [("note", text) for text in inputs.notes]
    labelled(pairs, screen)
    count, chain = model["config"]["n_layer"], " → ".join(model["layer"])
    screen.say(f"\nLayer 0: {chain}" + (f" (same pattern × {count} layers)" if count > 1 else ""))


def model_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    """What a model's description says, as labelled lines."""
    config = model["config"]
    heads = f"{config['n_head']} heads of {config['head_dim']}"
    if config["n_kv_head"] != config["n_head"]:
        heads += f" on {config['n_kv_head']} key-value heads"
    layers = counted(config["n_layer"], "layer")
    tied = "head tied to the embedding" if config["tied"] else "head of its own"
    return [
        ("vocabulary", model["vocabulary"] or "none in the file: tokens are shown as numbers"),
        ("model", f"{model['origin']} ({model['format']}), {model['parameters']:,} parameters"),
        ("", f"{config['architecture']}: {layers}, width {config['n_embd']}, {heads},"),
        ("", f"FFN {config['n_inner']:,}, {tied}, context {config['context_length']:,}"),
        *([("RoPE", describe_rope(config))] if config["rope"] else [("positions", "learned")]),
        ("stored", describe_encodings(model["encodings"])),
        *(("taken", text) for text in model["assumed"]),
    ]


def _quoted(text: str) -> str:
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    return f'"{on_one_line(shown)}"'


def describe_rope(config: dict[str, Any]) -> str:
    rope = config["rope"]
    text = f"base {rope['theta']:,.10g}"
    if rope["kind"] != "default":
        text += f", {rope['kind']} × {rope['factor']:g}"
    text += ", with frequency factors of the file" * bool(rope["factors"])
    if config["adjacent_pairs"]:
        text += ", adjacent pairs in the file (shown in Hugging Face order)"
    return text


def describe_encodings(encodings: Sequence[dict[str, Any]]) -> str:
    total = sum(e["bytes"] for e in encodings)
    return ", ".join(
        f"{e['type']} {_share(e['bytes'] / total)} in {e['tensors']} tensor{'s' * (e['tensors'] != 1)}"
        for e in encodings
    )


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else f"{share:.2g}" if share < 0.0005 else f"{share:.1%}"


def print_layers(trace: Trace, screen: Screen) -> None:
    """The residual stream after each layer, and what the layer's branches wrote into it."""
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
        Column("NaN/Inf", lambda r: f"{r.nan_count}/{r.inf_count}" if r.nan_count or r.inf_count else "0"),
    ]
    if screen.width >= WIDE:
        columns[8:8] = [
            Column("cosine", lambda r: f"{r.turn:.3f}", right=True),
            Column("sink", lambda r: f"{r.sink:.0%}" if r.sink is not None else "–", right=True),
        ]
    if intervened is not None:
        columns.append(layer_change_column(intervened, trace.specs.values()))
    screen.say("\n[bold cyan]Residual stream after each layer[/bold cyan]")
    print_table(columns, layers, screen)
    threshold = layers[0].near_zero_threshold if layers else 0
    legend = (
        "row L2: median of the rows; attn, mlp: |write| / |stream|, median of the rows; "
        f"~0: {(OF_SOME | trace.model['config'])['activation']} outputs within ±{threshold:g}"
    )
    if screen.width >= WIDE:
        legend += "; cosine: of output and input; sink: attention on position 0"
    screen.say(f"[dim]{legend}[/dim]")


def print_predictions(trace: Trace, screen: Screen) -> None:
    """One row per position, then the candidates of the last."""
    rows = trace.predictions
    if not rows:
        return
    columns = [
        Column("pos", lambda p: str(p.position), right=True),
        Column("token", lambda p: shown_token(p.seen)),
        Column("target", lambda p: shown_token(p.target.label) if p.target else ""),
        Column("predicted", lambda p: shown_token(p.predicted.label) if p.predicted else "–"),
        Column("P", lambda p: _p(p.predicted), right=True),
        Column("P(target)", lambda p: _p(p.target), right=True),
        Column("", lambda p: f"{screen.bar(p.target.p, 10) if p.target else '':<10}", bar=True, style=_cyan),
        Column("rank", lambda p: f"{p.rank:,}" if p.rank else "", right=True),
        Column("loss", lambda p: "" if p.loss is None else figure(p.loss), right=True),
    ]
    screen.say("\n[bold cyan]Predictions[/bold cyan]")
    left = len(rows) - MAX_ROWS
    print_table(columns, rows if left <= 0 else [*rows[: MAX_ROWS // 2], *rows[-MAX_ROWS // 2 :]], screen)
    if left > 0:
        screen.say(f"[dim]{left:,} positions in the middle are left out; --json has them all[/dim]")
    if trace.loss is not None:
        vocabulary = trace.model["config"]["vocab_size"]
        screen.say(
            f"mean loss [bold]{figure(trace.loss, 4)}[/bold], "
            f"chance would give ln {vocabulary} = {trace.chance_loss:.4f}"
        )
    _print_candidates(rows[-1], screen)


def _print_candidates(prediction: Prediction, screen: Screen) -> None:
    if len(prediction.top) < 2:
        return
    title = (f"\nTop {len(prediction.top)} after position {prediction.position} ", "bold cyan")
    screen.print(Text.assemble(title, (screen.words(shown_token(prediction.seen)), "dim")))
    columns = [
        Column("token", lambda c: shown_token(c.label)),
        Column("id", lambda c: str(c.token), right=True),
        Column("P", lambda c: probability(c.p), right=True),
        Column("", lambda c: screen.bar(c.p, 20), bar=True, style=_cyan),
    ]
    print_table(columns, prediction.top, screen)


def _cyan(row: Any) -> str:
    return "cyan"


def _p(candidate: Candidate | None) -> str:
    return "" if candidate is None else probability(candidate.p)


def print_lens(trace: Trace, screen: Screen) -> None:
    """Rows are layers, columns positions; in as many blocks as the width asks for."""

    def shown(label: str) -> str:
        return screen.words(shorten(shown_token(label)))

    cells = [[shown(c.label) if c else "–" for c in row.predicted] for row in trace.lens]
    heads = [shown(trace.input.labels[p]) for p in trace.lens[0].positions]
    widths = [max(map(cell_len, column)) + 2 for column in zip(heads, *cells, strict=True)]
    screen.say(
        "\n[bold cyan]Logit lens[/bold cyan] [dim]the top token if the model ended after the layer[/dim]"
    )
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and sum(widths[start : stop + 1]) + 7 <= screen.width:
            stop += 1
        head = "  after".ljust(7) + _in_columns(heads[start:stop], widths[start:stop])
        screen.print(Text(head, "dim", no_wrap=True))
        for row, texts in zip(trace.lens, cells, strict=True):
            line = f"{row.layer:>7}" + _in_columns(texts[start:stop], widths[start:stop])
            screen.print(Text(screen.words(line), no_wrap=True))
        start = stop


def _in_columns(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(map(at_right, texts, widths))


def print_generation(trace: Trace, screen: Screen, verbose: bool) -> None:
    """The continuation, each token with P and its runners-up; if verbose, every step's events."""
    screen.say("\n[bold cyan]Continuation[/bold cyan]")
    columns = [
        Column("step", lambda g: str(g.step), right=True),
        Column("pos", lambda g: str(g.position), right=True),
        Column("token", lambda g: shown_token(g.token.label)),
        Column("P", lambda g: probability(g.token.p), right=True),
        Column("runners-up", _runners_up, wrap=True),
    ]
    print_table(columns, trace.generation, screen)
    if trace.generation_end:
        screen.say(f"[dim]ended: {escape(trace.generation_end)}[/dim]")
    if verbose:
        for token in trace.generation:
            if token.events:
                label = escape(shown_token(token.token.label))
                screen.say(f"\n[bold magenta]Step {token.step}: {label}[/bold magenta]")
                print_stages(trace, token.events, screen, verbose)


def _runners_up(token: GeneratedToken) -> str:
    return "  ".join(f"{shown_token(c.label)}={probability(c.p, 3)}" for c in token.runners_up)


def print_anomalies(anomalies: Sequence[Anomaly], screen: Screen) -> None:
    """Each rule that fired; what the others measured, and of what; all that was not evaluated, and why."""
    found = [a for a in anomalies if a.found]
    style = "red" if found else "green"
    in_part = any(a.found is None or TOO_FEW in a.unseen for a in anomalies)
    none = f"none{' in what was evaluated' * in_part}"
    screen.say(f"\n[bold {style}]Anomalies: {len(found) or none}[/bold {style}]")
    for rule in found:
        where = f"; {rule.detail}" if rule.detail else ""
        said = f"{rule.id} {_value(rule)} in {rule.seen}, allowed {rule.threshold:g}{_UNITS[rule.source]}"
        screen.say(f"[bold red]{escape(rule.title)}: {escape(said + where)}[/bold red]")
    for source, lead in (("invariant", "invariants"), ("other layers", "layers unlike the others")):
        quiet = [a for a in anomalies if a.found is False and a.source == source]
        held = "; ".join(
            f"{', '.join(f'{rule.id} {_value(rule)}' for rule in rules)} in {seen}, allowed {limit:g}"
            for (seen, limit), rules in groupby(quiet, key=lambda a: (a.seen, a.threshold))
        )
        if held:
            screen.say(f"[dim]{lead}, none beyond what is allowed{_UNITS[source]}: {held}[/dim]")
    for left_out, rules in groupby(anomalies, key=lambda a: a.detail if a.found is None else a.unseen):
        if left_out:
            screen.say(f"not evaluated: {', '.join(rule.id for rule in rules)} ({escape(left_out)})")


_UNITS = {"invariant": "", "other layers": " in spreads of the layers"}


def _value(rule: Anomaly) -> str:
    value = rule.value or 0.0
    return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
