"""The components that write into a model's residual stream, a run of which their writes are kept, what each
writes towards a logit, and what the heads look at. Knows no text.

The components follow from a walk over the plan, from the logits back along the stream: a sum passes on both
of its parts, a norm what it reads, until a row of another kind, which writes.

Values are kept at the asked positions, as they were used. Where a hook replaced an event that is no write of
its own (attn.out, a residual), the difference that it made is kept: it is a write into the stream as well.

A logit is linear in the stream once the scales of the norms that it passes are taken as computed:

    decoder    logit(v) = sum over writes w of w . (g * W_U[v] / rms),  rms of the stream at the end
    microGPT   logit(v) = sum over writes w of w . W_U[v], the embeddings divided by their norm's rms

Shape letters as in microgpt/operations.py, and: n positions, 2 tokens for each. These sums are in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel, TraceInput
from ..architecture.operations import norm
from ..architecture.plans.kinds import Add, Linear, Lookup, Norm, Softmax
from ..architecture.plans.plan import Operation, Plan
from ..arrays.encodings import CHUNK
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.event import TraceEvent
from ..measuring.definitions import role_of
from ..measuring.heads import Queries
from .results import HeadRole, Kind, Look


class Component(NamedTuple):
    """A writer: the name of its event, of a bias that of the parameter, and the row that it is of."""

    name: str
    kind: Kind
    row: Operation

    @property
    def layer(self) -> int | None:
        return self.row.layer


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
            found.append(Component(row.name, "embedding", row))
        elif row.parts:
            found += [Component(head, "head", row) for head in row.parts]
        elif not passes_on(row):
            found.append(Component(row.name, "mlp", row))
        if row.bias is not None:
            found.append(Component(row.bias, "bias", row))
    return found


@dataclass
class Observed:
    """What a run showed at the asked positions: arrays [n, W] by the names of events.

    `way` are the rows that write, and those by way of which the logits see it. `used` are their values, of a
    row with heads what it reads too, and `changes` what hooks added to events that do not write. `roles` tell
    what each head looked at; `hooked` says that a hook replaced something.
    """

    way: list[Operation]
    used: dict[str, Array] = field(default_factory=dict)
    changes: dict[str, Array] = field(default_factory=dict)
    roles: list[HeadRole] = field(default_factory=list)
    hooked: bool = False


def observe(model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> Observed:
    """Run the model under its hooks, and look at the positions `rows`."""
    seen, computed, bus = Observed(way_to_logits(model.plan)), dict[str, Array](), model.hooks
    queries, of_head_alone = Queries(np.array([inputs.tokens])), "prompts" in model.abilities

    def asked(event: TraceEvent, value: Array) -> Array:
        """A copy of the asked rows, which alone pass the head of a decoder."""
        return value.copy() if of_head_alone and event.name == "logits" else value[list(rows)]

    def before(event: TraceEvent, value: Array) -> None:
        computed[event.name] = asked(event, value)

    def after(event: TraceEvent, value: Array) -> None:
        used = seen.used[event.name] = asked(event, value)
        unchanged = computed.pop(event.name, used)
        if not np.array_equal(used, unchanged, equal_nan=True):
            seen.changes[event.name] = used.astype(np.float64) - unchanged

    def look(event: TraceEvent, value: Array) -> None:
        if queries.length > 1:
            seen.roles += roles_of(model.plan[event.name], model.plan, value, queries, rows)

    listening = bus.begin()  # a head costs a product: only where a hook may replace it
    passed_on, writes = list[str](), list[str]()
    for row in seen.way:
        passed_on += [name for name in row.parts if listening.listeners("forward", name)]
        if row.parts or passes_on(row):
            passed_on.append(row.name)
        if not passes_on(row):
            writes.append(row.inputs[0] if row.parts else row.name)
    weights = [row.name for row in model.plan.of_kind(Softmax)]
    with one_blas_thread(), np.errstate(all="ignore"):
        looking = [bus.subscription(after, *writes, *passed_on), bus.subscription(look, *weights)]
        run = bus.begin(before=[bus.subscription(before, *passed_on)], after=looking)
        model.logits(inputs, rows, run.tap("forward"))
    seen.hooked = bool(run.replaced)
    return seen


@np.errstate(all="ignore")
def direct_writes(
    model: LanguageModel, seen: Observed, tokens: Array
) -> tuple[list[Component], dict[str, Array]]:
    """What every component writes towards the logits of the tokens: [n, 2] -> by name [n, 2]

    What hooks added comes last, as components of their own, but for a head's, which is the head's.
    """
    along, found = _directions(model, seen, tokens), dict[str, Array]()
    components = components_of(model)
    for name, kind, row in components:
        bias = None if row.bias is None else model.parameter(row.bias).astype(np.float64)
        if kind == "bias":
            assert bias is not None  # a component is there
            found[name] = bias[tokens] if row.name == "logits" else along[row.name] @ bias
        elif kind != "head":
            write = seen.used[name].astype(np.float64)
            found[name] = _dot(along[name], write if bias is None else write - bias)
        elif name == row.parts[0]:
            found |= _of_heads(model, row, seen.used[row.inputs[0]], along[row.name])
    for name, change in seen.changes.items():
        is_logits = name == "logits"
        added = np.take_along_axis(change, tokens, axis=1) if is_logits else _dot(along[name], change)
        if name not in found:
            components.append(Component(name, "hook", model.plan[name]))
        found[name] = found.get(name, 0.0) + added
    return components, found


def _directions(model: LanguageModel, seen: Observed, tokens: Array) -> dict[str, Array]:
    """The direction in which a change of each event moves the logits, from these back to what writes: by name
    [n, 2, C]"""
    head = model.plan["logits"]
    assert isinstance(head.kind, Linear)
    rows = model.parameter(head.kind.weight, tokens.ravel()).astype(np.float64)
    found = {head.inputs[0]: rows.reshape(*tokens.shape, -1)}
    for row in reversed(seen.way):
        if row.name == "logits":
            continue
        along = found[row.name]
        found |= dict.fromkeys(row.parts, along)
        if not passes_on(row):
            continue
        if isinstance(row.kind, Norm):
            gain = None if row.kind.gain is None else model.parameter(row.kind.gain)
            along = norm.frozen(row.kind, along, seen.used[row.inputs[0]], gain)
        for source in row.inputs:
            found[source] = found[source] + along if source in found else along
    return found


def _of_heads(model: LanguageModel, row: Operation, read: Array, along: Array) -> dict[str, Array]:
    """Of the heads of a row: what it reads . (u @ W), head by head, without forming a head's [n, C]"""
    assert isinstance(row.kind, Linear)
    back = _times(model, row.kind.weight, along.reshape(-1, along.shape[2]))  # [n*2, in]
    products, found = read.astype(np.float64)[:, None] * back.reshape(*along.shape[:2], -1), {}
    for name in row.parts:
        head = model.plan[name].kind
        assert isinstance(head, Linear)
        found[name] = products[:, :, slice(*head.columns or (None,))].sum(axis=2)
    return found


