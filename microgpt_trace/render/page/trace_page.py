"""The page of a trace: what it says as markup, and what its views show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from ...architecture.kinds import Probabilities, Softmax
from ...architecture.model import LanguageModel
from ...arrays.stats import Array
from ...hooks.event import Phase
from ...text.printable import on_one_line, shown_token
from ...tracing.checks import ROUNDING
from ...tracing.result import Trace
from ..sections import Section
from .markup import Markup, element
from .page import page
from .plan_data import PlanData
from .section_markup import section_markup

PREFIX: dict[Phase, str] = {"forward": "", "backward": "d ", "update": "u "}


def trace_page(
    trace: Trace, model: LanguageModel, sections: Sequence[Section], command: str, again: Mapping[str, Any]
) -> str:
    """One file. `sections` are what is said of the trace, `command` made it, and `again` are the words and
    options of a command that explains an element of the same run."""
    arrays = _arrays(trace, model)
    document = {**_run(trace, model), "command": again, **_plan(trace, model, arrays)}
    title = f"{on_one_line(trace.input.text) or 'tokens'} · microgpt trace"
    return page(title, _body(trace, sections, command), document, arrays)


def _arrays(trace: Trace, model: LanguageModel) -> dict[str, Array]:
    """What the page holds: everything that was kept, and all parameters of a model that it can run itself."""
    found = {PREFIX[phase] + name: array for (phase, name), array in trace.arrays.items()}
    if "gradients" in model.abilities:
        found |= {name: model.parameter(name) for name in model.config.shapes()}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def _run(trace: Trace, model: LanguageModel) -> dict[str, Any]:
    """What was read, and how the model names tokens."""
    found = {
        "program": "microgpt", "dtype": model.dtype, "rounding": ROUNDING[model.dtype],
        "text": trace.input.text, "tokens": trace.input.tokens, "targets": trace.input.targets,
        "labels": [shown_token(label) for label in trace.input.labels],
        "layers": model.config.n_layer,
    }  # fmt: skip
    if "gradients" in model.abilities:
        size = model.config.vocab_size
        found["vocabulary"] = [shown_token(model.label(token, target=True)) for token in range(size)]
        found["seen"] = [shown_token(model.label(token)) for token in range(size)]
        found["tokenizer"] = tokenizer_data(model)
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


def _plan(trace: Trace, model: LanguageModel, arrays: Mapping[str, Array]) -> dict[str, Any]:
    replaced = [] if trace.intervened is None else [c.name for c in trace.intervened.changes if c.replaced]
    data, plan = PlanData(model, replaced), model.plan
    return {
        "events": data.events(),
        "parameters": data.parameters(arrays),
        "formulas": data.formulas,
        "replaced": replaced,
        "attention": [row.name for row in plan.of_kind(Softmax)],
        "probabilities": next((row.name for row in plan.of_kind(Probabilities)), None),
        "headEvents": {
            row.name: [
                head
                for reader in plan.readers[row.name]
                for own in plan.readers[reader]
                for head in plan[own].parts
            ]
            for row in plan.of_kind(Softmax)
        },
    }


def _body(trace: Trace, sections: Sequence[Section], command: str) -> list[Markup]:
    """What is there without scripts, and the places that the script fills."""
    labels = [shown_token(label) for label in trace.input.labels]
    chips = [
        element("span", element("span", label), element("small", str(at)), class_="token")
        for at, label in enumerate(labels)
    ]
    header = element(
        "header",
        element(
            "div",
            element("h1", on_one_line(trace.input.text) or f"{len(labels)} tokens"),
            element("button", "colours: auto", type="button", id="theme"),
            element("button", "?", type="button", id="help", aria_label="keys"),
            class_="top",
        ),
        element("p", element("code", command), class_="command"),
        element("div", *chips, id="tokens", role="group", aria_label="tokens"),
        element("div", id="live"),
    )
    number = count(1)
    cards = [section_markup(section, f"section-{next(number)}") for section in sections]
    main = element(
        "main",
        element("div", id="flow"),
        element("div", element("div", id="views"), element("div", *cards, id="said"), class_="column"),
        element("div", id="explain"),
    )
    dialog = element("dialog", id="keys", aria_label="Keys")
    reading = element("output", id="reading", aria_live="off")
    return [header, main, dialog, reading]
