"""Which arrays of a run a page has room for, and their recording while the model runs.

The memory that this takes grows with the size of the page, not with the depth of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...architecture.model import LanguageModel
from ...architecture.plans.kinds import Context, Scores, Softmax
from ...architecture.plans.plan import Operation, Plan
from ...arrays.stats import Array
from ...hooks.event import TraceEvent
from .encodings import Form, Held, cost, held
from .plan_data import of_a_page

BUDGET = 2.0  # million characters of a page, unless asked otherwise
AROUND = 220_000  # characters of what is not arrays: style, script, tables, statistics
# Forms of all heads, and what share of the page they may take.
AT_A_GLANCE: tuple[tuple[Form, float], ...] = (("exact", 0.25), ("shares", 0.6), ("thumbs", 1.0))

Forms = Mapping[str, Form]


@dataclass(eq=False)
class PageRecorder:
    """A hook that keeps the first value of each event that a page has room for, in its form. The first event
    tells how long the text is."""

    model: LanguageModel
    budget: float | None = None
    layers: Sequence[int] = ()
    kept: dict[str, Held] = field(default_factory=dict)
    _forms: Forms | None = None

    @property
    def names(self) -> list[str]:
        """The events to listen to."""
        return [row.name for row in self.model.plan.values() if of_a_page(row)]

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if self._forms is None:
            self._forms = forms_for(self.model, event.shape[0], self.budget, self.layers)
        if event.name in self._forms and event.name not in self.kept:
            self.kept[event.name] = held(value, self._forms[event.name])


def forms_for(
    model: LanguageModel, length: int, budget: float | None = None, layers: Sequence[int] = ()
) -> dict[str, Form]:
    """What fits into a page of so many million characters: first the attention of all heads, in the best form
    that leaves room; then layer by layer, those that were asked for and from the last one on, what is worked
    out without a matrix; the stream; and the rest. What has no room in full is there of the last position."""
    shapes, plan = model.plan.shapes(length), model.plan
    left = (budget or BUDGET) * 1e6 - AROUND
    found: dict[str, Form] = {}
    heads = [row.name for row in plan.of_kind(Softmax)]
    for form, share in AT_A_GLANCE:
        needed = sum(cost(form, shapes[name]) for name in heads)
        if needed <= share * left:
            found |= dict.fromkeys(heads, form)
            left -= needed
            break
    whole = _read_whole(plan)
    for wish in _wishes(model, layers):
        group = [name for name in wish if found.get(name) != "exact"]
        in_full: dict[str, Form] = dict.fromkeys(group, "exact")
        of_last: dict[str, Form] = {
            name: "exact" if name in whole else "last" for name in group if name not in found
        }
        for forms in (in_full, of_last):
            needed = sum(cost(form, shapes[name]) for name, form in forms.items())
            if needed <= left:
                found |= forms
                left -= needed
                break
    return found


def _wishes(model: LanguageModel, layers: Sequence[int]) -> Iterator[list[str]]:
    """Events that are wanted together, in the order in which they are wanted: what the head reads, a first
    layer whole, attention, its outputs, the streams, what is added to these, and all the rest."""
    plan = model.plan
    order = [*layers, *(i for i in reversed(range(len(plan.layers))) if i not in layers)]
    of_layers = [plan.layers[i] for i in order]
    if plan.final:
        yield [plan.final[-1].name, plan.streams[-1]]
    yield [plan.streams[order[0]], *_usual(of_layers[0])]
    yield from map(_attention, of_layers)
    yield from map(_outputs, of_layers)
    yield from ([name] for name in reversed(plan.streams))
    yield from map(_writes, of_layers)
    yield from map(_usual, of_layers)


def _usual(rows: Sequence[Operation]) -> list[str]:
    return [row.name for row in rows if not row.extra]


def _read_whole(plan: Plan) -> set[str]:
    """What a position reads of all positions before it: keys and values."""
    return {row.inputs[1] for row in plan.of_kind(Scores, Context)}


def _attention(rows: Sequence[Operation]) -> list[str]:
    """What scores, weights and contexts of a layer read and give."""
    found = [row for row in rows if isinstance(row.kind, Scores | Softmax | Context)]
    return list(dict.fromkeys(name for row in found for name in (*row.inputs, row.name)))


def _outputs(rows: Sequence[Operation]) -> list[str]:
    """What is made of the contexts of a layer."""
    contexts = {row.name for row in rows if isinstance(row.kind, Context)}
    return [row.name for row in rows if contexts & {*row.inputs} and not row.extra]


def _writes(rows: Sequence[Operation]) -> list[str]:
    """What the residual sums of a layer read and give, and what their norms read."""
    sums = [row for row in rows if len(row.inputs) == 2 and not isinstance(row.kind, Scores | Context)]
    names = [name for row in sums for name in (*row.inputs, row.name)]
    return list(dict.fromkeys(names))
