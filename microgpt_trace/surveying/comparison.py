"""SurveyComparison: two surveys of the same texts, of two models or of two quantisations of one.

The rows of both reports are paired, each pair with a distance. Nothing is run, and no value is compared with
one: a survey keeps what channels, heads and losses add up to. Two models whose values differ at every token
may have the same statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.brief import brief, frozen
from ..text.json_writing import in_document
from ..text.wording import counted
from .predictions import surveyed_parts
from .report import SurveyedEvent, surveyed_events, surveyed_heads, surveyed_layers
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
    """One of the two: its file, its model, and how many texts and tokens were run."""

    file: str
    model: str
    family: str
    fingerprint: str
    texts: int
    tokens: int
    arithmetic: tuple[str, ...]


@frozen
class NotCompared:
    """Events that one or both of the surveys have and that were not compared, and why."""

    reason: str
    names: tuple[str, ...]


@frozen(slots=False)
class SurveyComparison:
    """How survey B differs from survey A.

    `same` says that all sums and counts that both have of what is compared are the same, bit for bit; with
    `rtol` they agree too where no distance is above it. `first` is the first event in order of computation
    that does not agree. `documents` is None of an unfinished survey.
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
        """All that has a distance."""
        return [*self.events, *self.layers, *self.heads, *self.parts]

    @property
    @in_document
    def agree(self) -> bool:
        """Whether nothing differs by more than is allowed, which is nothing without `rtol`."""
        return self.same or (
            self.rtol is not None and all(pair.distance <= self.rtol for pair in self.measured)
        )


def compare_surveys(
    a: Survey, b: Survey, *, names: Sequence[str] = (), rtol: float | None = None,
    called: tuple[str, str] = ("A", "B"),
) -> SurveyComparison:  # fmt: skip
    """Compare survey B with survey A: all that both have, or the events that names and globs choose, with
    their layers and heads. `called` is what errors call the two.

    Raises InputError where the surveys did not read the same texts alike, where nothing can be compared, or
    where a name means nothing that can.
    """
    _check_comparable(a, b, called)
    events_a, events_b = surveyed_events(a), surveyed_events(b)
    not_compared = _not_compared(events_a, events_b)
    left = {name for own in not_compared for name in own.names}
    known = [event.name for event in events_a if event.name not in left]
    chosen = set(select_names(names, known) if names else known)
    changed = differing(a.tallies, b.tallies)
    events = {
        one.name: event_pair(one, two, a, b, one.name not in changed)
        for one, two in paired(events_a, events_b, lambda event: event.name)
        if one.name in chosen
    }
    alike = a.model.labels == b.model.labels
    parts = [] if names or not alike else paired(surveyed_parts(a), surveyed_parts(b), lambda own: own.part)
    if not (events or parts):
        raise InputError(f"{called[1]}: nothing in it has the name and the size of something in {called[0]}")
    layers = paired(surveyed_layers(a), surveyed_layers(b), lambda layer: (layer.layer, layer.event))
    heads = paired(surveyed_heads(a), surveyed_heads(b), lambda head: (head.event, head.head))
    differ = (own for own in events.values() if not own.same)
    departed = (own.name for own in differ if rtol is None or own.distance > rtol)
    one, two = (_side(survey, name) for survey, name in zip((a, b), called, strict=True))
    return SurveyComparison(
        one, two, a.corpus.sources, a.corpus.documents, rtol,
        not (changed & chosen if names else changed),
        next(departed, None),
        tuple(part_pair(*pair) for pair in parts),
        tuple(layer_pair(*pair, _entering(a, b, pair[0].layer), events) for pair in layers
              if pair[0].event in events),
        tuple(head_pair(*pair) for pair in heads if pair[0].event in events),
        tuple(events.values()), tuple(not_compared), tuple(_notes(a, b, alike)),
    )  # fmt: skip


# --- What can be compared ---------------------------------------------------------------------

_READ: Mapping[str, Callable[[Survey], Any]] = {
    "number of documents": lambda survey: survey.corpus.documents,
    "fingerprint of the texts": lambda survey: survey.corpus.fingerprint,
    "part of the corpus, block by block,": lambda survey: None if survey.whole else survey.blocks,
    "--max-tokens": lambda survey: survey.order.max_tokens,
    "--chat": lambda survey: survey.order.chat,
}


def _check_comparable(a: Survey, b: Survey, called: tuple[str, str]) -> None:
    """Raises InputError, naming what differs, where two surveys did not read the same texts alike."""
    for what, of in _READ.items():
        if of(a) != of(b):
            raise InputError(
                f"{called[1]}: its {what} is {brief(of(b))}, where {called[0]} has {brief(of(a))}; surveys "
                "are compared over the same texts, read alike"
            )


def _not_compared(a: Sequence[SurveyedEvent], b: Sequence[SurveyedEvent]) -> list[NotCompared]:
    """The events that cannot be compared, by the reason."""
    of_a, of_b = ({event.name: event for event in events} for events in (a, b))
    reasons: dict[str, list[str]] = {}
    for name in of_a | of_b:
        one, two = of_a.get(name), of_b.get(name)
        if one is None or two is None:
            reasons.setdefault(f"{'B' if one else 'A'} has not measured it", []).append(name)
        elif one.kind != two.kind:
            reasons.setdefault(f"{one.kind} in A, {two.kind} in B", []).append(name)
        elif one.channels != two.channels:
            reasons.setdefault(f"{one.channels:,} channels in A, {two.channels:,} in B", []).append(name)
    return [NotCompared(reason, tuple(names)) for reason, names in reasons.items()]


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """The events, or what else is measured, of which tallies that both have are not the same, bit for bit."""

    def content(tally: Any) -> Any:
        return {part: (array.shape, array.tobytes()) for part, array in tally.arrays().items()}

    return {name.rpartition("/")[0] for name in a.keys() & b.keys() if content(a[name]) != content(b[name])}


def _side(survey: Survey, name: str) -> ComparedSurvey:
    model = survey.model
    return ComparedSurvey(
        name, model.origin, model.family, model.fingerprint, *survey.read, survey.arithmetic
    )


def _notes(a: Survey, b: Survey, alike: bool) -> Iterator[str]:
    """What one has to know to read the figures."""
    if not alike:
        yield "other vocabularies: predictions are not compared, and events are of other tokens"
    ran_a, ran_b = (
        f"{counted(texts, 'text')} of {counted(tokens, 'token')}" for texts, tokens in (a.read, b.read)
    )
    if ran_a != ran_b:
        yield f"not the same was run: {ran_a} in all in A, {ran_b} in B"
    if a.model.fingerprint == b.model.fingerprint:
        yield "one model: the parameters have the same fingerprint"
    if a.arithmetic != b.arithmetic:
        yield f"computed by {', '.join(a.arithmetic)} in A, by {', '.join(b.arithmetic)} in B"


def _entering(a: Survey, b: Survey, layer: int) -> str | None:
    """The stream that enters a layer, where both models call it the same."""
    one, two = (survey.model.streams[layer] for survey in (a, b))
    return one if one == two else None
