"""Trace: the result of a traced run, as plain data. A Trace refers to the model, but never runs the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np

from ..arrays.stats import Array, TensorStats
from ..errors import InputError
from ..hooks.event import EventSpec, Phase, TraceEvent
from ..hooks.names import select_names
from ..interventions.applied import Applied
from ..measuring.expert_choices import ExpertChoices
from ..models.language_model import LanguageModel, Scalar, TraceInput
from ..notebook import in_notebook
from ..plans.plan import over_tokens
from ..selection.sites import parse_site
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..text.wording import abridged
from .findings import Anomaly, Check, Insight, TargetGradients

SCHEMA_ID = "microgpt.trace/1"
_OPTIONS = {"backward": "backward", "update": "step"}  # the option of `trace` that adds a phase


@frozen
class Candidate:
    """A token that may come next, with its label and probability."""

    token: int
    label: str
    p: float


def candidate_of(model: LanguageModel, probs: Array, token: int, target: bool = False) -> Candidate:
    """Return a token with its label and its probability in `probs` [V]. A `target` may be EOS."""
    return Candidate(token, model.label(token, target), float(probs[token]))


@frozen
class Prediction:
    """The model's prediction at one position. `rank` 1 is the most probable token. Equally probable tokens
    are ranked by id. `predicted` and `rank` are None if the probabilities are not finite. If the next token
    is not known, `target`, `rank` and `loss` are None."""

    position: int
    seen: str
    target: Candidate | None
    predicted: Candidate | None
    rank: int | None
    loss: float | None
    top: tuple[Candidate, ...]
    _repr_html_ = in_notebook


class Predictions(tuple[Prediction, ...]):
    """The predictions of a run, in order of position."""

    __slots__ = ()
    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        return one_line(self, positions=len(self))


@frozen
class ParameterRow:
    """A parameter with the L2 norms of its value, gradient and update. A norm that was not computed is None.
    The norms include only finite elements, and the `nonfinite` fields count the other elements."""

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
        """|gradient| / |weight|, or None if an element of the gradient or the weight is not finite"""
        return self._ratio(self.gradient_l2, self.gradient_nonfinite)

    @property
    @in_document
    def update_ratio(self) -> float | None:
        """|update| / |weight|, or None if an element of the update or the weight is not finite"""
        return self._ratio(self.update_l2, self.update_nonfinite)

    def _ratio(self, norm: float | None, nonfinite: int) -> float | None:
        if norm is None or not self.l2_norm or nonfinite or self.nonfinite:
            return None
        return norm / self.l2_norm


@frozen
class StepSummary:
    """The summary of one Adam step on the traced text."""

    number: int
    lr: float
    loss_before: float
    loss_after: float
    note: str


@frozen
class Compared:
    """The numbers of a layer that the anomaly rules compare.

    Each number is a median over `positions` positions that read different tokens. `attention` and `mlp` are
    the median magnitudes of the outputs of attention and MLP. `growth` is the median magnitude of the layer's
    output, divided by the median magnitude of its input. `passing` is the share of the activation's outputs
    that are not near zero. `turn` is the cosine of the layer's input and output.
    """

    positions: int
    growth: float
    attention: float
    mlp: float
    passing: float
    turn: float


@frozen
class LayerRow:
    """The overview of one layer of a decoder. Medians are taken over positions (rows).

    `stream` describes the residual stream after the layer. `row_norm` is the median norm of the stream's
    rows, and `typical` is the median magnitude of the stream's elements. `attention_share` is the median of
    |attention output| / |input stream|, and `mlp_share` is the median of |MLP output| / |input stream|.
    `turn` is the median cosine of the layer's input and output. `near_zero` is the share of the activation's
    outputs whose magnitude is at most `near_zero_threshold`. `sink` is the attention on position 0, averaged
    over heads and later queries. `compared` is None if no position can be compared.
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
    peak: float  # the element of largest magnitude
    peak_position: int
    peak_channel: int
    compared: Compared | None
    nan_count: int  # the number of NaN in all events of the layer
    inf_count: int


@frozen
class LensRow:
    """The predictions of a model that ends after this layer (followed by the final norm and the head).
    `predicted` has the most probable token of every position, or None if the probabilities are not finite.
    `top` has the requested number of candidates."""

    layer: int
    positions: tuple[int, ...]
    predicted: tuple[Candidate | None, ...]
    top: tuple[tuple[Candidate, ...], ...]


@frozen
class TargetRow:
    """The probability and rank of a chosen token at a position, if the model ended with the event `event`.
    `event` is the residual stream after a layer's attention or after the layer. `rank` 1 is the most probable
    token. Equally probable tokens are ranked by id. `rank` is None if the probabilities are not finite."""

    layer: int
    event: str
    position: int
    target: Candidate
    rank: int | None


@frozen
class GeneratedToken:
    """A token of a continuation, the next most probable tokens, and the events of its step."""

    step: int
    position: int
    token: Candidate
    runners_up: tuple[Candidate, ...]
    events: tuple[TraceEvent, ...] = field(default=(), repr=False)


@frozen
class EventChange:
    """The change of an event by interventions. `change` is |after - before| / |before|, or None if this ratio
    is not finite. The change of attention covers only the elements on and below the diagonal. `replaced` is
    True if an intervention changes the event itself."""

    name: str
    replaced: bool
    change: float | None


