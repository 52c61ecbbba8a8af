"""Find the components that write to the residual stream, and compute the contribution of each component to a
logit and the roles of the heads. This module reads no text.

To find the components, this module follows the plan from the logits back along the residual stream. Rows of
the kinds Add, Norm and Scale, and the rows of the head, pass on their inputs. Every other row is a component.

The stored values at the requested positions include all changes by hooks. If a hook replaced an event that no
component writes (attn.out, a residual), the change counts as a component of the kind "hook".

A logit is linear in the writes if the scale of every later norm is constant. If logits are capped, the share
of each logit that the cap leaves is also constant:

    decoder    logit(v) = sum over writes w of w . (g * W_U[v] / rms),  rms of the stream at the end
    microGPT   logit(v) = sum over writes w of w . W_U[v], the embeddings divided by their norm's rms

microgpt/operations.py explains the letters in shapes. [n, 2] means 2 tokens at each of n positions. Sums are
float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..arrays.encodings import CHUNK
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.event import TraceEvent
from ..measuring.attention_meter import Queries
from ..measuring.definitions import role_of
from ..models.language_model import LanguageModel, TraceInput
from ..operations import norm
from ..operations.elementwise import capped
from ..patching.points import passes_on
from ..plans.kinds import Cap, Linear, Lookup, Norm, Scale, Softmax
from ..plans.plan import Operation, Plan, over_tokens
from .results import HeadRole, Kind, Look


class Component(NamedTuple):
    """A component that writes to the residual stream. `name` names an event or a bias parameter."""

    name: str
    kind: Kind
    row: Operation


def way_to(plan: Plan, end: str) -> list[Operation]:
    """Return the rows that write to the residual stream before an event, and the rows between these writes
    and the event: the logits, or what attention reads."""
    names = {end}
    for row in reversed(list(plan.values())):
        if row.name in names and passes_on(row):
            names.update(row.inputs)
    return [row for row in plan.values() if row.name in names]


def components_of(model: LanguageModel, end: str = "logits") -> list[Component]:
    """Return all components. The writes of all components add up to the event `end`."""
    components: list[Component] = []
    for row in way_to(model.plan, end):
        if isinstance(row.kind, Lookup):
            components.append(Component(row.name, "embedding", row))
        elif row.parts:
            components += [Component(head, "head", row) for head in row.parts]
        elif not passes_on(row):
            components.append(Component(row.name, "mlp", row))
        if row.bias is not None:
            components.append(Component(row.bias, "bias", row))
    return components


@dataclass
class Observed:
    """The values of a run at the requested positions: arrays [n, W] by the names of events."""

    way: list[Operation]  # the result of `way_to`
    used: dict[str, Array] = field(default_factory=dict)  # values that attribution reads, after hooks
    changes: dict[str, Array] = field(default_factory=dict)  # what hooks added to an event
    roles: list[HeadRole] = field(default_factory=list)
    hooked: bool = False  # True if a hook replaced a value


def observe(model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> Observed:
    """Run the model with its hooks, and keep the values that attribution needs at the positions `rows`."""
    seen, computed, bus = Observed(way_to(model.plan, "logits")), dict[str, Array](), model.hooks
    queries = Queries(np.array([inputs.tokens]))

    def requested(event: TraceEvent, value: Array) -> Array:
        """Return the rows at the requested positions, the only positions with logits."""
        return value.copy() if over_tokens(event.name) else value[list(rows)]

    def before(event: TraceEvent, value: Array) -> None:
        computed[event.name] = requested(event, value)

    def after(event: TraceEvent, value: Array) -> None:
        used = seen.used[event.name] = requested(event, value)
        unchanged = computed.pop(event.name, used)
        if not np.array_equal(used, unchanged, equal_nan=True):
            seen.changes[event.name] = used.astype(np.float64) - unchanged

    def look(event: TraceEvent, value: Array) -> None:
        if queries.length > 1:
            seen.roles += roles_of(model.plan[event.name], model.plan, value, queries, rows)

    listening = bus.begin()  # a head's output costs a product, so request only the outputs that hooks receive
    passed_on, writes = list[str](), list[str]()
    for row in seen.way:
        passed_on += [name for name in row.parts if listening.listeners("forward", name)]
        if row.parts or passes_on(row):
            passed_on.append(row.name)
        if not passes_on(row):
            writes.append(row.inputs[0] if row.parts else row.name)
    weights = [row.name for row in model.plan.of_kind(Softmax)]
    with one_blas_thread(), np.errstate(all="ignore"):
        last = [bus.subscription(after, *writes, *passed_on), bus.subscription(look, *weights)]
        run = bus.begin(before=[bus.subscription(before, *passed_on)], after=last)
        model.logits(inputs, rows, run.tap("forward"))
    seen.hooked = bool(run.replaced)
    return seen


@np.errstate(all="ignore")
def direct_writes(
    model: LanguageModel, seen: Observed, tokens: Array, along: Mapping[str, Array] | None = None
) -> tuple[list[Component], dict[str, Array]]:
    """Return the components and, by name, their contributions to the logits of `tokens`: [n, 2] -> [n, 2].
    Instead of tokens, `along` may have K directions [n, K, C] in an event, to which components add: [n, K]

    The last components are changes by hooks. A change of a head's output counts as part of the head's write.
    """
    along, result = dict(along or {"logits": np.ones(tokens.shape)}), dict[str, Array]()
    components = components_of(model, *along)
    _directions(model, seen, tokens, along)
    for name, kind, row in components:
        bias = None if row.bias is None else model.parameter(row.bias).astype(np.float64)
        if kind == "bias":
            assert bias is not None  # each bias component comes from a row with a bias
            result[name] = _dot(along[row.name], bias, tokens)
        elif kind != "head":
            write = seen.used[name].astype(np.float64)
            result[name] = _dot(along[name], write if bias is None else write - bias, tokens)
        elif name == row.parts[0]:
            result |= _head_writes(model, row, seen.used[row.inputs[0]], along[row.name])
    for name, change in seen.changes.items():
        if name not in result:
            components.append(Component(name, "hook", model.plan[name]))
        result[name] = result.get(name, 0.0) + _dot(along[name], change, tokens)
    return components, result


def _directions(model: LanguageModel, seen: Observed, tokens: Array, result: dict[str, Array]) -> None:
    """Add the gradients of the tokens' logits with respect to the events of `seen.way`: [n, 2, C]. For an
    event with a number for each token, add the gradient with respect to the token's number: [n, 2]."""
    for row in reversed(seen.way):
        along = result[row.name]
        result |= dict.fromkeys(row.parts, along)
        if not passes_on(row):
            continue
        if isinstance(row.kind, Scale):
            along = along * row.kind.factor
        elif isinstance(row.kind, Cap):  # the share of each logit that the cap leaves
            raw = np.take_along_axis(seen.used[row.inputs[0]], tokens, axis=1).astype(np.float64)
            along = along * np.divide(capped(raw, row.kind.limit), raw, out=np.ones_like(raw), where=raw != 0)
        elif isinstance(row.kind, Linear):
            rows = model.parameter(row.kind.weight, tokens.ravel()).astype(np.float64)
            along = along[..., None] * rows.reshape(*tokens.shape, -1)
        elif isinstance(row.kind, Norm):
            gain = None if row.kind.gain is None else model.parameter(row.kind.gain)
            along = norm.frozen(row.kind, along, seen.used[row.inputs[0]], gain)
        for source in row.inputs:
            result[source] = result[source] + along if source in result else along


