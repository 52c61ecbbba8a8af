"""Trace: what a run showed, as plain data. Asks nothing of the model that it has beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..architecture.edits import Applied
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.plan import HEAD_EVENTS
from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..hooks.event import EventSpec, Phase, TraceEvent
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.brief import frozen, one_line
from ..text.json_writing import in_document
from ..text.wording import abridged
from .findings import Anomaly, Check, Insight

SCHEMA_ID = "microgpt.trace/1"
_ASKED_BY = {"backward": "backward", "update": "step"}  # phases


@frozen
class Candidate:
    token: int
    label: str
    p: float


@frozen
class Prediction:
    """The model's guess at one position. `rank` 1 is the most probable; ties rank by id.

    Where the probabilities are not finite nothing is predicted: `predicted` and `rank` are None. Where
    nothing follows there is no `target`, `rank` and `loss`.
    """

    position: int
    seen: str
    target: Candidate | None
    predicted: Candidate | None
    rank: int | None
    loss: float | None
    top: tuple[Candidate, ...]
    _repr_html_ = in_notebook


class Predictions(tuple[Prediction, ...]):
    """The predictions of a run, in order."""

    __slots__ = ()
    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        return one_line(self, positions=len(self))


@frozen
class ParameterRow:
    """A parameter with the L2 norms of its value, gradient and update; None where not computed.

    A norm is that of the finite elements; `nonfinite` counts the others of each.
    """

    name: str
    shape: tuple[int, ...]
    l2_norm: float | None
    gradient_l2: float | None
    update_l2: float | None = None
    nonfinite: int = 0
    gradient_nonfinite: int = 0
    update_nonfinite: int = 0

    @property
    @in_document
    def gradient_ratio(self) -> float | None:
        """|gradient| / |weight|, None where an element of either is not finite"""
        return self._ratio(self.gradient_l2, self.gradient_nonfinite)

    @property
    @in_document
    def update_ratio(self) -> float | None:
        """|update| / |weight|, None where an element of either is not finite"""
        return self._ratio(self.update_l2, self.update_nonfinite)

    def _ratio(self, part: float | None, nonfinite: int) -> float | None:
        if part is None or not self.l2_norm or nonfinite or self.nonfinite:
            return None
        return part / self.l2_norm


@frozen
class StepSummary:
    """One Adam step on this input."""

    number: int
    lr: float
    loss_before: float
    loss_after: float
    note: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What the rules compare of a layer, over `positions` that read different tokens.

    All are medians over these. `growth` is how many times its input the stream leaves as, `attention` and
    `mlp` what each writes (of all three the median magnitude of an element), `passing` the share of the
    activation's outputs that are not near zero, `turn` the cosine of the layer's output and input.
    """

    positions: int
    growth: float
    attention: float
    mlp: float
    passing: float
    turn: float


@frozen
class LayerRow:
    """A decoder's layer at a glance. Rows are positions; medians are taken over them.

    `typical` is the stream's median magnitude of an element; `attention_share` and `mlp_share` are the
    median of |write| / |stream|, `turn` that of the cosine of the layer's output and input, `near_zero`
    the share of the activation's outputs within `near_zero_threshold`, `sink` the attention on position 0,
    averaged over heads and later queries. `compared` is None where no position serves as a measure.
    """

    layer: int
    stream: TensorStats
    row_norm: float
    typical: float
    attention_share: float
    mlp_share: float
    turn: float
    near_zero: float
    near_zero_threshold: float
    sink: float | None
    peak: float  # the element of largest magnitude, with its place
    peak_position: int
    peak_channel: int
    compared: Compared | None
    nan_count: int  # in all the layer's events
    inf_count: int


@frozen
class LensRow:
    """What the model would predict if it ended after this layer (final norm and head applied): the most
    probable token of every position, and as many as were asked for. None where that is not finite."""

    layer: int
    positions: tuple[int, ...]
    predicted: tuple[Candidate | None, ...]
    top: tuple[tuple[Candidate, ...], ...]


@frozen
class TargetRow:
    """What a chosen token would get at a position if the model ended with this event, the stream after a
    layer's attention or after the layer. `rank` 1 is the most probable; ties rank by id; None where the
    probabilities are not finite."""

    layer: int
    event: str
    position: int
    target: Candidate
    rank: int | None


@frozen
class GeneratedToken:
    """A token of a continuation, with its probability, the runners-up and the events of its step."""

    step: int
    position: int
    token: Candidate
    runners_up: tuple[Candidate, ...]
    events: tuple[TraceEvent, ...] = field(default=(), repr=False)


@frozen
class EventChange:
    """How far an event lies from where it would be: |after - before| / |before| (of attention the causal
    part). None where that is not finite; a `replaced` event is one that an intervention changed."""

    name: str
    replaced: bool
    change: float | None