@frozen
class Intervened:
    """The effects of interventions, compared with a run without interventions.

    `before` and `loss_before` are the predictions and the loss of the run without interventions. For each
    token that was predicted without interventions, `p_after` has the probability with interventions. `kl` is
    KL(before || after) of the prediction at every position in nats, or None if the KL is not finite.
    """

    interventions: tuple[Applied, ...]
    changes: tuple[EventChange, ...]
    before: tuple[Prediction, ...]
    loss_before: float | None
    p_after: tuple[float | None, ...]
    kl: tuple[float | None, ...]

    def change_of(self, name: str) -> EventChange | None:
        """Return the change of an event, or None if the event is not shown."""
        return next((change for change in self.changes if change.name == name), None)


@frozen(slots=False, eq=False)
class Trace:
    """The result of one traced run. Iterating over a Trace yields the events, and `trace[name]` is the array
    of an event. `loss` is None if no predicted position has a target."""

    model: dict[str, Any]
    input: TraceInput
    loss: float | None
    chance_loss: float
    events: tuple[TraceEvent, ...]
    predictions: tuple[Prediction, ...]
    insights: tuple[Insight, ...]
    checks: tuple[Check, ...]
    layers: tuple[LayerRow, ...] = ()
    experts: tuple[ExpertChoices, ...] = ()  # of each layer with experts
    anomalies: tuple[Anomaly, ...] = ()
    lens: tuple[LensRow, ...] = ()
    lens_target: tuple[TargetRow, ...] = ()
    generation: tuple[GeneratedToken, ...] = ()
    generation_end: str = ""  # why a continuation ended before its requested number of tokens
    parameters: tuple[ParameterRow, ...] = ()
    intervened: Intervened | None = None
    step: StepSummary | None = None
    scalar: Scalar | None = None  # if there are gradients
    more_gradients: tuple[TargetGradients, ...] = ()  # of the second target and the following ones
    arrays: dict[tuple[Phase, str], Array] = field(default_factory=dict, repr=False)
    more_arrays: tuple[dict[str, Array], ...] = field(default=(), repr=False)  # of `more_gradients`
    specs: Mapping[str, EventSpec] = field(default_factory=dict, repr=False)  # specs of all events
    traced_model: LanguageModel | None = field(default=None, repr=False)  # for pages, which show parameters

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"text": self.input.text, "model": self.model["origin"], "loss": self.loss}
        return one_line(self, **about, events=len(self.events), arrays=len(self.arrays))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model out of pickles, because the model's weights may be mapped from a file."""
        return {**self.__dict__, "traced_model": None}

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __contains__(self, name: object) -> bool:
        return ("forward", name) in self.arrays

    def __getitem__(self, name: str) -> Array:
        """Return the forward array of an event. Raises InputError if the array was not kept."""
        return self.array(name)

    def array(self, name: str, phase: Phase = "forward") -> Array:
        """Return the array of an event or parameter in a phase: an activation, a gradient or an update. The
        name may select a part, as in layer0.attn.weights[1]. If the name selects a single index of an axis,
        the axis is removed. Raises InputError if the array was not kept."""
        if "[" in name or "@" in name:
            return self._part(name, phase)
        return self.arrays[phase, self._kept(name, phase)]

    def _kept(self, name: str, phase: Phase) -> str:
        """Return the event that a name or glob matches. Raises InputError if no event matches, if no matching
        array was kept, or if several matching arrays were kept."""
        if (phase, name) in self.arrays:
            return name
        chosen = select_names([name], [*self.specs] or [n for p, n in self.arrays if p == phase] or [name])
        kept = [n for n in chosen if (phase, n) in self.arrays]
        if not kept:
            computed = phase == "forward" or any(event.phase == phase for event in self.events)
            remedy = "name it in `values`" if computed else f"trace with {_OPTIONS[phase]}=True"
            raise InputError(f"the array of {name!r} was not kept in phase {phase}: {remedy}")
        if len(kept) > 1:
            raise InputError(f"{name!r} matches several arrays, {abridged(kept)}: name one of them")
        return kept[0]

    def _part(self, text: str, phase: Phase) -> Array:
        site = parse_site(text)
        name = self._kept(site.selector, phase)
        array = self.arrays[phase, name]
        rows: Sequence[int] = range(array.shape[-2] if array.ndim > 1 else 0)
        shape: Sequence[int] = array.shape
        if over_tokens(name):
            rows, shape = [p.position for p in self.predictions], (len(self.input.tokens), array.shape[-1])
        part = site.part(name, shape)
        missing = [position for position in part.positions or () if position not in rows]
        if missing:
            raise InputError(f"{text}: the {name} of position {missing[0]} were not computed")
        selected: Array = array[np.ix_(*part.indices(array.shape, rows))]
        return selected.squeeze(site.lone(array.shape))

    def gradient(self, name: str, target: int = 0) -> Array:
        """Return the gradient of the loss, or of another `scalar`, with respect to an event or parameter. If
        the trace has several targets, `target` is the number of one of them."""
        if not target:
            return self.array(name, "backward")
        arrays = self.more_arrays[target - 1].items()
        own = replace(self, arrays={("backward", event): array for event, array in arrays})
        return own.array(name, "backward")

    def event(self, name: str, phase: Phase = "forward") -> TraceEvent | None:
        """Return the event `name`, or None if the event is not shown."""
        return next((e for e in self.events if e.name == name and e.phase == phase), None)

    @property
    def targets(self) -> tuple[Candidate, ...]:
        """The targets of all predicted positions that have a target, with their probabilities."""
        return tuple(p.target for p in self.predictions if p.target is not None)

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return all(check.holds is not False for check in self.checks)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if there are no values or a value is None."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None
