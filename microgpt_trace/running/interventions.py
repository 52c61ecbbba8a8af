"""Interventions: changes of a run's events, and the hooks that carry them out.

    Intervention("ablate", "layer0.attn.head2")              zeros
    Intervention("ablate-mean", "layer0.mlp.down")           the mean over the positions
    Intervention("scale", "layer*.mlp.act@-1", 0.5)          times 0.5
    Intervention("patch", "layer1.mlp.residual@3", source=r) what another run had there
    Intervention("add", "layer1.mlp.residual", 4.0, v)       and 4 times a steering vector

What is put in place of a value (zeros, means, another run's values) is a constant: no gradient flows
through it. Scaling and adding keep the gradient, as the chain rule has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from ..architecture.edits import Applied
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Loss
from ..architecture.plans.plan import HEAD_EVENTS, Operation
from ..arrays.stats import Array, causal_mask
from ..errors import InputError
from ..hooks.bus import Hook, HookBus, Subscription
from ..hooks.event import Replacement, TraceEvent
from ..hooks.sites import Part, Site, parse_site
from ..text.brief import frozen
from .token_names import token_of

Kind = Literal["ablate", "ablate-mean", "scale", "patch", "add"]


@runtime_checkable
class SavedRun(Protocol):
    """What another run left behind: its values of our events, and the tokens that it read, if it says."""

    @property
    def tokens(self) -> tuple[int, ...] | None: ...

    def values_of(
        self, name: str, model: LanguageModel, length: int, alone: bool = False
    ) -> tuple[Array, Sequence[int] | None]:
        """As `Recording.values_of` in dumps/."""


Source = SavedRun | Mapping[str, Array] | Array


@frozen(slots=False, eq=False)
class Intervention:
    """A change of the events that `target` names: a name, glob or stage of apr, with a part of it
    behind @ or in brackets (see `sites`).

    `source` is what "patch" and "add" take values from: arrays by name, a recording of another run, or
    for "add" one array, [C] for every position or [T, C]. `factor` is that of "scale", or multiplies
    what "add" adds. Raises InputError for what does not go together.
    """

    kind: Kind
    target: str
    factor: float = 1.0
    source: Source | None = field(default=None, repr=False)
    origin: str = ""  # how the source is called

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            raise InputError(f"an intervention is one of {kinds}, found {self.kind!r}")
        if not math.isfinite(self.factor):
            raise InputError(f"{self.target}: expected a finite factor, found {self.factor}")
        if (self.source is not None) != (self.kind in ("patch", "add")):
            needs = "needs" if self.kind in ("patch", "add") else "takes no"
            raise InputError(f"{self.kind} {self.target}: {needs} source of values")
        parse_site(self.target)

    def describe(self) -> str:
        """In words: "zero", "× 0.5", "+ 4 × happy.npy"."""
        source = self.origin or "values"
        return {
            "ablate": "zero", "ablate-mean": "mean over the positions", "scale": f"× {self.factor:g}",
            "patch": f"from {source}", "add": f"+ {self.factor:g} × {source}",
        }[self.kind]  # fmt: skip


class Changed(NamedTuple):
    """What a change makes of a value: the new one, its slope, and where it could be made."""

    value: Any
    slope: float
    where: Array | bool = True


Change = Callable[[Array, Sequence[int]], Changed]  # of a value whose rows have these positions


class Editor:
    """The interventions of one trace, resolved for a model and what it reads.

    `rows` are the positions that logits and probs have. Before a pass whose first position is not 0,
    `start` is set to it.
    """

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, rows: Sequence[int],
        interventions: Sequence[Intervention],
    ) -> None:  # fmt: skip
        self.start, self._model, self._rows, self._interventions = 0, model, rows, interventions
        self._inputs, self._length = inputs, len(inputs.tokens)
        self._shapes = model.plan.shapes(self._length)
        self._hooks: list[tuple[str, Hook]] = []
        applied: list[Applied] = []
        for intervention in interventions:
            site = parse_site(intervention.target)
            if site.selector in model.config.shapes() and site.selector != "lm_head":
                raise InputError(f"{intervention.target} is a parameter: interventions change events")
            parts = {name: self._part(site, name) for name in site.names(list(model.plan))}
            try:
                applied.append(self._resolve(intervention, site, parts))
            except InputError as error:
                raise InputError(f"{intervention.kind} {intervention.target}: {error}") from error
        self.applied = tuple(applied)

    def afresh(self) -> Editor:
        """The same for another pass: means are those of the pass."""
        return Editor(self._model, self._inputs, self._rows, self._interventions)

    def subscriptions(self, bus: HookBus) -> list[Subscription]:
        """The hooks that carry out the interventions, in their order."""
        return [bus.subscription(hook, name) for name, hook in self._hooks]

    @property
    def names(self) -> set[str]:
        """The events that are changed."""
        return {name for name, _ in self._hooks}

    def _part(self, site: Site, name: str) -> Part:
        words = partial(token_of, self._model) if name in HEAD_EVENTS else None
        return site.part(name, self._shapes[name], words)

    def _resolve(self, intervention: Intervention, site: Site, parts: dict[str, Part]) -> Applied:
        if all(self._inputs.targets[row] is None for row in self._rows):
            parts.pop("loss", None)
        if not parts:
            raise InputError("no loss is computed here")
        elements = 0
        for name, part in parts.items():
            _check(intervention.kind, self._model.plan[name], part, self._rows, self._length)
            change = self._change(intervention, site, name, part)
            self._hooks.append((name, self._hook(part, change)))
            rows = self._rows if name in HEAD_EVENTS else range(self._length)
            shape = (len(rows), *self._shapes[name][1:]) if name in HEAD_EVENTS else self._shapes[name]
            elements += int(np.count_nonzero(_seen(part, shape, rows)))
        if not elements:
            raise InputError("the mask hides all of it")
        text = intervention.describe() + self._of_other_tokens(intervention.source)
        return Applied(intervention.kind, intervention.target, text, tuple(parts), elements)

    def _of_other_tokens(self, source: Source | None) -> str:
        """A remark where a source is known to have read something else."""
        read = source.tokens if isinstance(source, SavedRun) else None
        return "" if read is None or read == self._inputs.tokens else ", which read other tokens"

    def _positions(self, name: str, value: Array) -> Sequence[int]:
        """The positions of a value's rows."""
        if self.start == 0 and name in HEAD_EVENTS:
            return self._rows
        return range(self.start, self.start + (value.shape[-2] if value.ndim > 1 else 0))

    def _hook(self, part: Part, change: Change) -> Hook:
        def intervention(event: TraceEvent, value: Array) -> Replacement | None:
            positions = self._positions(event.name, value)
            changed = change(value, positions)
            mask = _seen(part, value.shape, positions) & changed.where
            if not mask.any():  # of a step of a continuation, which has other positions
                return None
            new = np.where(mask, changed.value, value).astype(value.dtype, copy=False)
            return Replacement(new, np.where(mask, changed.slope, 1).astype(value.dtype))

        return intervention

    def _change(self, intervention: Intervention, site: Site, name: str, part: Part) -> Change:
        if intervention.kind == "ablate":
            return lambda value, positions: Changed(0, 0)
        if intervention.kind == "scale":
            factor = intervention.factor
            return lambda value, positions: Changed(value * value.dtype.type(factor), factor)
        if intervention.kind == "ablate-mean":
            return _mean_of_prompt()
        array, known = _values(intervention, name, self._model, self._length)
        source = intervention.origin or "the source"
        named = site.position != "" and not site.position.startswith("-") and ",-" not in site.position
        if name not in HEAD_EVENTS and known is not None and not named and len(known) != self._length:
            raise InputError(
                f"{source} has {len(known):,} positions of {name} and this text {self._length:,}; name one "
                f"from the front, as {site.selector}@3"
            )
        positions = part.positions or (self._rows if name in HEAD_EVENTS else range(self._length))
        missing = [] if known is None else [p for p in positions if p not in known]
        if missing:
            raise InputError(f"{source} has no position {missing[0]} of {name}")
        rows = _rows_of(array, known)
        if intervention.kind == "patch":
            return lambda value, positions: Changed(rows(positions)[0], 0, rows(positions)[1])
        factor = intervention.factor
        return lambda value, positions: Changed(
            value + value.dtype.type(factor) * rows(positions)[0], 1, rows(positions)[1]
        )


