"""Plan: the operations of a model, as rows in order of computation. This module needs no values and no model.

A row describes an event: the kind of operation, its parameters, and the events that it reads. Everything that
depends on a model's structure is derived from the rows. The name of an event contains its layer and stage:
layer3.attn.q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from itertools import chain, takewhile
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..arrays.stats import Array
from ..grouping import grouped
from ..hooks.event import EventSpec
from ..text.brief import one_line
from ..text.frozen import frozen
from . import kinds
from .event_parts import kind_of as kind_of
from .event_parts import layer_of as layer_of
from .event_parts import over_tokens as over_tokens
from .event_parts import prefix_of as prefix_of
from .event_parts import stage_of as stage_of
from .kinds import Kind, Length, Linear, Norm, Shape

NOTHING: Mapping[str, Any] = MappingProxyType({})
Change = Callable[["Operation"], "Operation"]
K = TypeVar("K", bound=Kind)
if TYPE_CHECKING:  # typing.TypeVar accepts `default` only since Python 3.13
    import typing_extensions

    OfKind = typing_extensions.TypeVar("OfKind", bound=Kind, default=Kind, covariant=True)
else:
    OfKind = TypeVar("OfKind", covariant=True)


@frozen(eq=False)
class Operation(EventSpec, Generic[OfKind]):
    """A row of a plan: the description of an event, and the operation that computes the event.

    `parts` are events whose sum is this event without its bias. If a hook replaces a part, the event is
    computed as the sum of the parts and the bias. A plan with a simulated fault sets `instead` or
    `otherwise`. `instead` maps the name of a parameter to a function that returns the faulty values.
    `otherwise` replaces the reference computation of the row. Rows are compared by identity.
    """

    kind: OfKind = Kind()  # type: ignore[assignment]
    inputs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    instead: Mapping[str, Callable[..., Array]] | None = None
    otherwise: Callable[..., Array] | None = None

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def bias(self) -> str | None:
        """The name of the bias, or None."""
        return self.kind.bias if isinstance(self.kind, Linear | Norm | kinds.Experts) else None

    def read(self, name: str) -> Callable[..., Array] | None:
        """Return the function that returns faulty values of a parameter, or None. The function is called with
        the parameter's name and, if only some experts are read, with their numbers."""
        return None if self.instead is None else self.instead.get(name)


class Task(NamedTuple):
    """Facts about a row that the interpreter needs to run a group of rows."""

    read: bool  # True if a row of the group reads this row, or if this row is the last
    total: Operation | None  # the row that is the sum of this row and other parts, or None
    done: tuple[str, ...]  # inputs of this row that no later row of the group reads

    def __repr__(self) -> str:
        return one_line(self, read=self.read, done=self.done)


class Heads(NamedTuple):
    """The heads of an event. `dim` is the width of a head. Query head h uses head group[h] of the event."""

    dim: int
    group: tuple[int, ...]