def _head_writes(model: LanguageModel, row: Operation, read: Array, along: Array) -> dict[str, Array]:
    """Return what each head adds to the logits: context . (along @ W) over the head's columns. The array [n,
    C] of a head's write is not computed."""
    assert isinstance(row.kind, Linear)
    back = times_matrix(model, row.kind.weight, along.reshape(-1, along.shape[2]))  # [n*2, in]
    products, writes = read.astype(np.float64)[:, None] * back.reshape(*along.shape[:2], -1), {}
    for name in row.parts:
        head = model.plan[name].kind
        assert isinstance(head, Linear)
        writes[name] = products[:, :, slice(*head.columns or (None,))].sum(axis=2)
    return writes


def times_matrix(model: LanguageModel, name: str, along: Array) -> Array:
    """Return along @ W: [N, C] -> [N, in]. To save memory, only a few rows of W at a time are decoded."""
    height, width = model.plan.parameters[name]
    size = max(1, CHUNK // width)
    parts = [slice(start, start + size) for start in range(0, height, size)]
    return np.sum([along[:, part] @ model.parameter(name, part) for part in parts], axis=0)


def _dot(along: Array, write: Array, tokens: Array) -> Array:
    """Return what a write adds to the tokens' logits: [n, 2, C], [n, C] or [C] -> [n, 2]. If the write has a
    number for each token, `along` [n, 2] multiplies the number of the token."""
    if along.ndim == 2:
        return along * (write[tokens] if write.ndim == 1 else np.take_along_axis(write, tokens, axis=1))
    return np.einsum("nvc,nc->nv", along, write) if write.ndim == 2 else along @ write


def roles_of(
    row: Operation, plan: Plan, weights: Array, queries: Queries, rows: Sequence[int]
) -> Iterator[HeadRole]:
    """Yield the role of each head of a layer, from the layer's attention weights [H, T, T]. A role lists the
    head's largest weight at each position of `rows`."""
    assert isinstance(row.kind, Softmax)
    assert row.layer is not None  # attention weights belong to a layer
    window = row.kind.window
    uniform = queries.even_attention(window)
    names = head_names(plan, row.name, len(weights))
    for head, attention in enumerate(queries.attention(weights)):
        role = role_of(attention, uniform)
        looks = tuple(
            Look(i, at := int(weights[head, i].argmax()), float(weights[head, i, at])) for i in rows
        )
        yield HeadRole(names[head], row.layer, head, window, attention, uniform, role, looks)


def head_names(plan: Plan, weights: str, count: int) -> tuple[str, ...]:
    """Return the names of the heads' output events, or NAME[h] if the plan has no such events."""
    row = plan[weights]
    while not row.parts and plan.readers[row.name]:
        row = plan[plan.readers[row.name][0]]
    return row.parts or tuple(f"{weights}[{h}]" for h in range(count))
