"""Compare two surveys of the same texts, by two models or by two quantisations of one model.

The comparison pairs the rows of both reports and measures the distance of each pair. A comparison runs no
model. A comparison covers only statistics, because a survey keeps no values. Surveys can agree although the
values of the two models differ at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.brief import brief
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..text.wording import counted
from .predictions import surveyed_parts
from .report import SurveyedEvent, surveyed_events, surveyed_layers
from .report_heads import surveyed_heads
from .report_pairs import (
    EventPair,
    HeadPair,
    LayerPair,
    PartPair,
    event_pair,
    head_pair,
    layer_pair,
    paired,
    part_pair,
)
from .state import Survey


@frozen
class ComparedSurvey:
    """One of two compared surveys: its file, its model, and the number of texts and tokens that were run."""

    file: str
    model: str
    family: str
    fingerprint: str
    texts: int
    tokens: int
    arithmetic: tuple[str, ...]


@frozen
class NotCompared:
    """Events that were not compared, and the reason why."""

    reason: str
    names: tuple[str, ...]


@frozen(slots=False)
class SurveyComparison:
    """The differences of survey B from survey A.

    `same` is True if all compared sums and counts of A and B are equal, bit for bit. If `rtol` is set,
    different surveys agree if no distance exceeds `rtol`. `first` is the first event in order of computation
    that does not agree. `documents` is None if the surveys are unfinished.
    """

    SCHEMA = "microgpt.survey-diff/2"

    a: ComparedSurvey
    b: ComparedSurvey
    sources: tuple[str, ...]
    documents: int | None
    rtol: float | None
    same: bool
    first: str | None
    parts: tuple[PartPair, ...]
    layers: tuple[LayerPair, ...]
    heads: tuple[HeadPair, ...]
    events: tuple[EventPair, ...]
    not_compared: tuple[NotCompared, ...]
    notes: tuple[str, ...]

    _repr_html_ = in_notebook

    @property
    def measured(self) -> list[EventPair | LayerPair | HeadPair | PartPair]:
        """All pairs with a distance."""
        return [*self.events, *self.layers, *self.heads, *self.parts]

    @property
    @in_document
    def agree(self) -> bool:
        """True if the surveys are the same, or if no distance exceeds `rtol`."""
        return self.same or (
            self.rtol is not None and all(pair.distance <= self.rtol for pair in self.measured)
        )


def compare_surveys(
    a: Survey, b: Survey, *, names: Sequence[str] = (), rtol: float | None = None,
    called: tuple[str, str] = ("A", "B"),
) -> SurveyComparison:  # fmt: skip
    """Compare survey B with survey A. If `names` has event names or globs, compare only the matching events,
    their layers and heads, but no predictions. `called` has the names of the two surveys in error messages.
    Raises InputError if the surveys read different texts or read the texts with different options, if the
    surveys have nothing to compare, or if a name matches no comparable event."""
    _check_comparable(a, b, called)
    events_a, events_b = surveyed_events(a), surveyed_events(b)
    not_compared = _not_compared(events_a, events_b)
    excluded = {name for own in not_compared for name in own.names}
    comparable = [event.name for event in events_a if event.name not in excluded]
    chosen = set(select_names(names, comparable) if names else comparable)
    changed = _changed_tallies(a.tallies, b.tallies)
    events = {
        one.name: event_pair(one, two, a, b, one.name not in changed)
        for one, two in paired(events_a, events_b, lambda event: event.name)
        if one.name in chosen
    }
    same_tokens = a.model.labels == b.model.labels
    parts = paired(surveyed_parts(a), surveyed_parts(b), lambda own: own.part) if same_tokens else []
    parts = [] if names else parts
    if not (events or parts):
        raise InputError(f"{called[1]}: expected an event of {called[0]} with the same size, found none")
    layers = paired(surveyed_layers(a), surveyed_layers(b), lambda layer: (layer.layer, layer.event))
    heads = paired(surveyed_heads(a), surveyed_heads(b), lambda head: (head.event, head.head))
    entering = [one if one == two else "" for one, two in zip(a.model.streams, b.model.streams, strict=False)]
    differing = (own.name for own in events.values()
                 if not own.same and (rtol is None or own.distance > rtol))  # fmt: skip
    one, two = (
        ComparedSurvey(
            name, own.model.origin, own.model.family, own.model.fingerprint, *own.read, own.arithmetic
        )
        for own, name in zip((a, b), called, strict=True)
    )
    return SurveyComparison(
        one, two, a.corpus.sources, a.corpus.documents, rtol,
        not (changed & chosen if names else changed),
        next(differing, None),
        tuple(part_pair(*pair) for pair in parts),
        tuple(layer_pair(*pair, entering[pair[0].layer], events) for pair in layers
              if pair[0].event in events),
        tuple(head_pair(*pair) for pair in heads if pair[0].event in events),
        tuple(events.values()), tuple(not_compared), tuple(_notes(a, b, same_tokens)),
    )  # fmt: skip


# --- Comparable surveys and events ------------------------------------------------------------

_READ: Mapping[str, Callable[[Survey], Any]] = {
    "number of documents": lambda survey: survey.corpus.documents,
    "fingerprint of the texts": lambda survey: survey.corpus.fingerprint,
    "blocks of an incomplete survey": lambda survey: None if survey.whole else survey.blocks,
    "--max-tokens": lambda survey: survey.order.max_tokens,
    "--chat": lambda survey: survey.order.chat,
}


def _check_comparable(a: Survey, b: Survey, called: tuple[str, str]) -> None:
    """Raise InputError if two surveys read different texts or read the texts with different options."""
    for name, value in _READ.items():
        if value(a) != value(b):
            values = f"expected {brief(value(a))} as in {called[0]}, found {brief(value(b))}"
            raise InputError(
                f"{called[1]}: {name}: {values}; only surveys of the same texts, read with the same options, "
                "can be compared"
            )


def _not_compared(a: Sequence[SurveyedEvent], b: Sequence[SurveyedEvent]) -> list[NotCompared]:
    """Return the events that cannot be compared, grouped by reason."""
    in_a, in_b = ({event.name: event for event in events} for events in (a, b))
    reasons: dict[str, list[str]] = {}
    for name in in_a | in_b:
        one, two = in_a.get(name), in_b.get(name)
        if one is None or two is None:
            reasons.setdefault(f"not measured in {'B' if one else 'A'}", []).append(name)
        elif one.kind != two.kind:
            reasons.setdefault(f"{one.kind} in A, {two.kind} in B", []).append(name)
        elif one.channels != two.channels:
            reasons.setdefault(f"{one.channels:,} channels in A, {two.channels:,} in B", []).append(name)
    return [NotCompared(reason, tuple(names)) for reason, names in reasons.items()]


def _changed_tallies(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """Return the names of events, and of other survey parts, with common tallies that differ in any bit."""

    def content(tally: Any) -> Any:
        return {part: (array.shape, array.tobytes()) for part, array in tally.arrays().items()}

    return {name.rpartition("/")[0] for name in a.keys() & b.keys() if content(a[name]) != content(b[name])}


def _notes(a: Survey, b: Survey, same_tokens: bool) -> Iterator[str]:
    """Yield notes on differences between the surveys that might explain the distances."""
    if not same_tokens:
        yield "the vocabularies differ: the models read different tokens, and predictions are not compared"
    run_a, run_b = (f"{counted(own.read[0], 'text')} of {counted(own.read[1], 'token')}" for own in (a, b))
    if run_a != run_b:
        yield f"the surveys ran different amounts of text: {run_a} in A, {run_b} in B"
    if a.model.fingerprint == b.model.fingerprint:
        yield "both surveys are of the same model: the fingerprints of the parameters are equal"
    if a.arithmetic != b.arithmetic:
        yield f"the libraries differ: {', '.join(a.arithmetic)} in A, {', '.join(b.arithmetic)} in B"