class Plan(Mapping[str, Operation]):
    """The rows of a model in order of computation. A plan is a mapping from the names of events to rows."""

    def __init__(self, rows: Sequence[Operation]) -> None:
        self._rows = {row.name: row for row in rows}

    def __repr__(self) -> str:
        return one_line(self, events=len(self), layers=len(self.layers))

    def __getitem__(self, name: str) -> Operation:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self) -> ValuesView[Operation]:  # 10 times as fast as the method of Mapping
        return self._rows.values()

    @cached_property
    def layers(self) -> tuple[tuple[Operation, ...], ...]:
        """The rows of each layer."""
        rows = (row for row in self.values() if row.layer is not None)
        return tuple(map(tuple, grouped(rows, attrgetter("layer")).values()))

    @cached_property
    def before(self) -> tuple[Operation, ...]:
        """The rows before the first layer."""
        return tuple(takewhile(lambda row: row.layer is None, self.values()))

    @cached_property
    def after(self) -> tuple[Operation, ...]:
        """The rows after the last layer."""
        rows = list(self.values())
        return tuple(rows[rows.index(self.layers[-1][-1]) + 1 :])

    @cached_property
    def head(self) -> tuple[Operation, ...]:
        """The rows from the product with the output matrix up to the logits."""
        stop = next(at for at, row in enumerate(self.after) if isinstance(row.kind, kinds.Probabilities))
        row = self[self.after[stop].inputs[0]]
        while not isinstance(row.kind, Linear):
            row = self[row.inputs[0]]
        return self.after[self.after.index(row) : stop]

    @cached_property
    def final(self) -> tuple[Operation, ...]:
        """The rows between the last layer and the head."""
        return self.after[: self.after.index(self.head[0])]

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The task of each row up to the logits, by the name of the row."""
        result: dict[str, Task] = {}
        for rows in (self.before, *self.layers, self.final, self.head):
            last = {name: at for at, row in enumerate(rows) for name in row.inputs}
            last |= {self.streams[0] if rows is self.before else row.name: len(rows) for row in rows[-1:]}
            for at, row in enumerate(rows):
                done = tuple(name for name in dict.fromkeys(row.inputs) if last[name] == at)
                read = row.name in last or row.name in self.lasting
                result[row.name] = Task(read, self.sums_of.get(row.name), done)
        return result

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """The events of the residual stream: the input of each layer, then the output of the last layer."""
        return (*(rows[0].inputs[0] for rows in self.layers), self.after[0].inputs[0])

    @cached_property
    def borrowed(self) -> tuple[frozenset[str], ...]:
        """For each layer, the events before the layer that it reads, besides the residual stream."""
        return tuple(
            frozenset(chain(*(row.inputs for row in rows))) - {stream, *(row.name for row in rows)}
            for rows, stream in zip(self.layers, self.streams, strict=False)
        )

    @cached_property
    def lasting(self) -> frozenset[str]:
        """The events, besides the residual stream, that later layers read."""
        return frozenset(chain(*self.borrowed))

    @cached_property
    def residuals(self) -> Mapping[str, tuple[str, str]]:
        """For each addition to the residual stream, the names of the two inputs: stream and branch."""
        result: dict[str, tuple[str, str]] = {}
        for rows in self.layers:
            stream, normed = {rows[0].inputs[0]}, set[str]()  # a sum may read the stream after a norm
            for row in rows:
                if isinstance(row.kind, Norm) and stream.intersection(row.inputs):
                    normed.add(row.name)
                if not isinstance(row.kind, kinds.Add):
                    continue
                for names in (stream, normed):
                    read = [name for name in row.inputs if name in names]
                    if len(read) == 1:
                        (branch,) = (name for name in row.inputs if name not in read)
                        result[row.name] = read[0], branch
                        stream.add(row.name)
                        break
        return result

    @cached_property
    def branches(self) -> Mapping[str, str]:
        """For the output of each branch, the event of the residual stream that the output is added to."""
        result: dict[str, str] = {}
        for stream, branch in self.residuals.values():
            parts = [branch]
            for name in parts:  # the outputs of parallel branches may be added to each other first
                if isinstance(self[name].kind, kinds.Add):
                    parts += self[name].inputs
                else:
                    result[name] = stream
        return result

    def product_of(self, branch: str) -> Operation:
        """Return the product or mixture that a branch norms, scales or adds, such as mlp.down for
        mlp.post_norm."""
        row = self[branch]
        while not isinstance(row.kind, Linear | kinds.Experts | kinds.Mixture):
            row = self[row.inputs[0]]
        return row

    def behind(self, name: str) -> Iterator[Operation]:
        """Yield an event's row. If a row is a norm, RoPE or a function of one input, also yield the row of
        the input. Example: q_rope, q_norm, q."""
        row = self[name]
        yield row
        while isinstance(row.kind, Norm | kinds.Rotation | kinds.Elementwise) and len(row.inputs) == 1:
            row = self[row.inputs[0]]
            yield row

    @cached_property
    def heads(self) -> Mapping[str, Heads]:
        """The events whose channels are heads side by side: context, v, and all forms of q and k."""
        result: dict[str, Heads] = {}
        for row in self.of_kind(kinds.Scores, kinds.Context):
            assert isinstance(row.kind, kinds.Scores | kinds.Context)
            dim, group = row.kind.head_dim, row.kind.group
            queries = row.inputs[0] if isinstance(row.kind, kinds.Scores) else row.name
            for name, used in ((queries, tuple(range(len(group)))), (row.inputs[1], group)):
                for source in self.behind(name):
                    result.setdefault(source.name, Heads(dim, used))
        return result

    @cached_property
    def chosen_by(self) -> Mapping[str, str]:
        """For each event with a part for each chosen expert, the event of the choice."""
        result: dict[str, str] = {}
        for row in self.values():
            if isinstance(row.kind, kinds.Choice):
                result[row.name] = row.name
            elif isinstance(row.kind, kinds.Routing | kinds.Experts):
                result[row.name] = row.inputs[1]
            elif isinstance(row.kind, kinds.Elementwise) and result.keys() >= {*row.inputs}:
                result[row.name] = result[row.inputs[0]]
        return result

    @cached_property
    def sums_of(self) -> Mapping[str, Operation]:
        """For each part, the row that is the sum of the parts."""
        return {part: row for row in self.values() for part in row.parts}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """The readers of each event, in order of computation. A sum also reads its parts."""
        lists: dict[str, list[str]] = {name: [] for name in self}
        for row in self.values():
            for source in (*row.inputs, *row.parts):
                lists[source].append(row.name)
        return {name: tuple(names) for name, names in lists.items()}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The place of each event in the order of computation."""
        return {name: place for place, name in enumerate(self)}

    def source(self, name: str) -> str:
        """Return the event before all norms and RoPE, such as attn.q for attn.q_rope."""
        *_, first = self.behind(name)
        return first.name

    def shapes(self, length: int) -> dict[str, Shape]:
        """Return the name and shape of every event for `length` tokens, with logits at all positions."""
        result: dict[str, Shape] = {}
        for row in self.values():
            result[row.name] = row.kind.shape([result[name] for name in row.inputs], length)
        return result

    @cached_property
    def open_shapes(self) -> Mapping[str, Shape]:
        """The shapes of events for a text of any length. A `Length` marks the number of positions."""
        return self.shapes(Length(1))

    @cached_property
    def parameters(self) -> Mapping[str, Shape]:
        """The name and shape of every parameter, in order of use. Within a layer, the gains of heads and then
        the biases follow all other parameters."""
        shapes, result = self.shapes(1), dict[str, Shape]()
        for rows in (self.before, *self.layers, self.after):
            read: list[tuple[int, str, Shape]] = []
            for row in rows:
                if isinstance(row.kind, Linear) and row.kind.columns:  # the matrix belongs to another row
                    continue
                parameters = row.kind.parameters([shapes[source] for source in row.inputs])
                read += [(_place(row, name), name, shape) for name, shape in parameters.items()]
            for _, name, shape in sorted(read, key=itemgetter(0)):
                result.setdefault(name, shape)
        return result

    def of_kind(self, *kinds: type[K]) -> list[Operation[K]]:
        """Return the rows whose kind is one of these classes."""
        rows: Iterable[Any] = self.values()
        return [row for row in rows if isinstance(row.kind, kinds)]

    def kinds(self, kind: type[K]) -> list[K]:
        """Return the kinds of all rows, limited to instances of the class `kind`."""
        return [row.kind for row in self.of_kind(kind)]

    def changed(self, change: Change) -> Plan:
        """Return a new plan with `change` applied to each row."""
        return Plan([change(row) for row in self.values()])


def _place(row: Operation, name: str) -> int:
    """Return a key that sorts the parameters of a layer: most parameters, then gains of heads, then
    biases."""
    if row.layer is None:
        return 0
    return 2 if name == row.bias else int(isinstance(row.kind, Norm) and row.kind.head_dim is not None)
