"""The components that write into a model's residual stream, a run of which their writes are kept, and what
its heads look at. Knows no text.

The components follow from a walk over the plan, from the logits back along the stream: a sum passes on both
of its parts, a norm what it reads, until a row of another kind, which writes.

Values are kept at the asked positions, as they were used. Where a hook replaced an event that is no write of
its own (attn.out, a residual), the difference that it made is kept: it is a write into the stream as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Add, Lookup, Norm, Softmax
from ..architecture.plans.plan import Operation, Plan
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import Subscription
from ..hooks.event import TraceEvent
from ..measuring.definitions import Attention, role_of
from ..measuring.heads import Queries
from .results import HeadRole, Kind, Look

if TYPE_CHECKING:
    from ..architecture.plans.plan import Plan


class Component(NamedTuple):
    """A writer: the name of its event, of a bias that of the parameter, and the row that it is of."""

    name: str
    kind: Kind
    row: Operation
    layer: int | None = None
    head: int | None = None


def passes_on(row: Operation) -> bool:
    """Whether a row on the way to the logits hands on what is written, in place of writing itself."""
    kind = row.kind
    return row.name == "logits" or isinstance(kind, Add) or (isinstance(kind, Norm) and not kind.head_dim)


def way_to_logits(plan: Plan) -> list[Operation]:
    """The rows that write into the stream, and those that pass it on up to the logits."""
    found = {"logits"}
    for row in reversed(list(plan.values())):
        if row.name in found and passes_on(row):
            found.update(row.inputs)
    return [row for row in plan.values() if row.name in found]


def components_of(model: LanguageModel) -> list[Component]:
    """All that write: their writes add up to the logits."""
    found: list[Component] = []
    for row in way_to_logits(model.plan):
        if isinstance(row.kind, Lookup):
            found.append(Component(row.name, "embedding", row, row.layer))
        elif row.parts:  # heads
            found += [Component(head, "head", row, row.layer, h) for h, head in enumerate(row.parts)]
        elif not passes_on(row):
            found.append(Component(row.name, "mlp", row, row.layer))
        if row.bias is not None:
            found.append(Component(row.bias, "bias", row, row.layer))
    return found


class Observed:
    """What a run showed at the positions `rows`: arrays [n, W] by the names of events.

    `way` are the rows that write, and those by way of which the logits see it. `writes` are as used (of a row
    with heads what it reads), `changes` what hooks added to other events, `normed` is what the norms on the
    way read.
    """

    def __init__(self, model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.writes: dict[str, Array] = {}
        self.changes: dict[str, Array] = {}
        self.normed: dict[str, Array] = {}
        self.logits = np.empty((0, 0))
        self.hooked = False  # a hook replaced something
        self._computed = np.empty((0, 0))
        self.way = way_to_logits(model.plan)
        self._norms = {row.inputs[0] for row in self.way if isinstance(row.kind, Norm) and passes_on(row)}
        self._writes = {row.inputs[0] if row.parts else row.name for row in self.way if not passes_on(row)}
        self._logits_of_all = "prompts" not in model.abilities  # else only the asked positions pass the head
        self._meter = RoleMeter(inputs.tokens, model.plan, rows)

    @property
    def roles(self) -> tuple[HeadRole, ...]:
        """What each head looked at."""
        return tuple(self._meter.roles)

    def observers(self, model: LanguageModel) -> tuple[Subscription, Subscription, Subscription]:
        """Who looks at values before the model's hooks, and who after them."""
        bus = model.hooks
        listening = bus.begin()  # a head costs a product: only where a hook may replace it
        passed_on: list[str] = []
        for row in self.way:
            passed_on += [name for name in row.parts if listening.listeners("forward", name)]
            if row.parts or passes_on(row):
                passed_on.append(row.name)
        weights = [row.name for row in model.plan.of_kind(Softmax)]
        return (
            bus.subscription(self._before, *passed_on),
            bus.subscription(self._after, *self._writes, *passed_on),
            bus.subscription(self._meter, *weights),
        )

    def _before(self, event: TraceEvent, value: Array) -> None:
        self._computed = self._rows_of(event, value)

    def _after(self, event: TraceEvent, value: Array) -> None:
        used = self._rows_of(event, value)
        if event.name in self._writes:
            self.writes[event.name] = used
        elif not np.array_equal(used, self._computed, equal_nan=True):
            self.changes[event.name] = used.astype(np.float64) - self._computed
        if event.name in self._norms:
            self.normed[event.name] = used
        if event.name == "logits":
            self.logits = used

    def _rows_of(self, event: TraceEvent, value: Array) -> Array:
        """A copy of the asked rows."""
        return value.copy() if event.name == "logits" and not self._logits_of_all else value[self.rows]


def observe(model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> Observed:
    """Run the model under its hooks."""
    seen = Observed(model, inputs, rows)
    before, *after = seen.observers(model)
    with one_blas_thread(), np.errstate(all="ignore"):
        run = model.hooks.begin(before=[before], after=after)
        model.logits(inputs, rows, run.tap("forward"))
    seen.hooked = bool(run.replaced)
    return seen


class RoleMeter:
    """A hook for attention weights that measures each layer as it passes and keeps a few numbers a head, and
    where the positions `rows` look."""

    def __init__(self, tokens: Sequence[int], plan: Plan, rows: Sequence[int]) -> None:
        self.roles: list[HeadRole] = []
        self._queries, self._plan, self._rows = Queries(np.array([tokens])), plan, list(rows)
        self._uniform: dict[int | None, Attention] = {}

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if self._queries.length < 2:
            return
        assert event.layer is not None  # weights belong to a layer
        kind = self._plan[event.name].kind
        window = kind.window if isinstance(kind, Softmax) else None
        if window not in self._uniform:
            self._uniform[window] = self._queries.even_attention(window)
        uniform = self._uniform[window]
        heads = head_names(self._plan, event.name, len(value))
        for head, attention in enumerate(self._queries.attention(value)):
            role = role_of(attention, uniform)
            looks = looks_of(value[head], self._rows)
            self.roles.append(
                HeadRole(heads[head], event.layer, head, window, attention, uniform, role, looks)
            )


def head_names(plan: Plan, weights: str, count: int) -> tuple[str, ...]:
    """What the heads that have these weights write, by name; parts of the weights where they write as one."""
    row = plan[weights]
    while not row.parts and plan.readers[row.name]:
        row = plan[plan.readers[row.name][0]]
    return row.parts or tuple(f"{weights}[{h}]" for h in range(count))


def looks_of(weights: Array, rows: Sequence[int]) -> tuple[Look, ...]:
    """Where the positions `rows` look most: [T, T] -> a Look for each"""
    return tuple(Look(row, at := int(weights[row].argmax()), float(weights[row, at])) for row in rows)
