"""SurveyComparison: two surveys over the same texts, of two models or of two quantisations of one.

A is what B is held against. Nothing is run, and no value is compared with one: a survey keeps what channels,
heads and losses add up to.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.brief import frozen
from ..text.document_fields import in_document
from ..text.wording import counted
from .channel_shifts import EventShift, differing, event_shift
from .comparable import NotCompared, check_comparable, comparable_events
from .layer_shifts import HeadShift, LayerShift, entering_kl, head_shifts, layer_shifts
from .prediction_shifts import PartShift, part_shifts
from .state import Survey
from .summary import read_counts


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


@frozen(slots=False)
class SurveyComparison:
    """How two surveys differ.

    `same` says that all sums and counts that both have of what is compared are the same, bit for bit; with
    `rtol` they agree too where no distance of an event, a layer, a head or a part is above it. `first` is the
    first event in order of computation that does not agree. `entering_kl` is the mean KL(A || B) over the
    channels of the stream that enters the first layer. `documents` is None of an unfinished survey.
    """

    SCHEMA = "microgpt.survey-diff/1"

    a: ComparedSurvey
    b: ComparedSurvey
    sources: tuple[str, ...]
    documents: int | None
    rtol: float | None
    same: bool
    first: str | None
    entering_kl: float | None
    events: tuple[EventShift, ...]
    layers: tuple[LayerShift, ...]
    heads: tuple[HeadShift, ...]
    parts: tuple[PartShift, ...]
    not_compared: tuple[NotCompared, ...]
    notes: tuple[str, ...]

    _repr_html_ = in_notebook

    @property
    def measured(self) -> list[EventShift | LayerShift | HeadShift | PartShift]:
        """All that has a distance."""
        return [*self.events, *self.layers, *self.heads, *self.parts]

    @property
    @in_document
    def agree(self) -> bool:
        """Whether nothing differs by more than is allowed, which is nothing without `rtol`."""
        return self.same or (
            self.rtol is not None and all(own.distance <= self.rtol for own in self.measured)
        )


def compare_surveys(
    a: Survey, b: Survey, *, names: Sequence[str] = (), rtol: float | None = None,
    called: tuple[str, str] = ("A", "B"),
) -> SurveyComparison:  # fmt: skip
    """Hold survey B against survey A: all that both have, or the events that names and globs choose, with
    the layers and heads that these are of. `called` is what errors call the two.

    Raises InputError where the surveys did not read the same texts alike, where nothing can be compared, or
    where a name means nothing that can.
    """
    check_comparable(a, b, called)
    known, not_compared = comparable_events(a, b)
    alike = a.model.labels == b.model.labels
    chosen = select_names(names, known) if names else known
    other = differing(a.tallies, b.tallies)
    shifts = [event_shift(a, b, name, name not in other) for name in chosen]
    layers, heads = layer_shifts(a, b, shifts), head_shifts(a, b, set(chosen))
    parts = part_shifts(a, b) if alike and not names else []
    if not (shifts or parts):
        raise InputError(f"{called[1]}: nothing in it has the name and the size of something in {called[0]}")
    same = not (other & set(chosen) if names else other)
    one, two = (_side(survey, name) for survey, name in zip((a, b), called, strict=True))
    return SurveyComparison(
        one, two, a.corpus.sources, a.corpus.documents, rtol, same, _first(shifts, rtol),
        entering_kl(a, b, shifts), tuple(shifts), tuple(layers), tuple(heads), tuple(parts),
        tuple(not_compared), tuple(_notes(a, b, alike)),
    )  # fmt: skip


def _side(survey: Survey, name: str) -> ComparedSurvey:
    model = survey.model
    return ComparedSurvey(
        name, model.origin, model.family, model.fingerprint, *read_counts(survey), survey.arithmetic
    )


def _first(shifts: Sequence[EventShift], rtol: float | None) -> str | None:
    for shift in shifts:
        if not shift.same and (rtol is None or shift.distance > rtol):
            return shift.name
    return None


def _notes(a: Survey, b: Survey, alike: bool) -> list[str]:
    """What one has to know to read the figures."""
    notes = []
    (texts_a, tokens_a), (texts_b, tokens_b) = read_counts(a), read_counts(b)
    if not alike:
        notes.append("other vocabularies: predictions are not compared, and events are of other tokens")
    if (texts_a, tokens_a) != (texts_b, tokens_b):
        ran_a = f"{counted(texts_a, 'text')} of {counted(tokens_a, 'token')}"
        ran_b = f"{counted(texts_b, 'text')} of {counted(tokens_b, 'token')}"
        notes.append(f"not the same was run: {ran_a} in all in A, {ran_b} in B")
    if a.model.fingerprint == b.model.fingerprint:
        notes.append("one model: the parameters have the same fingerprint")
    if a.arithmetic != b.arithmetic:
        notes.append(f"computed by {', '.join(a.arithmetic)} in A, by {', '.join(b.arithmetic)} in B")
    return notes
