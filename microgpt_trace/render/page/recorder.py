"""Which arrays of a run a page has room for, and their recording while the model runs.

The memory that this takes grows with the size of the page, not with the depth of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...architecture.kinds import Context, Scores, Softmax
from ...architecture.model import LanguageModel
from ...architecture.plan import HEAD_EVENTS, Operation
from ...arrays.stats import Array
from ...hooks.event import TraceEvent
from .encodings import Form, Held, cost, held

# Million characters of a page, unless asked otherwise: for the heads, and up to where the rest fills it.
BUDGET, FILLED = 2.0, 1.0
AROUND = 200_000  # characters of what is not arrays: style, script, tables, statistics
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
        plan = self.model.plan
        return [row.name for row in plan.values() if not row.extra and row.name not in (*HEAD_EVENTS, "loss")]

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if self._forms is None:
            self._forms = forms_for(self.model, event.shape[0], self.budget, self.layers)
        if event.name in self._forms and event.name not in self.kept:
            self.kept[event.name] = held(value, self._forms[event.name])


def forms_for(
    model: LanguageModel, length: int, budget: float | None = None, layers: Sequence[int] = ()
) -> dict[str, Form]:
    """What fits into a page of so many million characters: first the attention of all heads, in the best form
    that leaves room; then in full what the arithmetic of attention reads and gives, of these layers and from
    the last one on; the stream; and the rest. Where no budget is given the rest fills half of the usual one,
    but for layers that were asked for."""
    shapes, plan = model.plan.shapes(length), model.plan
    left = (budget or BUDGET) * 1e6 - AROUND
    reserve = 0.0 if budget else (BUDGET - FILLED) * 1e6
    found: dict[str, Form] = {}
    heads = [row.name for row in plan.of_kind(Softmax)]
    for form, share in AT_A_GLANCE:
        needed = sum(cost(form, shapes[name]) for name in heads)
        if needed <= share * left:
            found |= dict.fromkeys(heads, form)
            left -= needed
            break
    for asked, names in _wishes(model, layers):
        group = [name for name in names if found.get(name) != "exact"]
        needed = sum(cost("exact", shapes[name]) for name in group)
        if needed <= left - (0 if asked else reserve):
            found |= dict.fromkeys(group, "exact")
            left -= needed
    streams = [name for name in plan.streams if name not in found]
    if sum(cost("signs", shapes[name]) for name in streams) <= left - reserve:
        found |= dict.fromkeys(streams, "signs")
    return found


def _wishes(model: LanguageModel, layers: Sequence[int]) -> Iterator[tuple[bool, list[str]]]:
    """Groups of events in the order in which they are wanted in full, and whether they were asked for."""
    plan = model.plan
    order = [*layers, *(i for i in reversed(range(len(plan.layers))) if i not in layers)]
    of_layers = [plan.layers[i] for i in order]
    asked = [i in layers for i in order]
    yield asked[0], [*_attention(of_layers[0]), *_writes(of_layers[0])]
    if plan.final:
        yield False, [plan.final[-1].name, plan.streams[-1]]
    yield from zip(asked, map(_attention, of_layers), strict=True)
    yield from zip(asked, map(_outputs, of_layers), strict=True)
    yield from ((False, [name]) for name in reversed(plan.streams))
    yield from zip(asked, map(_writes, of_layers), strict=True)
    for of_asked, rows in zip(asked, of_layers, strict=True):
        yield of_asked, [row.name for row in rows if not row.extra]


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