@frozen
class Intervened:
    """What interventions did, beside the run without them.

    `before` are that run's predictions and `loss_before` its loss; `p_after` is the P that what it predicts
    has with them. `kl` is KL(before || after) of every position's prediction, in nats, None where it is
    not finite.
    """

    interventions: tuple[Applied, ...]
    changes: tuple[EventChange, ...]
    before: tuple[Prediction, ...]
    loss_before: float | None
    p_after: tuple[float | None, ...]
    kl: tuple[float | None, ...]

    def change_of(self, name: str) -> EventChange | None:
        """How far the event of that name was changed, if it is among those shown."""
        return next((change for change in self.changes if change.name == name), None)


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Everything one run showed. Iterates over its events; `trace[name]` is the array of an event.

    `loss` is None where no position that was predicted has a target.
    """

    model: dict[str, Any]
    input: TraceInput
    loss: float | None
    chance_loss: float
    events: tuple[TraceEvent, ...]
    predictions: tuple[Prediction, ...]
    insights: tuple[Insight, ...]
    checks: tuple[Check, ...]
    layers: tuple[LayerRow, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    lens: tuple[LensRow, ...] = ()
    lens_target: tuple[TargetRow, ...] = ()
    generation: tuple[GeneratedToken, ...] = ()
    generation_end: str = ""  # why a continuation ended before it had all its tokens
    parameters: tuple[ParameterRow, ...] = ()
    intervened: Intervened | None = None
    step: StepSummary | None = None
    arrays: dict[tuple[Phase, str], Array] = field(default_factory=dict, repr=False)
    specs: Mapping[str, EventSpec] = field(default_factory=dict, repr=False)  # what was known before
    traced_model: LanguageModel | None = field(default=None, repr=False)  # what its page goes on with

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"text": self.input.text, "model": self.model["origin"], "loss": self.loss}
        return one_line(self, **about, events=len(self.events), arrays=len(self.arrays))

    def __getstate__(self) -> dict[str, Any]:
        """What another process is given: not the model, whose weights may lie in a file."""
        return {**self.__dict__, "traced_model": None}

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __contains__(self, name: object) -> bool:
        return ("forward", name) in self.arrays

    def __getitem__(self, name: str) -> Array:
        """The forward array of an event. Raises InputError where it was not kept."""
        return self.array(name)

    def array(self, name: str, phase: Phase = "forward") -> Array:
        """The array of an event or parameter in a phase: an activation, a gradient, an update; or a part of
        one, layer0.attn.weights[1], without the axes on which it is one index."""
        if "[" in name or "@" in name:
            return self._part(name, phase)
        return self.arrays[phase, self._kept(name, phase)]

    def _kept(self, name: str, phase: Phase) -> str:
        """The event that a name or a glob means. Raises InputError where there is no such event, where its
        array was not kept, and where several were."""
        if (phase, name) in self.arrays:
            return name
        chosen = select_names([name], [*self.specs] or [n for p, n in self.arrays if p == phase] or [name])
        kept = [n for n in chosen if (phase, n) in self.arrays]
        if not kept:
            made = phase == "forward" or any(event.phase == phase for event in self.events)
            how = "ask for it by `values`" if made else f"trace a microGPT with {_ASKED_BY[phase]}=True"
            raise InputError(f"the array of {name!r} was not kept in phase {phase}: {how}")
        if len(kept) > 1:
            raise InputError(f"{name!r} means several arrays, {abridged(kept)}: name one")
        return kept[0]

    def _part(self, text: str, phase: Phase) -> Array:
        import numpy as np

        from ..hooks.sites import parse_site  # which no other view of a trace needs

        site = parse_site(text)
        name = self._kept(site.selector, phase)
        array = self.arrays[phase, name]
        rows: Sequence[int] = range(array.shape[-2] if array.ndim > 1 else 0)
        shape: Sequence[int] = array.shape
        if name in HEAD_EVENTS:
            rows, shape = [p.position for p in self.predictions], (len(self.input.tokens), array.shape[-1])
        part = site.part(name, shape)
        missing = [position for position in part.positions or () if position not in rows]
        if missing:
            raise InputError(f"{text}: position {missing[0]} is none of those whose {name} were computed")
        taken: Array = array[np.ix_(*part.indices(array.shape, rows))]
        return taken.squeeze(site.lone(array.shape))

    def gradient(self, name: str) -> Array:
        """d loss / d the tensor or parameter of that name."""
        return self.array(name, "backward")

    def event(self, name: str, phase: Phase = "forward") -> TraceEvent | None:
        """The event of that name, if it is among those shown."""
        return next((e for e in self.events if e.name == name and e.phase == phase), None)

    @property
    def targets(self) -> tuple[Candidate, ...]:
        """What follows each position that was predicted and has a target, with the P it got."""
        return tuple(p.target for p in self.predictions if p.target is not None)

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.holds is not False for check in self.checks)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is missing, or there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
