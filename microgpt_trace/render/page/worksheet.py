"""The pages for a class besides the pages of names: a worksheet to print, its answers, and an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...interventions.interventions import Intervention
from ...models.language_model import LanguageModel
from ...tracing.result import Trace
from ...tracing.trace import trace
from .markup import Markup, element
from .page import page
from .plan_data import picture_of
from .section_page import footer, header

BLANK = "_" * 30
EMPTY: dict[str, Any] = {"commands": {}, "grids": [], "added": [], "facts": {}}  # a page without commands


class Pupil(NamedTuple):
    """A name of a class: its line, the name as written and as the model reads it, the file of its page, and
    questions about its run, each with its answer."""

    line: int
    written: str
    name: str
    page: str
    questions: tuple[tuple[str, str], ...]


def index_page(pupils: Sequence[Pupil]) -> str:
    """Return the page with links to all pages of a class."""
    rows = [
        element("li", element("a", pupil.written, href=pupil.page), f" {_heard(pupil)}") for pupil in pupils
    ]
    lead = element("p", "Each page begins with a tour. The pages need no network.")
    sheet = element("p", element("a", "Worksheet", href="worksheet.html"))
    return _page("Names of the class", [lead, element("ul", *rows), sheet])


def worksheet_page(pupils: Sequence[Pupil], answers: bool = False) -> str:
    """Return the questions about each name with room for the answers, or with the answers."""
    title = "Answers for the teacher" if answers else "Worksheet"
    cards = [_card(pupil, answers) for pupil in {pupil.name: pupil for pupil in pupils}.values()]
    lead = (
        "Open the page of a name, leave the tour (esc), and choose place 2, or the last place of a short "
        "name. Put every part back before the next question."
    )
    name = [] if answers else [element("p", f"Name {BLANK} Date {BLANK}")]
    return _page(title, [*name, element("p", lead), *cards])


def _page(title: str, body: Sequence[Markup]) -> str:
    main = element("main", element("div", *body, id="results", class_="column"))
    return page(title, [header(title, ""), main, *footer()], EMPTY, {}, "sections")


def _card(pupil: Pupil, answers: bool) -> Markup:
    items = []
    for question, answer in pupil.questions:
        shown = element("b", f" {answer}") if answers else element("span", f" {BLANK}")
        items.append(element("li", question, shown))
    return element(
        "section", element("h2", f"{pupil.written} {_heard(pupil)}"), element("ol", *items), class_="card"
    )


def _heard(pupil: Pupil) -> str:
    return "" if pupil.name == pupil.written else f"(read as {pupil.name})"


def questions_of(run: Trace, model: LanguageModel) -> Iterator[tuple[str, str]]:
    """Yield questions about a run, each with its answer."""
    last = len(run.input.tokens) - 1
    at = min(2, last)
    prediction = run.predictions[at]
    target, (best, *_) = prediction.target, prediction.top
    assert target is not None
    read = run.input.text[:at] or "the start"
    likeliest = f"{_letter(best.label)}, {_percent(best.p)}"
    yield f"After {read}, which letter does the model find likeliest, and how likely?", likeliest
    yield (
        f"How likely does it find {_letter(target.label)}, which really follows?",
        f"{_percent(target.p)}, rank {prediction.rank}",
    )
    layers = picture_of(model.plan)["layers"]
    of = f" of layer {len(layers) - 1}" if len(layers) > 1 else ""
    part = next(part for part in layers[-1]["parts"] if "attention" in part)
    weights = run.arrays["forward", part["attention"]][:, at, : at + 1]
    head = int(np.argmax(weights.max(axis=1)))
    key = int(np.argmax(weights[head]))
    where = "the start" if key == 0 else f"{run.input.labels[key]} at place {key}"
    place = f"at place {at}" if at else "at the start"
    yield (
        f"Where does head {head}{of} look most {place}, and how much?",
        f"{where}, {_percent(float(weights[head, key]))}",
    )
    units = next(part["units"] for part in layers[-1]["parts"] if "units" in part)
    values = run.arrays["forward", units][at]
    yield f"How many of the {values.size} units of the MLP{of} are on {place}?", str(int((values > 0).sum()))
    without = trace(model, run.input.text, interventions=[Intervention("ablate", part["heads"][head])])
    changed = without.predictions[at].target
    assert changed is not None
    yield (
        f"Take head {head}{of} out. What becomes of the chance of {_letter(target.label)}?",
        f"{_percent(target.p)} → {_percent(changed.p)}",
    )


def _letter(label: str | None) -> str:
    return "stop" if label == "EOS" else str(label)


def _percent(share: float) -> str:
    return f"{100 * share:#.3g}".rstrip(".") + " %"