def _times(model: LanguageModel, name: str, along: Array) -> Array:
    """u @ W: [N, C] -> [N, in], a few rows of W at a time, which may have to be decoded"""
    height, width = model.plan.parameters[name]
    size = max(1, CHUNK // width)
    parts = [slice(start, start + size) for start in range(0, height, size)]
    return np.sum([along[:, own] @ model.parameter(name, own) for own in parts], axis=0)


def _dot(along: Array, write: Array) -> Array:
    """[n, 2, C], [n, C] -> [n, 2]"""
    return np.einsum("nvc,nc->nv", along, write)


def roles_of(
    row: Operation, plan: Plan, weights: Array, queries: Queries, rows: Sequence[int]
) -> Iterator[HeadRole]:
    """What each head of a layer looks at, by its weights [H, T, T], and where the positions `rows` look."""
    assert isinstance(row.kind, Softmax)
    assert row.layer is not None  # weights belong to a layer
    window = row.kind.window
    uniform = queries.even_attention(window)
    names = head_names(plan, row.name, len(weights))
    for head, attention in enumerate(queries.attention(weights)):
        own, role = weights[head], role_of(attention, uniform)
        looks = tuple(Look(i, at := int(own[i].argmax()), float(own[i, at])) for i in rows)
        yield HeadRole(names[head], row.layer, head, window, attention, uniform, role, looks)


def head_names(plan: Plan, weights: str, count: int) -> tuple[str, ...]:
    """What the heads that have these weights write, by name; parts of the weights where they write as one."""
    row = plan[weights]
    while not row.parts and plan.readers[row.name]:
        row = plan[plan.readers[row.name][0]]
    return row.parts or tuple(f"{weights}[{h}]" for h in range(count))
