"""A Trace of any model as sections: its input, events, predictions, insights and self-check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from ...grouping import grouped
from ...plans.rope import STILL
from ...text.printable import on_one_line, shown_token, with_ids
from ...text.wording import counted, ranges
from ...tracing.findings import TOO_FEW, Anomaly, Check, Insight
from ...tracing.result import Trace
from ..numbers import exponent
from ..sections import Labelled, Section, Words, facts, indented, words
from .events import backward_sections, experts_sections, layers_section, stage_sections
from .intervention_sections import before_and_after_section, interventions_section
from .prediction_sections import generation_sections, lens_sections, prediction_sections

MAX_LABELS = 40  # tokens of a production model's input that the header shows
MAX_TEXT = 200  # characters of the input text that the header shows


def header_sections(trace: Trace, brief: bool = False) -> list[Section]:
    """Return the input, the notes and the assumptions. Unless `brief`, also return the model and, for a
    production model, the operations of a layer."""
    inputs, model = trace.input, trace.model
    of_names = model["family"] == "microgpt"
    most = len(inputs.tokens) if of_names else MAX_LABELS
    more = len(inputs.tokens) - most
    tokens = ", ".join(map(str, inputs.tokens[:most])) + f", … {more:,} more" * (more > 0)
    start = inputs.text[:MAX_TEXT] + "…" * (len(inputs.text) > MAX_TEXT)
    text = f'"{on_one_line(start)}" → ' if start or of_names else ""
    notes = [("note", note) for note in inputs.notes]
    title = words(f"Input: {text}tokens [{tokens}]", "bold")
    if brief:
        pairs = [*(("assumed", assumption) for assumption in model["assumed"]), *notes]
        return [Section([title, Labelled(pairs)] if pairs else [title])]
    read = with_ids(inputs.labels[:most], inputs.tokens[:most])
    if of_names:
        follows = " ".join(shown_token(target.label) for target in trace.targets)
        pairs = [("reads", f"{read}, to predict {follows}"), *_microgpt_facts(model)]
    else:
        reads = f"{counted(len(inputs.tokens), 'token')}: {read}{' …' * (more > 0)}"
        pairs = [("reads", reads), *model_facts(model)]
    head = Section([title, Labelled([*pairs, *notes])])
    if of_names:
        return [head]
    count, chain = model["config"]["n_layer"], " → ".join(model["layer"])
    same = f" (same pattern × {count} layers)" * (count > 1)
    same = " (other layers have other steps)" if "layers_differ" in model else same
    return [head, Section([words(f"Layer 0: {chain}{same}")])]


def _microgpt_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    config = model["config"]
    layers = counted(config["n_layer"], "layer")
    size = f"{model['origin']}, {model['parameters']:,} parameters ({model['dtype']})"
    dimensions = (
        f"{layers}, {config['n_head']} heads, width {config['n_embd']}, MLP {config['n_inner']}, "
        f"block {config['block_size']}"
    )
    return [
        ("vocabulary", model["vocabulary"]["convention"]),
        *facts("model", [size, *trained(model), dimensions]),
        *(("assumed", text) for text in model["assumed"]),
    ]


def trained(model: dict[str, Any]) -> list[str]:
    """Return ["trained for N steps"], or [] if N is unknown or if the model's origin is this text."""
    steps = model.get("trained_steps")
    training = f"trained for {counted(steps, 'step')}" if steps else model["origin"]
    return [training] if training != model["origin"] else []


