"""The page of a trace: its sections as HTML, and the data of its views."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ...arrays.stats import Array, TensorStats
from ...explaining.explain import worked_out
from ...formulas.steps import Step
from ...formulas.traced_element import Element, RunValues, TracedElement
from ...grouping import grouped
from ...hooks.event import Phase
from ...models.language_model import LanguageModel
from ...operations.plan_formulas import Formulas
from ...plans.kinds import Norm, Probabilities, Softmax
from ...rounding.invariants import OF_SUMS
from ...selection.token_names import token_argument
from ...text.printable import on_one_line, shown_token
from ...text.wording import counted
from ...tracing.result import Candidate, Prediction, Trace
from ..sections import AttentionMatrices, Section, Words
from ..trace.whole_trace import trained
from .markup import Markup, element
from .page import page
from .page_recorder import Held
from .plan_data import events_of, heads_of, parameters_of, picture_of
from .section_page import cards, footer, header
from .static_picture import static_picture

PREFIX: dict[Phase, str] = {"forward": "", "backward": "d ", "update": "u "}


def trace_page(
    trace: Trace, model: LanguageModel, sections: Sequence[Section], line: str, again: Mapping[str, Any],
    recorded: Mapping[str, Held] | None = None, more: str = "", start: str = "",
    effects: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Return the HTML of a trace's page. `sections` describe the trace, and `line` is the command that made
    the page. `again` contains the arguments for a command that explains an element of this run. `recorded`
    contains arrays that the trace did not store. `more` names the options that add arrays to the page. The
    page opens at the element `start`. `effects` is the result of `whole_model` for a production model."""
    arrays, pictures = _arrays(trace, model, recorded or {})
    document = {
        **_run(trace, model), **_plan(trace, model, arrays), **_layers(trace),
        "command": {**again, "gradient": _options_of_gradients(trace, model)},
        "start": start, "pictures": pictures, "adds": more,
        "predictions": list(map(_prediction, trace.predictions)),
        "lens": _lens(trace), "effects": effects,
        "terms": logit_terms(trace, model, recorded or {}),
    }  # fmt: skip
    title = f"{on_one_line(trace.input.text) or 'tokens'} · microgpt trace"
    main = "overview" if model.trainable else "model_overview"
    return page(title, _body(trace, model, sections, line), document, arrays, main)


def _options_of_gradients(trace: Trace, model: LanguageModel) -> list[str] | None:
    """Return the options of an `explain` command for the gradients of a trace. Return None if the trace has
    the loss of only some positions, because `explain` computes the loss of all positions."""
    scalar, length = trace.scalar, len(trace.input.tokens)
    if scalar is None or scalar.target is None:
        return ["--backward"] if len(trace.predictions) == length else None
    options = ["--backward", "--target", token_argument(model, scalar.target)]
    if scalar.against is not None:
        options += ["--against", token_argument(model, scalar.against)]
    return [*options, *["--position", str(scalar.position)] * (scalar.position != length - 1)]


