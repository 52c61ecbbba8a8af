"""Record the arrays that a page holds, while the model runs. A page contains an array in one of three forms:
in full, only at its last position, or as a picture of bytes with exact numbers only at the last position. The
recorder's memory depends on the size of the page, not on the number of layers. The gradient of an array
has the name of the array with "d " before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...arrays.stats import Array
from ...hooks.event import TraceEvent
from ...models.language_model import LanguageModel
from ...plans.kinds import Context, Scores, Softmax
from ...plans.plan import Operation
from ...text.frozen import frozen
from .plan_data import fits_a_page

THUMB = 64  # largest number of queries and keys in a small picture ("thumbs")
Form = Literal["exact", "shares", "thumbs", "last"]

# Characters that an element takes in a page, measured on SmolLM2: for a float32, and for a byte.
SIZES = {"exact": 4.6, "shares": 1.05, "thumbs": 1.1}


@frozen(slots=False, eq=False)
class Held:
    """An array in the form of a page. `numbers` contains float32 numbers, or the bytes of a picture.
    `picture` describes the picture. `last` contains the exact numbers of the last position: [C], or [H, T]
    for attention."""

    numbers: Array
    picture: dict[str, Any] | None = None
    last: Array | None = None


def cost(form: Form, shape: Sequence[int]) -> float:
    """Estimate how many characters an array of this form takes in a page."""
    if form == "exact":
        return SIZES[form] * math.prod(shape)
    last = SIZES["exact"] * math.prod(shape) / shape[-2 if len(shape) == 3 else 0]
    if form == "last":
        return last
    side = shape[-1] if form == "shares" else min(THUMB, shape[-1])
    return last + SIZES[form] * shape[0] * side * (side + 1) / 2


def held(value: Array, form: Form) -> Held:
    """Convert an array to the form `form`."""
    if form == "exact":
        return Held(np.array(value, np.float32))
    last = np.array(value[:, -1] if value.ndim == 3 else value[-1], np.float32)
    if form == "last":
        return Held(np.zeros(0, np.uint8), {"form": "last"}, last)
    return _shares(value, 1 if form == "shares" else -(-value.shape[-1] // THUMB), last)


def _shares(weights: Array, block: int, last: Array) -> Held:
    """Return attention weights [H, T, T] as bytes. Each byte describes a block of `block` queries and keys:
    the square root of the block's largest weight, in steps of 1/254. The byte 255 stands for a weight that is
    not finite. Blocks above the diagonal are left out."""
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
    return Held(steps[:, below].reshape(-1), {"form": "shares", "side": side, "block": block}, last)


BUDGET = 2.0  # default size of a page, in million characters
AROUND = 220_000  # characters of a page besides its arrays: style, script, tables, statistics
# Forms of all attention weights, from best to worst, each with its largest allowed share of the page.
AT_A_GLANCE: tuple[tuple[Form, float], ...] = (("exact", 0.25), ("shares", 0.6), ("thumbs", 1.0))


@dataclass(eq=False)
class PageRecorder:
    """A hook that stores the first value of each event that fits on the page, and with `backward` also its
    gradient. The recorder chooses the forms at the first event, because the forms depend on the length of the
    text."""

    model: LanguageModel
    budget: float | None = None
    layers: Sequence[int] = ()
    backward: bool = False
    kept: dict[str, Held] = field(default_factory=dict)
    _forms: Mapping[str, Form] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the events to subscribe to."""
        return [row.name for row in self.model.plan.values() if fits_a_page(row)]

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if self._forms is None:
            self._forms = forms_for(self.model, event.shape[0], self.budget, self.layers, self.backward)
        name = "d " * (event.phase == "backward") + event.name
        if name in self._forms and name not in self.kept:
            self.kept[name] = held(value, self._forms[name])


def forms_for(
    model: LanguageModel, length: int, budget: float | None = None, layers: Sequence[int] = (),
    backward: bool = False,
) -> dict[str, Form]:  # fmt: skip
    """Choose the arrays that fit into a page of `budget` million characters, each with its form. The
    attention weights of all heads come first, in the best form that fits its share of the page. Then the
    groups of `_groups` are added. If a group does not fit at all positions, only its last position is added,
    with the keys and values of all positions. With `backward`, each array comes with its gradient. A gradient
    has no picture: only its last position accompanies a picture."""
    shapes, plan = model.plan.shapes(length), model.plan

    def with_gradients(forms: Mapping[str, Form]) -> dict[str, Form]:
        own: dict[str, Form] = {f"d {n}": form if form == "exact" else "last" for n, form in forms.items()}
        return {**forms, **own} if backward else {**forms}

    def size_of(forms: Mapping[str, Form]) -> float:
        return sum(cost(form, shapes[name.removeprefix("d ")]) for name, form in forms.items())

    room = (budget or BUDGET) * 1e6 - AROUND
    chosen: dict[str, Form] = {}
    heads = [row.name for row in plan.of_kind(Softmax)]
    for form, share in AT_A_GLANCE:
        of_heads = with_gradients(dict.fromkeys(heads, form))
        if (size := size_of(of_heads)) <= share * room:
            chosen |= of_heads
            room -= size
            break
    keys_and_values = {row.inputs[1] for row in plan.of_kind(Scores, Context)}
    for group in _groups(model, layers):
        names = [name for name in group if chosen.get(name) != "exact"]
        in_full: dict[str, Form] = dict.fromkeys(names, "exact")
        at_last: dict[str, Form] = {
            name: "exact" if name in keys_and_values else "last" for name in names if name not in chosen
        }
        for forms in map(with_gradients, (in_full, at_last)):
            if (size := size_of(forms)) <= room:
                chosen |= forms
                room -= size
                break
    return chosen


def _groups(model: LanguageModel, layers: Sequence[int]) -> Iterator[list[str]]:
    """Yield groups of events, the most important first. The input of the language model head and one complete
    layer come first. The next groups are, for all layers: the attention, the outputs of attention, the
    residual streams, the residual sums with their inputs, and the other events. Requested layers come first,
    and the other layers are in reverse order."""
    plan = model.plan
    order = [*layers, *(i for i in reversed(range(len(plan.layers))) if i not in layers)]
    of_layers = [plan.layers[i] for i in order]
    if plan.final:
        yield [plan.final[-1].name, plan.streams[-1]]
    yield [plan.streams[order[0]], *_usual(of_layers[0])]
    attention = Scores | Softmax | Context
    yield from (_with_inputs(row for row in rows if isinstance(row.kind, attention)) for rows in of_layers)
    yield from map(_outputs, of_layers)
    yield from ([name] for name in reversed(plan.streams))
    yield from (_with_inputs(row for row in rows if _is_sum(row)) for rows in of_layers)
    yield from map(_usual, of_layers)


def _usual(rows: Sequence[Operation]) -> list[str]:
    return [row.name for row in rows if not row.extra]


def _with_inputs(rows: Iterable[Operation]) -> list[str]:
    """Return the names of the rows, with the inputs of a row before the row."""
    return list(dict.fromkeys(name for row in rows for name in (*row.inputs, row.name)))


def _outputs(rows: Sequence[Operation]) -> list[str]:
    """Return the names of the rows that read the result of a Context row."""
    contexts = {row.name for row in rows if isinstance(row.kind, Context)}
    return [row.name for row in rows if contexts & {*row.inputs} and not row.extra]


def _is_sum(row: Operation) -> bool:
    """Return True for a residual sum or a product of two arrays."""
    return len(row.inputs) == 2 and not isinstance(row.kind, Scores | Context)