def model_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the description of a production model as labelled lines."""
    config = model["config"]
    sizes, heads, mlp = model.get("sizes", ()), f"{config['n_head']} heads", f"{describe_mlp(config)}, "
    mlp = "" if any(own["inner"] for own in sizes) else mlp
    if not sizes:
        heads += f" of {config['head_dim']}"
        if config["n_kv_head"] != config["n_head"]:
            heads += f" on {counted(config['n_kv_head'], 'key-value head')}"
    layers = counted(config["n_layer"], "layer")
    tied = "head tied to the embedding" if config["tied"] else "separate head"
    return [
        ("vocabulary", model["vocabulary"] or "the file has no vocabulary, so tokens are shown as numbers"),
        ("model", f"{model['origin']} ({model['format']}), {model['parameters']:,} parameters"),
        ("", f"{config['architecture']}: {layers}, width {config['n_embd']}, {heads},"),
        ("", f"{mlp}{tied}, context {config['context_length']:,}"),
        *(("", _sizes_of_layers(own)) for own in sizes),
        *([("RoPE", describe_rope(model))] if config["rope"] else [("positions", "learned")]),
        ("stored", describe_encodings(model["encodings"])),
        *(("assumed", text) for text in model["assumed"]),
    ]


def _sizes_of_layers(own: dict[str, Any]) -> str:
    """Describe sizes of some layers: "layers 5, 11: heads of 512 on 1 key-value head"."""
    text = f"{_layers(own['layers'])}: heads of {own['head_width']} on "
    text += counted(own["key_value_heads"], "key-value head")
    text += f", FFN {own['inner']:,}" if own["inner"] else ""
    return text + (f", keys and values of layer {own['keys_of']}" if own["keys_of"] is not None else "")


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {ranges(layers)}"


def describe_mlp(config: dict[str, Any]) -> str:
    """Describe the inner width of the MLPs, and the experts if there are any."""
    width = f"FFN {config['n_inner']:,}"
    dense = config.get("dense_layers", ())
    if not config.get("experts") or len(dense) == config["n_layer"]:
        return width
    inner = config.get("expert_inner", config["n_inner"])
    text = f"{config['experts_used']} of {config['experts']} experts of FFN {inner:,}"
    if config.get("shared_inner"):
        text += f" and a shared expert of FFN {config['shared_inner']:,}"
    if config.get("dense_beside"):
        return f"{width} beside {text}"
    return text + (f" ({width} in {_layers(dense)})" if dense else "")


def describe_rope(model: dict[str, Any]) -> str:
    """Describe the rotary embedding of a model, such as "base 100,000"."""
    config, rope = model["config"], model["config"]["rope"]
    usual = {"theta": rope["theta"], "scaling": rope["kind"], "factor": rope["factor"]}
    turns = model.get("rope", [usual])
    parts = []
    for own in turns:
        text = f"base {own['theta']:,.10g}"
        if own["scaling"] != "default":
            text += f", {own['scaling']} × {own['factor']:g}"
        if own.get("channels", config["head_dim"]) < config["head_dim"]:
            text += f", on {own['channels']} of {config['head_dim']} channels"
        if len(turns) > 1 or 0 < len(own.get("layers", ())) < config["n_layer"]:
            text += f" in {_layers(own['layers'])}"
        parts.append(text)
    still = sum(factor >= STILL for factor in rope["factors"])
    factors = f", where {len(rope['factors']) - still} of {len(rope['factors'])} pairs turn" * bool(still)
    text = "; ".join(parts) + (factors or ", with the file's frequency factors" * bool(rope["factors"]))
    if config["adjacent_pairs"]:
        text += ", adjacent pairs in the file (shown in Hugging Face order)"
    return text


def describe_encodings(encodings: Sequence[dict[str, Any]]) -> str:
    """Describe the stored types with their shares of the bytes, such as "Q4_K 83% in 180 tensors"."""
    total = sum(e["bytes"] for e in encodings)
    return ", ".join(
        f"{e['type']} {_share(e['bytes'] / total)} in {e['tensors']} tensor{'s' * (e['tensors'] != 1)}"
        for e in encodings
    )


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else f"{share:.2g}" if share < 0.0005 else f"{share:.1%}"


def trace_sections(
    trace: Trace, *, verbose: bool = False, overview: bool = True, brief: bool = False,
    requested: Sequence[Section] | None = None,
) -> list[Section]:  # fmt: skip
    """Return the sections of a trace. `overview` shows each layer of a production model as one row. `brief`
    omits explanations, but not failures. `requested` are sections of requested events or arrays, which come
    after the input. Requested sections imply `brief`."""
    head = [*header_sections(trace, brief=requested is not None), *headline_sections(trace)]
    return [*head, *(requested or ()), *_body(trace, verbose, overview, brief or requested is not None)]


def _body(trace: Trace, verbose: bool, overview: bool, brief: bool) -> Iterator[Section]:
    if trace.intervened is not None:
        yield interventions_section(trace.intervened)
    if overview and trace.layers:
        outside = [event for event in trace.events if event.layer is None]
        yield from stage_sections(trace, [e for e in outside if e.stage == "embedding"], verbose)
        yield layers_section(trace, brief)
        yield from stage_sections(trace, [e for e in outside if e.stage == "head"], verbose)
    else:
        yield from stage_sections(trace, trace.events, verbose)
    if overview or not brief:
        yield from experts_sections(trace, brief)
    yield from prediction_sections(trace)
    if trace.intervened is not None:
        yield from before_and_after_section(trace.intervened, trace.predictions, trace.loss)
    yield from lens_sections(trace)
    if trace.generation or trace.generation_end:
        yield from generation_sections(trace, verbose)
    if not brief:
        yield insights_section(trace.insights, "What the trace reveals")
    if trace.anomalies:
        yield anomalies_section(trace.anomalies, brief)
    yield from backward_sections(trace)
    yield checks_section(trace.checks, brief)


_SPREADS = {
    "microgpt": "One product computes all heads, with zeros between them. From attn.scores on, a NaN of one "
    "head therefore reaches the other heads.",
    "decoder": "A weight of zero times NaN is NaN. From attn.context on, a NaN in v therefore reaches "
    "earlier positions.",
}


def headline_sections(trace: Trace) -> Iterator[Section]:
    """Yield a section about the first value that is not finite, if there is such a value."""
    for check in trace.checks:
        if check.id == "finite" and check.holds is False:
            exact = f"Every value before it is finite. {_SPREADS[trace.model['family']]}"
            yield Section([words(exact, "dim")], f"Not finite: {check.detail}", style="bold red")


def insights_section(insights: Sequence[Insight], title: str) -> Section:
    """Return the insights with their titles."""
    blocks = [
        block
        for insight in insights
        for block in (words(insight.title, "bold")._replace(about=insight.about), indented(insight.text))
    ]
    return Section(blocks, title)


def anomalies_section(anomalies: Sequence[Anomaly], brief: bool = False) -> Section:
    """Return a section with the rules that found an anomaly. Unless `brief` is set, also list the other rules
    with their values, and the rules that were not evaluated."""
    fired = [a for a in anomalies if a.found]
    in_part = any(a.found is None or TOO_FEW in a.unseen for a in anomalies)
    none = f"none{' in the evaluated values' * in_part}"
    lines = [words(_excess(rule), "bold red") for rule in fired]
    if not brief:
        lines += [*_quiet(anomalies), *_not_evaluated(anomalies)]
    return Section(lines, f"Anomalies: {len(fired) or none}", style="bold red" if fired else "bold green")


def _excess(rule: Anomaly) -> str:
    where = f"; {rule.detail}" if rule.detail else ""
    value = f"{rule.id} {_value(rule)} in {rule.seen}, allowed {rule.threshold:g}{_UNITS[rule.source]}"
    return f"{rule.title}: {value}{where}"


def _quiet(anomalies: Sequence[Anomaly]) -> Iterator[Words]:
    for source, lead in (("invariant", "invariants"), ("other layers", "comparisons of layers")):
        quiet = [a for a in anomalies if a.found is False and a.source == source]
        values = "; ".join(
            f"{', '.join(f'{rule.id} {_value(rule)}' for rule in rules)} in {seen}, allowed {limit:g}"
            for (seen, limit), rules in groupby(quiet, key=lambda a: (a.seen, a.threshold))
        )
        if values:
            yield words(f"{lead} within their thresholds{_UNITS[source]}: {values}", "dim")


def _not_evaluated(anomalies: Sequence[Anomaly]) -> Iterator[Words]:
    for reason, rules in groupby(anomalies, key=lambda a: a.detail if a.found is None else a.unseen):
        if reason:
            yield words(f"not evaluated: {', '.join(rule.id for rule in rules)} ({reason})")


_UNITS = {"invariant": "", "other layers": " (distance from the layers' trend, in spreads)"}


def _value(rule: Anomaly) -> str:
    value = rule.value or 0.0
    return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"


def checks_section(checks: Sequence[Check], brief: bool = False) -> Section:
    """Return the result of the self-check. Every violated check has a red line. Unless `brief` is set, also
    list the checks that hold, and the skipped checks with the reasons."""
    outcomes = grouped(checks, attrgetter("holds"))
    passed, failed, skipped = (outcomes.get(holds, []) for holds in (True, False, None))
    rest = f", {len(skipped)} not checked" if skipped else ""
    lines = [words("; ".join(map(_measured, passed)), "dim")] if passed and not brief else []
    lines += [words(f"note: {check.detail}") for check in passed if check.id == "finite" and check.detail]
    lines += [words(f"violated: {_measured(check)}: {check.detail}", "bold red") for check in failed]
    if not brief:
        lines += [words(f"not checked: {check.claim} ({check.detail})") for check in skipped]
    title = f"Self-check: {len(passed)} of {len(passed) + len(failed)} hold{rest}"
    return Section(lines, title, style="bold red" if failed else "bold green")


def _measured(check: Check) -> str:
    if check.deviation is None:
        return check.claim
    limit = f" ≤ {check.tolerance:.0e}" if check.holds and check.tolerance else ""
    sign = "" if check.holds else f", allowed {check.tolerance:.0e}"
    off = f" (off by {exponent(check.deviation)}{limit}{sign})" if check.deviation else ""
    return f"{check.claim}{off}"