def _arrays(
    trace: Trace, model: LanguageModel, recorded: Mapping[str, Held]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of the page by name, and the description of each picture. A page contains all arrays
    of the trace and of the recorder. The page of a microGPT also contains all parameters. The page of a
    production model contains only parameter vectors. Masked elements become 0, because no view shows masked
    elements."""
    arrays = {PREFIX[phase] + name: array for (phase, name), array in trace.arrays.items()}
    if model.trainable:
        arrays |= {name: model.parameter(name) for name in model.config.shapes()}
    pictures: dict[str, Any] = {}
    for name, record in recorded.items():
        if name in arrays or record.picture is None:
            arrays.setdefault(name, record.numbers)
            continue
        pictures[name] = record.picture
        arrays[f"picture {name}"] = record.numbers
        if record.last is not None:
            arrays[f"last {name}"] = record.last
    arrays |= {name: model.parameter(name) for name in _vectors_of(model, {*arrays, *recorded})}
    causal = {row.name for row in model.plan.values() if row.causal}
    for name, array in arrays.items():
        if array.dtype != np.uint8:
            is_causal = name.removeprefix("d ") in causal
            arrays[name] = np.asarray(np.tril(array) if is_causal else array, np.float32)
    return arrays, pictures


def _vectors_of(model: LanguageModel, held: Collection[str]) -> list[str]:
    """Return the parameter vectors and the gains of the rows whose outputs and inputs are in `held`."""
    shapes = model.config.shapes()
    rows = (row for row in model.plan.values() if all(name in held for name in (row.name, *row.inputs)))
    own = [(name, isinstance(row.kind, Norm)) for row in rows for name in row.kind.names if name not in held]
    return [name for name, of_norm in own if of_norm or len(shapes[name]) == 1]


def _run(trace: Trace, model: LanguageModel) -> dict[str, Any]:
    """Return the input of the run and the labels of its tokens."""
    run = {
        "dtype": model.dtype, "rounding": OF_SUMS[model.dtype],
        "tiny": float(np.finfo(model.dtype).tiny),
        "text": trace.input.text, "tokens": trace.input.tokens, "targets": trace.input.targets,
        "labels": [shown_token(label) for label in trace.input.labels],
        "layers": model.config.n_layer, "scalar": trace.scalar.name if trace.scalar else None,
    }  # fmt: skip
    if model.trainable:
        size = model.config.vocab_size
        run["vocabulary"] = [shown_token(model.label(token, target=True)) for token in range(size)]
        run["seen"] = [shown_token(model.label(token)) for token in range(size)]
        if not _replaced(trace):
            run["tokenizer"] = tokenizer_data(model)
            run["trained"] = trace.model["trained_steps"] != 0
    else:
        candidates = [c for p in trace.predictions for c in (*p.top, p.target) if c is not None]
        candidates += [c for row in trace.lens for top in row.top for c in top]
        run["vocabulary"] = {candidate.token: shown_token(candidate.label) for candidate in candidates}
    return run


def tokenizer_data(model: Any) -> dict[str, Any]:
    """Return the tokenizer of a microGPT: the ids of its letters and of BOS, and the largest text length."""
    tokenizer = model.tokenizer
    return {
        "letters": {char: tokenizer.encode(char)[0] for char in tokenizer.chars},
        "bos": tokenizer.bos_id,
        "most": model.config.block_size - 1,
        "words": tokenizer.describe_chars(),
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    target = prediction.target
    return {
        "position": prediction.position,
        "top": [[candidate.token, candidate.p] for candidate in prediction.top],
        "target": None if target is None else [target.token, target.p, prediction.rank],
    }


def _lens(trace: Trace) -> dict[str, Any] | None:
    """Return the candidates at every position, and the target's P and rank, after every layer."""
    if not trace.lens:
        return None
    rows = [
        [row.layer, [[[c.token, c.p] for c in candidates] for candidates in row.top]] for row in trace.lens
    ]
    target = [[place.event, place.position, place.target.p, place.rank] for place in trace.lens_target]
    label = shown_token(trace.lens_target[0].target.label) if trace.lens_target else ""
    return {"positions": trace.lens[0].positions, "rows": rows, "target": target, "label": label}


def _replaced(trace: Trace) -> list[str]:
    """Return the names of the events whose values an intervention replaced."""
    return [] if trace.intervened is None else [c.name for c in trace.intervened.changes if c.replaced]


def _plan(trace: Trace, model: LanguageModel, arrays: Mapping[str, Array]) -> dict[str, Any]:
    plan, replaced = model.plan, _replaced(trace)
    cut = {("forward", name) for name in replaced}
    formulas = Formulas(plan, cut, len(trace.input.tokens), trace.scalar)
    by_name = {PREFIX[event.phase] + event.name: event for event in trace.events}
    return {
        "statistics": {
            name: _statistics(event.stats)
            for name, event in by_name.items()
            if event.stats is not None and name not in arrays
            if event.phase == "forward" or f"last {name}" in arrays
        },
        "events": events_of(model, formulas),
        "parameters": parameters_of(model, formulas, arrays),
        "replaced": replaced,
        "picture": picture_of(plan),
        "attention": [row.name for row in plan.of_kind(Softmax)],
        "probabilities": next((row.name for row in plan.of_kind(Probabilities)), None),
        "headEvents": {row.name: heads_of(plan, row.name) for row in plan.of_kind(Softmax)},
    }


def _statistics(stats: TensorStats) -> dict[str, Any]:
    """Return the statistics of an array, which the page needs if it does not contain the whole array."""
    return {
        "count": stats.finite_count, "l2": stats.l2_norm, "mean": stats.mean,
        "std": stats.std, "min": stats.min, "max": stats.max, "zeros": stats.zero_count,
        "others": stats.nonfinite_count,
    }  # fmt: skip


def _layers(trace: Trace) -> dict[str, Any]:
    """Return the relative outputs of attention and MLP in each layer, and a text on the layer's anomalies."""
    shares = {row.layer: {"attention": row.attention_share, "mlp": row.mlp_share} for row in trace.layers}
    by_layer = grouped(_oddities(trace), itemgetter(0))
    odd = {layer: "; ".join(words for _, words in pairs) for layer, pairs in by_layer.items()}
    return {"shares": shares, "odd": odd}


def _oddities(trace: Trace) -> Iterator[tuple[int, str]]:
    """Yield pairs of a layer and a text. The text counts values that are not finite, or names an anomaly
    whose worst place is in the layer."""
    for row in trace.layers:
        if row.nan_count or row.inf_count:
            yield row.layer, f"{row.nan_count} NaN, {row.inf_count} Inf"
    for anomaly in trace.anomalies:
        if anomaly.found and anomaly.layer is not None:
            yield anomaly.layer, f"{anomaly.title} ({anomaly.detail})"


def _without_attention(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield the sections without attention matrices, because the views show attention."""
    for section in sections:
        blocks = [block for block in section.blocks if not isinstance(block, AttentionMatrices)]
        if len(blocks) == len(section.blocks) or any(not isinstance(block, Words) for block in blocks):
            yield section._replace(blocks=blocks)


def _without_scripts(sections: Sequence[Section]) -> Markup:
    """Return the parts for browsers without JavaScript: a note, and attention as tables."""
    attention = [s for s in sections if any(isinstance(block, AttentionMatrices) for block in s.blocks)]
    words = "With JavaScript, this page shows the arrays of the run and explains their numbers."
    return element("noscript", element("p", words, class_="dim"), *cards(attention))


def _still(trace: Trace, model: LanguageModel) -> Markup:
    """Return the picture for browsers without JavaScript, for a microGPT."""
    kept = all(("forward", row.name) in trace.arrays for row in model.plan.of_kind(Softmax)[:1])
    if not model.trainable or not kept:
        return Markup()
    return element("noscript", static_picture(trace, model.plan))


def _body(trace: Trace, model: LanguageModel, sections: Sequence[Section], line: str) -> list[Markup]:
    """Return the body of the page: its sections, and empty elements that the script fills."""
    labels = [shown_token(label) for label in trace.input.labels]
    chips = [
        element("span", element("span", label), element("small", str(at)), class_="token")
        for at, label in enumerate(labels)
    ]
    tokens = element("div", *chips, id="tokens", role="group", aria_label="tokens")
    shown = cards([*_without_attention(sections)])
    results = element("div", *shown, _without_scripts(sections), id="results")
    facts = trace.model
    origin = ", ".join([facts["origin"], f"{facts['parameters']:,} parameters", *trained(facts)])
    title = trace.input.text or counted(len(labels), "token")
    description = element("p", on_one_line(origin), class_="dim")
    return [
        header(title, line, description, element("div", id="live")),
        element("section", tokens, id="answer", aria_label="Tokens"),
        element(
            "main",
            element("div", _still(trace, model), id="picture"),
            element("div", id="cards"),
            element("div", id="sheet"),
            element(
                "div",
                element("div", id="flow"),
                element("div", element("div", id="views"), results, class_="column"),
                element("div", id="explain"),
                id="numbers",
            ),
            element("div", id="tour"),
        ),
        *footer(aria_live="off"),
    ]


TERMS = 16  # number of largest terms of a sum that are written to the page
MOST_SUMS = 64  # largest number of sums whose terms are written


def logit_terms(trace: Trace, model: LanguageModel, recorded: Mapping[str, Held]) -> dict[str, Any]:
    """Return the largest terms of each chosen logit, by the name of the logit. At the last position, use the
    logits of all candidates and of the target. At earlier positions, use the logits of the two most likely
    tokens and of the target, up to MOST_SUMS logits in total. If the input of the language model head was
    recorded only at the last position, leave out earlier positions."""
    *_, row = model.plan.head
    (source, *others), inputs = row.inputs, trace.input
    if others or source not in recorded:
        return {}
    held, last = recorded[source], len(inputs.tokens) - 1
    shapes = {**model.plan.shapes(last + 1), **model.config.shapes()}
    array = held.numbers
    if held.last is not None:
        array = np.zeros(shapes[source], np.float32)
        array[last] = held.last
    run = RunValues(model, inputs, {("forward", source): array}, range(last + 1), (), shapes, frozenset())
    terms: dict[str, Any] = {}
    for prediction in reversed(trace.predictions):
        if held.last is not None and prediction.position < last:
            continue
        for candidate in _likeliest(prediction, len(prediction.top) if not terms else 2):
            if len(terms) < MOST_SUMS:
                at = TracedElement(run, Element(row.name, (prediction.position, candidate.token)), TERMS)
                terms[str(at.element)] = list(map(_step, worked_out(at).steps))
    return terms


def _likeliest(prediction: Prediction, count: int) -> list[Candidate]:
    """Return the `count` most likely candidates and the target, without repeating a token."""
    candidates = [c for c in (*prediction.top[:count], prediction.target) if c is not None]
    return list({candidate.token: candidate for candidate in candidates}.values())


def _step(step: Step) -> dict[str, Any]:
    terms = []
    for term in step.terms:
        factors = [{"words": factor.name, "value": factor.value} for factor in term.factors]
        terms.append({"factors": factors, "value": term.value, "text": term.function})
    return {"label": step.label, "count": step.count, "rest": step.rest, "value": step.value, "terms": terms}
