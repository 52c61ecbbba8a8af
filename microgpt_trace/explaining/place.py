"""Place: an element with the run it stands in, and what explaining it needs of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..architecture.arithmetic import Operand, elements
from ..architecture.graph import inputs_of
from ..architecture.plan import kind_of
from ..architecture.steps import Factor, Pass, Step, element_name
from ..arrays.stats import Array
from ..printable import shown_token
from ..running.token_names import token_label
from .elements import Element
from .traced import Traced


@dataclass(frozen=True, slots=True)
class Worked:
    """How an element is worked out: a formula for it, the steps, and what rounding is relative to."""

    formula: str
    steps: tuple[Step, ...]
    magnitude: float
    notes: tuple[str, ...] = ()
    stored: float | None = None  # the value of what is not computed

    @property
    def value(self) -> float:
        return self.steps[-1].value if self.stored is None else self.stored


@dataclass(frozen=True, eq=False)
class Place:
    """An element of a run; `most` terms of each sum are written out."""

    traced: Traced
    element: Element
    most: int

    @property
    def name(self) -> str:
        return self.element.name

    @property
    def index(self) -> tuple[int, ...]:
        return self.element.index

    @property
    def own(self) -> str:
        """The element as its formula names it: q[3,4]"""
        return element_name(short(self.name), self.index)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The events that the element's event is computed from."""
        return inputs_of(self.traced.rules.inputs, self.name, self.traced.model.config.n_layer)

    def factor(self, name: str, *index: int, kind: Pass = "forward") -> Factor:
        """An element of the run as a factor."""
        return Factor(element_name(name, index), self.traced.value(name, index, kind), kind)

    def row(self, name: str, *place: int, kind: Pass = "forward", within: slice | None = None) -> Operand:
        """A row of an event, its gradient or a parameter as an operand, or some of its columns."""
        own = within or slice(0, None)
        values = self.traced.row(name, *place, kind=kind)[own]
        return elements(values, name, lambda i: (*place, own.start + i), kind)

    def down(self, name: str, column: int, rows: slice, kind: Pass = "forward") -> Operand:
        """The same channel at several positions as an operand."""
        values = self.traced.column(name, column, kind)[rows]
        return elements(values, name, lambda i: (rows.start + i, column), kind)

    def parameter(self, kind: str) -> str:
        """The whole name of a parameter of the element's layer: attn_wq -> layer0.attn_wq"""
        return self.element.prefix + kind

    def behind(self, event: str) -> str:
        """The matrix behind a product."""
        own = self.traced.behind[kind_of(event)]
        return own if event == "logits" else f"{event.partition('.')[0]}.{own}"

    def channels_of(self, head: int) -> slice:
        """The columns of a head in [T, heads*D]"""
        dim = self.traced.head_dim
        return slice(head * dim, (head + 1) * dim)

    def first_key(self, query: int) -> int:
        """The first key that a query of this layer sees."""
        window = self.traced.rules.windows[self.element.layer or 0]
        return max(0, query - window + 1) if window else 0

    def keys_of(self, query: int) -> slice:
        return slice(self.first_key(query), query + 1)

    def queries_of(self, key: int) -> slice:
        """The queries of this layer that see a key."""
        window = self.traced.rules.windows[self.element.layer or 0]
        return slice(key, min(self.traced.length, key + window) if window else self.traced.length)

    def counting(self, products: Array, seen: slice) -> slice:
        """The positions that count in a sum: those that are seen, or all where a hook put something into
        what the mask leaves empty (or zero times NaN is NaN)."""
        outside = np.delete(products, np.arange(seen.start, seen.stop))
        return slice(0, len(products)) if np.any(outside != 0) else seen

    def hidden(self, query: int, key: int) -> str:
        """Why a query does not see a key, or nothing where it does."""
        if key > query:
            return f"key {key} comes after query {query}, which may not look ahead"
        if key < self.first_key(query):
            window = self.traced.rules.windows[self.element.layer or 0]
            return f"key {key} lies {query - key} positions back, and the window of this layer is {window}"
        return ""

    def tokens_from(self, first: int) -> Callable[[int], str]:
        """The labels of the tokens from a position on."""
        return lambda i: shown_token(self.traced.inputs.labels[first + i])

    def in_vocabulary(self, token: int) -> str:
        """The label of a token that may follow."""
        return token_label(self.traced.model, token, target=True)

    @property
    def scale(self) -> Factor:
        dim = self.traced.head_dim
        return Factor(f"1/sqrt({dim})", self.traced.rules.scale)


def short(name: str) -> str:
    """An event's name as a formula has it, without its layer and stage: layer0.attn.q -> q"""
    return name.rpartition(".")[2]
