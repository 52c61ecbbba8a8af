"""Interventions: changes of the events of a run, and the hooks that make these changes.

    Intervention("ablate", "layer0.attn.head2")              zeros
    Intervention("ablate-mean", "layer0.mlp.down")           the mean over the positions
    Intervention("scale", "layer*.mlp.act@-1", 0.5)          times 0.5
    Intervention("patch", "layer1.mlp.residual@3", source=r) the value of another run
    Intervention("add", "layer1.mlp.residual", 4.0, v)       plus 4 times a steering vector

Zeros, means and values of another run are constants, so no gradient flows through them. A gradient flows
through scaling and adding, by the chain rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from ..arrays.stats import Array, causal_mask
from ..errors import InputError, naming
from ..hooks.bus import Hook, HookBus, Subscription
from ..hooks.event import Replacement, TraceEvent
from ..models.language_model import LanguageModel, TraceInput
from ..plans.kinds import Loss
from ..plans.plan import Operation, over_tokens
from ..selection.sites import Part, Site, parse_site
from ..selection.token_names import token_of
from ..text.frozen import frozen
from .applied import Applied

Kind = Literal["ablate", "ablate-mean", "scale", "patch", "add"]


@runtime_checkable
class SavedRun(Protocol):
    """The saved values of another run, and the tokens of this run if they are known."""

    @property
    def tokens(self) -> tuple[int, ...] | None: ...

    def values_of(
        self, name: str, model: LanguageModel, length: int, alone: bool = False
    ) -> tuple[Array, Sequence[int] | None]:
        """Return values as `Recording.values_of` in dumps/ does."""


Source = SavedRun | Mapping[str, Array] | Array


@frozen(slots=False, eq=False)
class Intervention:
    """A change of the events that `target` names. `target` is a name, a glob or a stage of apr, with an
    optional part after @ or in brackets (see selection/sites.py).

    "patch" and "add" take their values from `source`: arrays by name, a recording of another run, or for
    "add" one array, [C] for every position or [T, C]. `factor` is the factor of "scale", or multiplies the
    array of "add". Raises InputError for an unknown kind, a factor that is not finite, or a source that is
    missing or not used.
    """

    kind: Kind
    target: str
    factor: float = 1.0
    source: Source | None = field(default=None, repr=False)
    origin: str = ""  # the name of `source` in messages

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            raise InputError(f"intervention: expected one of {kinds}, found {self.kind!r}")
        if not math.isfinite(self.factor):
            raise InputError(f"{self.target}: expected a finite factor, found {self.factor}")
        if (self.source is not None) != (self.kind in ("patch", "add")):
            needs = "needs a" if self.kind in ("patch", "add") else "takes no"
            raise InputError(f"{self.kind} {self.target}: this intervention {needs} source of values")
        parse_site(self.target)

    def describe(self) -> str:
        """Return the change in words: "zero", "× 0.5", "+ 4 × happy.npy"."""
        source = self.origin or "values"
        return {
            "ablate": "zero", "ablate-mean": "mean over the positions", "scale": f"× {self.factor:g}",
            "patch": f"from {source}", "add": f"+ {self.factor:g} × {source}",
        }[self.kind]  # fmt: skip


class Changed(NamedTuple):
    """A new value, its slope, and a mask of the changed elements."""

    value: Any
    slope: float
    where: Array | bool = True


Change = Callable[[Array, Sequence[int]], Changed]  # arguments: a value, and the positions of its rows


class Editor:
    """The interventions of one trace, resolved for a model and its input. `rows` are the positions with
    logits and probs. Set `start` before a pass whose first position is not 0."""

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
            with naming(f"{intervention.kind} {intervention.target}"):
                applied.append(self._resolve(intervention, site, parts))
        self.applied = tuple(applied)

    def afresh(self) -> Editor:
        """Return a new editor with the same interventions, whose means are computed again in another pass."""
        return Editor(self._model, self._inputs, self._rows, self._interventions)

    def subscriptions(self, bus: HookBus) -> list[Subscription]:
        """Return the hooks that make the changes, in order of the interventions."""
        return [bus.subscription(hook, name) for name, hook in self._hooks]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._hooks}

    def _part(self, site: Site, name: str) -> Part:
        tokens = partial(token_of, self._model) if over_tokens(name) else None
        return site.part(name, self._shapes[name], tokens)

    def _resolve(self, intervention: Intervention, site: Site, parts: dict[str, Part]) -> Applied:
        if all(self._inputs.targets[row] is None for row in self._rows):
            parts.pop("loss", None)
        if not parts:
            raise InputError("no loss is computed in this run")
        elements = 0
        for name, part in parts.items():
            _check(intervention.kind, self._model.plan[name], part, self._rows, self._length)
            change = self._change(intervention, site, name, part)
            self._hooks.append((name, self._hook(part, change)))
            rows = self._rows if over_tokens(name) else range(self._length)
            shape = (len(rows), *self._shapes[name][1:]) if over_tokens(name) else self._shapes[name]
            elements += int(np.count_nonzero(_mask(part, shape, rows)))
        if not elements:
            raise InputError("the causal mask hides all selected elements")
        text = intervention.describe() + self._note(intervention.source)
        return Applied(intervention.kind, intervention.target, text, tuple(parts), elements)

    def _note(self, source: Source | None) -> str:
        """Return a note if the source is a run over other tokens."""
        tokens = source.tokens if isinstance(source, SavedRun) else None
        return "" if tokens is None or tokens == self._inputs.tokens else ", which read other tokens"

    def _positions(self, name: str, value: Array) -> Sequence[int]:
        if self.start == 0 and over_tokens(name):
            return self._rows
        return range(self.start, self.start + (value.shape[-2] if value.ndim > 1 else 0))

    def _hook(self, part: Part, change: Change) -> Hook:
        def intervention(event: TraceEvent, value: Array) -> Replacement | None:
            positions = self._positions(event.name, value)
            changed = change(value, positions)
            mask = _mask(part, value.shape, positions) & changed.where
            if not mask.any():  # no position is changed in this step of a continuation
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
        array, available = _values(intervention, name, self._model, self._length)
        source, head = intervention.origin or "the source", over_tokens(name)
        from_front = site.position != "" and not site.position.startswith("-") and ",-" not in site.position
        if not head and available is not None and not from_front and len(available) != self._length:
            raise InputError(
                f"{source} has {len(available):,} positions of {name}, and this text has {self._length:,}: "
                f"name a position counted from 0, such as {site.selector}@3"
            )
        positions = part.positions or (self._rows if head else range(self._length))
        missing = [] if available is None else [p for p in positions if p not in available]
        if missing:
            raise InputError(f"{source} has no position {missing[0]} of {name}")
        rows = _rows_of(array, available)
        if intervention.kind == "patch":
            return lambda value, positions: Changed(rows(positions)[0], 0, rows(positions)[1])
        factor = intervention.factor
        return lambda value, positions: Changed(
            value + value.dtype.type(factor) * rows(positions)[0], 1, rows(positions)[1]
        )


def _mask(part: Part, shape: Sequence[int], rows: Sequence[int]) -> Array:
    """Return the mask of the part. In attention, elements that the causal mask hides are left out."""
    mask = part.mask(shape, rows)
    return mask & causal_mask(shape[1], shape[2]) if len(shape) == 3 else mask


def _check(kind: Kind, row: Operation, part: Part, rows: Sequence[int], length: int) -> None:
    """Raise InputError if the intervention would do nothing, or let a query see later positions."""
    head = over_tokens(row.name)
    if kind == "ablate-mean":
        if length == 1:
            raise InputError("the mean over a single position changes nothing")
        if head and len(rows) < length:
            raise InputError(f"the mean needs {row.name} at all positions (--positions all)")
        if row.causal or isinstance(row.kind, Loss):
            why = "would let a query attend to later positions" if row.causal else "does not exist"
            raise InputError(f"the mean of {row.name} over the positions {why}")
    missing = [position for position in part.positions or () if head and position not in rows]
    if missing:
        raise InputError(f"{row.name} is not computed at position {missing[0]} (--positions)")


def _mean_of_prompt() -> Change:
    """Replace values by their mean over the positions of the first pass, even in steps of a continuation."""
    mean: list[Array] = []

    def change(value: Array, positions: Sequence[int]) -> Changed:
        if not mean:
            mean.append(value.mean(axis=-2, keepdims=True, dtype=np.float64))
        return Changed(mean[0], 0)

    return change


def _values(
    intervention: Intervention, name: str, model: LanguageModel, length: int
) -> tuple[Array, Sequence[int] | None]:
    """Return the values of an event from the source, [T, W] or [H, T, T], and the positions of the rows. The
    positions are None if a single row is used at every position."""
    source, shape = intervention.source, model.plan.shapes(length)[name]
    available: Sequence[int] | None = None
    if isinstance(source, SavedRun):
        array, available = source.values_of(name, model, length, alone=intervention.kind == "add")
    elif isinstance(source, Mapping) and name not in source:
        raise InputError(f"the source has no {name}")
    else:
        array = np.asarray(source[name] if isinstance(source, Mapping) else source)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"expected floating-point values, found {array.dtype}")
    if not shape and array.size == 1:
        return array.reshape(()), None
    vector = intervention.kind == "add" and len(shape) == 2
    if vector and array.size == shape[-1] and not available:
        return array.reshape(1, -1), None
    square = array.ndim == len(shape) > 1
    if not square or array.shape[-1] != shape[-1] or array.shape[:-2] != shape[:-2]:
        either = f" or [{shape[-1]}]" if vector else ""
        raise InputError(f"expected {name} of shape {list(shape)}{either}, found {list(array.shape)}")
    return array, range(array.shape[-2]) if available is None else available


def _rows_of(array: Array, available: Sequence[int] | None) -> Callable[[Sequence[int]], tuple[Array, Any]]:
    """Return a function from positions to rows of [T, W] or [H, T, S] and a mask of the available rows."""
    if available is None:
        return lambda positions: (array, True)
    row_of = {position: row for row, position in enumerate(available)}

    def rows(positions: Sequence[int]) -> tuple[Array, Any]:
        present = np.array([position in row_of for position in positions])
        if not present.any():
            return np.zeros(()), False
        return array.take([row_of.get(position, 0) for position in positions], axis=-2), present[:, None]

    return rows
