"""The page of a trace: what it says as markup, and what its views show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ...architecture.formulas.steps import Step
from ...architecture.formulas.traced_element import Element, RunValues, TracedElement
from ...architecture.model import LanguageModel
from ...architecture.operations.plan_formulas import Formulas
from ...architecture.plans.kinds import Probabilities, Softmax
from ...architecture.plans.plan import Plan
from ...arrays.stats import Array, TensorStats
from ...explaining.explain import worked_out
from ...grouping import grouped
from ...hooks.event import Phase
from ...rounding.invariants import OF_SUMS
from ...text.printable import on_one_line, shown_token
from ...tracing.result import Candidate, Prediction, Trace
from ..sections import AttentionMatrices, Section, Words
from ..trace.whole_trace import trained
from .markup import Markup, element
from .page import page
from .plan_data import events_of, parameters_of
from .recorder import Held
from .section_page import cards, header, reading

PREFIX: dict[Phase, str] = {"forward": "", "backward": "d ", "update": "u "}


def trace_page(
    trace: Trace, model: LanguageModel, sections: Sequence[Section], line: str, again: Mapping[str, Any],
    recorded: Mapping[str, Held] | None = None, more: str = "", start: str = "",
) -> str:  # fmt: skip
    """One file. `sections` are what is said of the trace, `line` is the command that made it, and `again` are
    the words and options of a command that explains an element of the same run. What was `recorded` stands
    for the arrays that the trace did not keep; `more` says what adds to it, and `start` is the
    element that the page is opened at."""
    arrays, pictures = _arrays(trace, model, recorded or {})
    document = {
        **_run(trace, model), **_plan(trace, model, arrays), **_layers(trace), "command": again,
        "start": start, "pictures": pictures, "adds": more,
        "predictions": list(map(_prediction, trace.predictions)),
        "lens": _lens(trace), "terms": logit_terms(trace, model, recorded or {}),
    }  # fmt: skip
    title = f"{on_one_line(trace.input.text) or 'tokens'} · microgpt trace"
    return page(title, _body(trace, sections, line), document, arrays, "main")


def _arrays(
    trace: Trace, model: LanguageModel, recorded: Mapping[str, Held]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """What the page holds by name, and how its pictures are read: everything that was kept or recorded, all
    parameters of a model that it can run itself, and the vectors of others."""
    found = {PREFIX[phase] + name: array for (phase, name), array in trace.arrays.items()}
    if "gradients" in model.abilities:
        found |= {name: model.parameter(name) for name in model.config.shapes()}
    pictures: dict[str, Any] = {}
    for name, own in recorded.items():
        if name in found or own.picture is None:
            found.setdefault(name, own.numbers)
            continue
        pictures[name] = own.picture
        found[f"picture {name}"] = own.numbers
        if own.last is not None:
            found[f"last {name}"] = own.last
    found |= {name: model.parameter(name) for name in _vectors_of(model, {*found, *recorded})}
    causal = {row.name for row in model.plan.values() if row.kind.causal}
    return {
        name: _as_packed(array, name.removeprefix("d ") in causal) for name, array in found.items()
    }, pictures


def _vectors_of(model: LanguageModel, held: Collection[str]) -> list[str]:
    """The parameters that are vectors of rows whose arrays are held, and are not held themselves."""
    shapes = model.config.shapes()
    rows = (row for row in model.plan.values() if all(name in held for name in (row.name, *row.inputs)))
    return [name for row in rows for name in row.kind.names if name not in held and len(shapes[name]) == 1]


def _as_packed(array: Array, causal: bool) -> Array:
    """The array as it is packed; what the mask hides, which is never shown, is 0."""
    if array.dtype == np.uint8:
        return array
    return np.asarray(np.tril(array) if causal else array, np.float32)


def _run(trace: Trace, model: LanguageModel) -> dict[str, Any]:
    """What was read, and how the model names tokens."""
    found = {
        "program": "microgpt", "dtype": model.dtype, "rounding": OF_SUMS[model.dtype],
        "tiny": float(np.finfo(model.dtype).tiny),
        "text": trace.input.text, "tokens": trace.input.tokens, "targets": trace.input.targets,
        "labels": [shown_token(label) for label in trace.input.labels],
        "layers": model.config.n_layer,
    }  # fmt: skip
    if "gradients" in model.abilities:
        size = model.config.vocab_size
        found["vocabulary"] = [shown_token(model.label(token, target=True)) for token in range(size)]
        found["seen"] = [shown_token(model.label(token)) for token in range(size)]
        if not _replaced(trace):
            found["tokenizer"] = tokenizer_data(model)
    else:
        known = [c for p in trace.predictions for c in (*p.top, p.target) if c is not None]
        known += [c for row in trace.lens for candidates in row.top for c in candidates]
        named = {candidate.token: candidate.label for candidate in known}
        found["vocabulary"] = {token: shown_token(label) for token, label in named.items()}
    return found


def tokenizer_data(model: Any) -> dict[str, Any]:
    """How a small model reads a text: the ids of its letters, and how many it takes."""
    tokenizer = model.tokenizer
    return {
        "letters": {char: tokenizer.encode(char)[0] for char in tokenizer.chars},
        "bos": tokenizer.bos_id,
        "most": model.config.block_size - 1,
        "words": tokenizer.describe_chars(),
    }


def _prediction(own: Prediction) -> dict[str, Any]:
    """The candidates after a position, as far as they were asked for."""
    return {
        "position": own.position,
        "top": [[candidate.token, candidate.p] for candidate in own.top],
        "target": None if own.target is None else [own.target.token, own.target.p, own.rank],
    }


def _lens(trace: Trace) -> dict[str, Any] | None:
    """The candidates of every layer and position, and what becomes of the token that was asked for."""
    if not trace.lens:
        return None
    rows = [
        [row.layer, [[[c.token, c.p] for c in candidates] for candidates in row.top]] for row in trace.lens
    ]
    target = [[own.event, own.position, own.target.p, own.rank] for own in trace.lens_target]
    label = shown_token(trace.lens_target[0].target.label) if trace.lens_target else ""
    return {"positions": trace.lens[0].positions, "rows": rows, "target": target, "label": label}


def _replaced(trace: Trace) -> list[str]:
    """The events in whose place interventions put others."""
    return [] if trace.intervened is None else [c.name for c in trace.intervened.changes if c.replaced]


def _plan(trace: Trace, model: LanguageModel, arrays: Mapping[str, Array]) -> dict[str, Any]:
    plan, replaced = model.plan, _replaced(trace)
    formulas = Formulas(plan, {("forward", name) for name in replaced})
    forward = (event for event in trace.events if event.phase == "forward")
    return {
        "statistics": {event.name: _statistics(event.stats) for event in forward if event.stats is not None},
        "events": events_of(model, formulas),
        "parameters": parameters_of(model, formulas, arrays),
        "replaced": replaced,
        "attention": [row.name for row in plan.of_kind(Softmax)],
        "probabilities": next((row.name for row in plan.of_kind(Probabilities)), None),
        "headEvents": {row.name: _heads_of(plan, row.name) for row in plan.of_kind(Softmax)},
    }


def _statistics(stats: TensorStats) -> dict[str, Any]:
    """Of an array of which the page may not have every number."""
    return {
        "count": stats.finite_count, "l2": stats.l2_norm, "mean": stats.mean,
        "std": stats.std, "min": stats.min, "max": stats.max, "zeros": stats.zero_count,
        "others": stats.nonfinite_count,
    }  # fmt: skip


def _heads_of(plan: Plan, weights: str) -> list[str]:
    """The share of each head in what its layer writes, which is what can be taken out of it."""
    outputs = (out for context in plan.readers[weights] for out in plan.readers[context])
    return [head for out in outputs for head in plan[out].parts]


def _layers(trace: Trace) -> dict[str, Any]:
    """Of each layer the shares of its branches, and what is odd in it."""
    shares = {row.layer: {"attention": row.attention_share, "mlp": row.mlp_share} for row in trace.layers}
    odd = grouped(_oddities(trace), itemgetter(0))
    return {"shares": shares, "odd": {i: "; ".join(words for _, words in own) for i, own in odd.items()}}


def _oddities(trace: Trace) -> Iterator[tuple[int, str]]:
    """What is odd in a layer: what is not finite there, and each anomaly of which it is the worst."""
    for row in trace.layers:
        if row.nan_count or row.inf_count:
            yield row.layer, f"{row.nan_count} NaN, {row.inf_count} Inf"
    for anomaly in trace.anomalies:
        if anomaly.found and anomaly.layer is not None:
            yield anomaly.layer, f"{anomaly.title} ({anomaly.detail})"


def _told(sections: Sequence[Section]) -> Iterator[Section]:
    """The sections without attention, which the views show."""
    for section in sections:
        blocks = [block for block in section.blocks if not isinstance(block, AttentionMatrices)]
        if len(blocks) == len(section.blocks) or any(not isinstance(block, Words) for block in blocks):
            yield section._replace(blocks=blocks)


def _without_scripts(sections: Sequence[Section]) -> Markup:
    """What stands in the place of the views where there are no scripts: that there is more, and attention."""
    drawn = [own for own in sections if any(isinstance(block, AttentionMatrices) for block in own.blocks)]
    said = element("p", "With scripts this page shows every array, and explains every number.", class_="dim")
    return element("noscript", said, *cards(drawn))


def _body(trace: Trace, sections: Sequence[Section], line: str) -> list[Markup]:
    """What is there without scripts, and the places that the script fills."""
    labels = [shown_token(label) for label in trace.input.labels]
    chips = [
        element("span", element("span", label), element("small", str(at)), class_="token")
        for at, label in enumerate(labels)
    ]
    tokens = element("div", *chips, id="tokens", role="group", aria_label="tokens")
    said = element("div", *cards(list(_told(sections))), _without_scripts(sections), id="said")
    model = trace.model
    origin = ", ".join([model["origin"], f"{model['parameters']:,} parameters", *trained(model)])
    title = trace.input.text or f"{len(labels)} tokens"
    of_what = element("p", on_one_line(origin), class_="dim")
    return [
        header(title, line, of_what, tokens, element("div", id="live")),
        element(
            "main",
            element("div", id="flow"),
            element("div", element("div", id="views"), said, class_="column"),
            element("div", id="explain"),
        ),
        *reading(aria_live="off"),
    ]


TERMS = 16  # that are written out of a sum
MOST_SUMS = 64  # elements of which they are


def logit_terms(trace: Trace, model: LanguageModel, recorded: Mapping[str, Held]) -> dict[str, Any]:
    """By the names of the elements, worked out from what the head read: all candidates and the target of the
    last position, and of others as far as there is room the target and the two likeliest. Nothing of a
    position of which the head's input was not recorded."""
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
    found: dict[str, Any] = {}
    for prediction in reversed(trace.predictions):
        if held.last is not None and prediction.position < last:
            continue
        for candidate in _likeliest(prediction, len(prediction.top) if not found else 2):
            if len(found) < MOST_SUMS:
                at = TracedElement(run, Element(row.name, (prediction.position, candidate.token)), TERMS)
                found[str(at.element)] = list(map(_step, worked_out(at).steps))
    return found


def _likeliest(prediction: Prediction, count: int) -> list[Candidate]:
    """The first candidates and the target, each once."""
    known = [c for c in (*prediction.top[:count], prediction.target) if c is not None]
    return list({candidate.token: candidate for candidate in known}.values())


def _step(step: Step) -> dict[str, Any]:
    terms = [
        {
            "factors": [{"words": factor.name, "value": factor.value} for factor in term.factors],
            "value": term.value,
            "text": term.function,
        }
        for term in step.terms
    ]
    return {"label": step.label, "count": step.count, "rest": step.rest, "value": step.value, "terms": terms}
