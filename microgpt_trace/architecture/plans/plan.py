"""Plan: how a model computes, as rows in order of computation. Knows no values and no model.

A row says what an event is: its kind, the events that it reads, its parameters by way of the kind. All that
depends on the structure of a model follows from its rows. An event's stage and layer are in its name:
layer3.attn.q.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ...arrays.stats import Array
from ...grouping import grouped
from ...hooks.event import EventSpec
from ...text.brief import one_line
from .kinds import Add, Context, Kind, Length, Linear, Norm, Probabilities, Rotation, Scores, Shape

NOTHING: Mapping[str, Any] = MappingProxyType({})
_LAYER = re.compile(r"layer([0-9]+)\.")
HEAD_EVENTS = ("logits", "probs")  # may have rows of some positions alone; their columns are tokens
Change = Callable[["Operation"], "Operation"]
K = TypeVar("K", bound=Kind)
if TYPE_CHECKING:  # typing.TypeVar has defaults from Python 3.13 on
    import typing_extensions

    OfKind = typing_extensions.TypeVar("OfKind", bound=Kind, default=Kind, covariant=True)
else:
    OfKind = TypeVar("OfKind", covariant=True)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Operation(EventSpec, Generic[OfKind]):
    """A row of a plan: what is known of an event before a run, and how it is computed.

    `parts` are events that add up to it (but for its bias): where a hook replaces one of them, their sum
    stands in its place. In a faulty plan `instead` gives what is read in the place of a parameter, from its
    name, and `otherwise` computes the row in the place of its kind's reference. Rows are the same only where
    they are one row.
    """

    kind: OfKind = Kind()  # type: ignore[assignment]  # noqa: RUF009
    inputs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    instead: Mapping[str, Callable[[str], Array]] | None = None
    otherwise: Callable[..., Array] | None = None

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def bias(self) -> str | None:
        """The parameter that is added last, where one is."""
        return self.kind.bias if isinstance(self.kind, Linear | Norm) else None

    def read(self, name: str) -> Callable[[str], Array] | None:
        """What is read in the place of a parameter, if anything is."""
        return None if self.instead is None else self.instead.get(name)


class Task(NamedTuple):
    """What running a row among others asks: whether one of them reads it (or what follows them, the last
    one), which row it is a part of, and what no row after it reads."""

    read: bool
    whole: Operation | None
    done: tuple[str, ...]

    def __repr__(self) -> str:
        return one_line(self, read=self.read, done=self.done)


class Heads(NamedTuple):
    """The heads that an event's channels are: the width of one, and which of them each query's head has."""

    dim: int
    group: tuple[int, ...]


class Plan(Mapping[str, Operation]):
    """The rows of a model by the names of their events, in order of computation."""

    def __init__(self, rows: Sequence[Operation]) -> None:
        self._rows = {own.name: own for own in rows}

    def __repr__(self) -> str:
        return one_line(self, events=len(self), layers=len(self.layers))

    def __getitem__(self, name: str) -> Operation:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def layers(self) -> tuple[tuple[Operation, ...], ...]:
        """The rows of each layer."""
        rows = (own for own in self.values() if own.layer is not None)
        return tuple(map(tuple, grouped(rows, attrgetter("layer")).values()))

    @cached_property
    def before(self) -> tuple[Operation, ...]:
        """The rows before the first layer."""
        return tuple(takewhile(lambda own: own.layer is None, self.values()))

    @cached_property
    def after(self) -> tuple[Operation, ...]:
        """The rows after the last layer."""
        rows = list(self.values())
        return tuple(rows[rows.index(self.layers[-1][-1]) + 1 :])

    @cached_property
    def head(self) -> tuple[Operation, ...]:
        """The rows from the matrix that makes logits up to the logits."""
        stop = next(at for at, own in enumerate(self.after) if isinstance(own.kind, Probabilities))
        row = self[self.after[stop].inputs[0]]
        while not isinstance(row.kind, Linear):
            row = self[row.inputs[0]]
        return self.after[self.after.index(row) : stop]

    @cached_property
    def final(self) -> tuple[Operation, ...]:
        """The rows between the layers and the head."""
        return self.after[: self.after.index(self.head[0])]

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """What running each row up to the logits asks, among those that it runs with."""
        found: dict[str, Task] = {}
        for rows in (self.before, *self.layers, self.final, self.head):
            last = {name: at for at, own in enumerate(rows) for name in own.inputs}
            for at, own in enumerate(rows):
                done = tuple(name for name in dict.fromkeys(own.inputs) if last[name] == at)
                read = own.name in last or own is rows[-1]
                found[own.name] = Task(read, self.sums_of.get(own.name), done)
        return found

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """The event that enters each layer, and the one that leaves the last."""
        return (*(rows[0].inputs[0] for rows in self.layers), self.after[0].inputs[0])

    @cached_property
    def residuals(self) -> Mapping[str, tuple[str, str]]:
        """The sums by which layers write into the stream, each with what it reads of the stream and the
        branch that it adds."""
        found: dict[str, tuple[str, str]] = {}
        for rows in self.layers:
            stream, normed = {rows[0].inputs[0]}, set[str]()  # a norm behind a sum goes on with the stream
            for own in rows:
                if isinstance(own.kind, Norm) and stream.intersection(own.inputs):
                    normed.add(own.name)
                if not isinstance(own.kind, Add):
                    continue
                for known in (stream, normed):
                    read = [name for name in own.inputs if name in known]
                    if len(read) == 1:
                        (branch,) = (name for name in own.inputs if name not in read)
                        found[own.name] = read[0], branch
                        stream.add(own.name)
                        break
        return found

    @cached_property
    def branches(self) -> Mapping[str, str]:
        """What the branches of layers write, and of each the event of the stream that it is added to."""
        found: dict[str, str] = {}
        for stream, branch in self.residuals.values():
            parts = [branch]
            for name in parts:  # branches side by side may be added up first
                if isinstance(self[name].kind, Add):
                    parts += self[name].inputs
                else:
                    found[name] = stream
        return found

    def behind(self, name: str) -> Iterator[Operation]:
        """The rows that an event's values come from: itself, and back through norms and RoPE up to the first
        of another kind. Of q_rope: q_rope, q_norm, q."""
        row = self[name]
        yield row
        while isinstance(row.kind, Norm | Rotation):
            row = self[row.inputs[0]]
            yield row

    @cached_property
    def heads(self) -> Mapping[str, Heads]:
        """The events whose rows are heads side by side: contexts, and what these and scores are made of."""
        found: dict[str, Heads] = {}
        for own in self.of_kind(Scores, Context):
            assert isinstance(own.kind, Scores | Context)
            group, of_queries = own.kind.group, own.inputs[0] if isinstance(own.kind, Scores) else own.name
            for name, which in ((of_queries, tuple(range(len(group)))), (own.inputs[1], group)):
                for row in self.behind(name):
                    found.setdefault(row.name, Heads(own.kind.head_dim, which))
        return found

    @cached_property
    def sums_of(self) -> Mapping[str, Operation]:
        """The row that each part of one adds up to."""
        return {part: own for own in self.values() for part in own.parts}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Which events read each event, in order of computation. A part is read by its sum."""
        found: dict[str, list[str]] = {name: [] for name in self}
        for own in self.values():
            for source in (*own.inputs, *own.parts):
                found[source].append(own.name)
        return {name: tuple(names) for name, names in found.items()}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The place of each event."""
        return {name: place for place, name in enumerate(self)}

    def source(self, name: str) -> str:
        """Where the values of an event come from, before norms and RoPE: the q that q_rope is of."""
        *_, first = self.behind(name)
        return first.name

    def shapes(self, length: int) -> dict[str, Shape]:
        """Name and shape of every event for `length` tokens, all positions of the logits included."""
        found: dict[str, Shape] = {}
        for own in self.values():
            found[own.name] = own.kind.shape([found[name] for name in own.inputs], length)
        return found

    @cached_property
    def open_shapes(self) -> Mapping[str, Shape]:
        """Those of a text of any length, the number of positions told from other sizes."""
        return self.shapes(Length(1))

    @cached_property
    def parameters(self) -> Mapping[str, Shape]:
        """Name and shape of every parameter, in order of use; a layer's gains of heads and biases last."""
        shapes, found = self.shapes(1), dict[str, Shape]()
        for rows in (self.before, *self.layers, self.after):
            read: list[tuple[int, str, Shape]] = []
            for own in rows:
                if isinstance(own.kind, Linear) and own.kind.columns:  # a share of what another row has
                    continue
                named = own.kind.parameters([shapes[source] for source in own.inputs])
                read += [(_place(own, name), name, shape) for name, shape in named.items()]
            for _, name, shape in sorted(read, key=itemgetter(0)):
                found.setdefault(name, shape)
        return found

    def of_kind(self, *kinds: type[K]) -> list[Operation[K]]:
        """The rows of these kinds."""
        rows: Iterable[Any] = self.values()
        return [own for own in rows if isinstance(own.kind, kinds)]

    def kinds(self, kind: type[K]) -> list[K]:
        """The kinds of the rows of one kind."""
        return [own.kind for own in self.of_kind(kind)]

    def changed(self, change: Change) -> Plan:
        """The plan with each row changed."""
        return Plan([change(row) for row in self.values()])


def _place(own: Operation, name: str) -> int:
    """Where a row's parameter is listed among those of its layer."""
    if own.layer is None:
        return 0
    return 2 if name == own.bias else int(isinstance(own.kind, Norm) and own.kind.head_dim is not None)


def kind_of(name: str) -> str:
    """An event's or parameter's name without its layer (and its head): layer3.attn.q -> attn.q"""
    kind = name.partition(".")[2] if name.startswith("layer") else name
    return "attn.head" if kind.startswith("attn.head") else kind


def layer_of(name: str) -> int | None:
    """3 of layer3.attn.q, None of logits, or of what only looks like a layer's"""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def prefix_of(name: str) -> str:
    """ "layer3." of layer3.attn.q, nothing of logits"""
    layer = layer_of(name)
    return "" if layer is None else f"layer{layer}."


def stage_of(name: str) -> str:
    """The stage that an event or a parameter belongs to, by its name with or without a layer."""
    kind = kind_of(name)
    if kind.startswith(("attn", "mlp")):
        return "attention" if kind.startswith("attn") else "mlp"
    return "embedding" if kind.startswith("embed") or kind in ("wte", "wpe") else "head"
