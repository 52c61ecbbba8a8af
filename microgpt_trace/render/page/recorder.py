"""How a page holds an array (every number of it, those of the last position alone, or a picture in bytes that
shows none but those), which arrays of a run it has room for, and their recording while the model runs.

The memory that this takes grows with the size of the page, not with the depth of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...architecture.model import LanguageModel
from ...architecture.plans.kinds import Context, Scores, Softmax
from ...architecture.plans.plan import Operation, Plan
from ...arrays.stats import Array
from ...hooks.event import TraceEvent
from .plan_data import of_a_page

THUMB = 64  # queries and keys of a picture of a longer text
Form = Literal["exact", "shares", "thumbs", "last"]

# Characters that an element takes in a page, as measured on SmolLM2: float32 and bytes, deflated, as base64.
SIZES = {"exact": 4.6, "shares": 1.05, "thumbs": 1.1}


@dataclass(frozen=True, eq=False, repr=False)
class Held:
    """An array as it is held: `numbers` are float32, or the bytes of a picture; `picture` says how these are
    read. The `last` position of a picture is there in full: [C], or of attention [H, T]."""

    numbers: Array
    picture: dict[str, Any] | None = None
    last: Array | None = None


def cost(form: Form, shape: Sequence[int]) -> float:
    """About how many characters of a page an array takes."""
    if form == "exact":
        return SIZES[form] * math.prod(shape)
    last = SIZES["exact"] * math.prod(shape) / shape[-2 if len(shape) == 3 else 0]
    if form == "last":
        return last
    side = shape[-1] if form == "shares" else min(THUMB, shape[-1])
    return last + SIZES[form] * shape[0] * side * (side + 1) / 2


def held(value: Array, form: Form) -> Held:
    """The array in one of the forms."""
    if form == "exact":
        return Held(np.array(value, np.float32))
    if form == "last":
        return Held(np.zeros(0, np.uint8), {"form": "last"}, _last(value))
    return _shares(value, 1 if form == "shares" else -(-value.shape[-1] // THUMB))


def _last(value: Array) -> Array:
    """What stands at the last position: [C], or of attention [H, T]"""
    return np.array(value[:, -1] if value.ndim == 3 else value[-1], np.float32)


def _shares(weights: Array, block: int) -> Held:
    """The square root of each share in 255 steps, or of the largest in a block of so many queries and keys;
    row by row up to the diagonal. What is not finite has a byte of its own: [H, T, T]"""
    heads, length, _ = weights.shape
    side = -(-length // block)
    shares = weights.astype(np.float32)
    if block > 1:
        padded = np.zeros((heads, side * block, side * block), np.float32)
        padded[:, :length, :length] = shares
        shares = padded.reshape(heads, side, block, side, block).max(axis=(2, 4))
    finite = np.isfinite(shares)
    steps = np.round(np.sqrt(np.clip(np.where(finite, shares, 0), 0, 1)) * 254).astype(np.uint8)
    steps[~finite] = 255
    below = np.tri(side, dtype=bool)
    return Held(steps[:, below].reshape(-1), {"form": "shares", "side": side, "block": block}, _last(weights))


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