def _seen(part: Part, shape: Sequence[int], rows: Sequence[int]) -> Array:
    """Where the part is, of attention without what the causal mask hides."""
    mask = part.mask(shape, rows)
    return mask & causal_mask(shape[1], shape[2]) if len(shape) == 3 else mask


def _check(kind: Kind, row: Operation, part: Part, rows: Sequence[int], length: int) -> None:
    """Raises InputError for what would do nothing, or look ahead."""
    of_head = row.name in HEAD_EVENTS
    if kind == "ablate-mean":
        if length == 1:
            raise InputError("a single position is its own mean")
        if of_head and len(rows) < length:
            raise InputError(f"not all positions get {row.name} here (--positions)")
        if row.causal or isinstance(row.kind, Loss):
            why = "would let a query attend to later positions" if row.causal else "has no positions"
            raise InputError(f"the mean of {row.name} over the positions {why}")
    lacking = [position for position in part.positions or () if of_head and position not in rows]
    if lacking:
        raise InputError(f"position {lacking[0]} gets no {row.name} here (--positions)")


def _mean_of_prompt() -> Change:
    """The mean over the positions of the first pass, which the steps of a continuation go on with."""
    known: list[Array] = []

    def change(value: Array, positions: Sequence[int]) -> Changed:
        if not known:
            known.append(value.mean(axis=-2, keepdims=True, dtype=np.float64))
        return Changed(known[0], 0)

    return change


