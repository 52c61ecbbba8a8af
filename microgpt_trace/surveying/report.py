"""SurveyReport: all that is shown of a survey, and its document."""

from __future__ import annotations

from typing import Any

from ..text.brief import frozen
from .predictions import Overfitting, SurveyedPart, overfitting, surveyed_parts
from .state import Survey
from .summary import (
    SurveyedEvent,
    SurveyedHead,
    SurveyedLayer,
    UnitExamples,
    read_counts,
    surveyed_events,
    surveyed_heads,
    surveyed_layers,
    unit_examples,
)


@frozen
class LeftOut:
    """Rows that were no documents, texts that did not fit the model, or texts that were cut: how many, and
    the first."""

    reason: str
    count: int
    first: str


@frozen(slots=False)
class SurveyReport:
    """What a survey found. `texts` and `tokens` were run; `documents` is None where the corpus was not read
    to its end, and `whole` says whether all of it was run."""

    SCHEMA = "microgpt.survey/1"

    whole: bool
    model: str
    family: str
    fingerprint: str
    sources: tuple[str, ...]
    documents: int | None
    corpus_fingerprint: str | None
    texts: int
    tokens: int
    arithmetic: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    parts: tuple[SurveyedPart, ...]
    overfitting: Overfitting | None
    layers: tuple[SurveyedLayer, ...]
    heads: tuple[SurveyedHead, ...]
    events: tuple[SurveyedEvent, ...]
    units: tuple[UnitExamples, ...]


def report_of(survey: Survey) -> SurveyReport:
    """What a survey found so far."""
    texts, tokens = read_counts(survey)
    parts = surveyed_parts(survey)
    skipped: list[Any] = [(reason, *found) for reason, found in survey.corpus.skipped.items()]
    unfit = [(reason, found.texts, found.place) for reason, found in sorted(survey.unfit.items())]
    model, corpus = survey.model, survey.corpus
    return SurveyReport(
        survey.whole, model.origin, model.family, model.fingerprint, corpus.sources, corpus.documents,
        corpus.fingerprint, texts, tokens, survey.arithmetic,
        tuple(LeftOut(*found) for found in [*skipped, *unfit]), tuple(parts), overfitting(survey, parts),
        tuple(surveyed_layers(survey)), tuple(surveyed_heads(survey)), tuple(surveyed_events(survey)),
        tuple(unit_examples(survey)),
    )  # fmt: skip