def _values(
    intervention: Intervention, name: str, model: LanguageModel, length: int
) -> tuple[Array, Sequence[int] | None]:
    """What a source has for an event, [T, W] or [H, T, T], and the positions of its rows (None: one row
    for every position)."""
    source, shape = intervention.source, model.plan.shapes(length)[name]
    known: Sequence[int] | None = None
    if isinstance(source, SavedRun):
        array, known = source.values_of(name, model, length, alone=intervention.kind == "add")
    elif isinstance(source, Mapping) and name not in source:
        raise InputError(f"the source has no {name}")
    else:
        array = np.asarray(source[name] if isinstance(source, Mapping) else source)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"expected floating-point values, found {array.dtype}")
    if not shape and array.size == 1:
        return array.reshape(()), None
    vector = intervention.kind == "add" and len(shape) == 2
    if vector and array.size == shape[-1] and not known:
        return array.reshape(1, -1), None
    square = array.ndim == len(shape) > 1
    if not square or array.shape[-1] != shape[-1] or array.shape[:-2] != shape[:-2]:
        either = f" or [{shape[-1]}]" if vector else ""
        raise InputError(f"{name} is {list(shape)}{either}, found {list(array.shape)}")
    return array, range(array.shape[-2]) if known is None else known


def _rows_of(array: Array, known: Sequence[int] | None) -> Callable[[Sequence[int]], tuple[Array, Any]]:
    """The rows of [T, W] or [H, T, S] at some positions, and where there are such: booleans [n, 1]."""
    if known is None:
        return lambda positions: (array, True)
    at = {position: row for row, position in enumerate(known)}

    def rows(positions: Sequence[int]) -> tuple[Array, Any]:
        found = np.array([position in at for position in positions])
        if not found.any():
            return np.zeros(()), False
        taken = array.take([at.get(position, 0) for position in positions], axis=-2)
        return taken, found[:, None]

    return rows
