"""Compare two surveys: one row for every figure that differs. A comparison runs no model.

The surveys can be of two models, of two quantisations of one model, or of one model over different texts. A
survey stores no values, so two surveys can agree although the values of the models differ at every token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import NOT_FINITE, Array
from ..errors import InputError
from ..grouping import grouped
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..text.printable import shown_token
from .figures import FIGURES, Figure
from .report import SurveyedEvent, SurveyReport, report_of
from .state import Survey
from .surveyed_predictions import SurveyedPart

_COMPARED = FIGURES | {
    "token": (Figure("loss", "value", None, "scale"),), "expert": (Figure("share", "value", None, "scale"),)
}  # fmt: skip
_READING = {  # what decides which tokens a survey runs
    name: attrgetter(path)
    for name, path in {
        "number of documents": "corpus.documents", "fingerprint of the texts": "corpus.fingerprint",
        "--max-tokens": "order.max_tokens", "--chat": "order.chat", "vocabulary": "model.labels",
        "texts and tokens that were run": "read",
    }.items()
}  # fmt: skip


@frozen
class Difference:
    """A figure in two surveys. `kind` is the kind of row, such as "head", and `name` is the row, such as
    "layer0 head 3". `event` is the event of the row, or "" for predictions.

    `distance` is |b - a| for shares, cosines and mean 1/rank, and |b - a| / |a| for losses, spreads and the
    growth of a layer. The change of an entropy is divided by the largest possible entropy. The distance of an
    event's mean or RMS is ||b - a|| / ||rms_a|| over the channels. The distance of a channel or a token is
    its part of the distance of the event or of the loss, and a token counts as often as in A. If a number of
    values that are not finite changes, its distance is infinite. `error` is the standard error of b - a, for
    a loss by text. `remark` describes a change of the head role, or of the list of dead or outlier channels.
    """

    kind: str
    name: str
    event: str
    figure: str
    a: float | None
    b: float | None
    distance: float
    error: float | None = None
    remark: str = ""


@frozen
class ComparedSurvey:
    """One of two compared surveys: its file, its model, and the number of texts and tokens that were run."""

    file: str
    model: str
    family: str
    fingerprint: str
    sources: tuple[str, ...]
    texts: int
    tokens: int
    arithmetic: tuple[str, ...]


@frozen(slots=False)
class SurveyComparison:
    """The differences of survey B from survey A, the largest first.

    `same` is True if all compared sums and counts of A and B are equal, bit for bit. If `rtol` is set,
    different surveys agree if no distance exceeds `rtol`. `first` is the first event in order of computation
    that does not agree. `compared` counts the compared figures of each kind, and channels count as part of
    their events. `same_tokens` is True if both surveys ran the same tokens. `not_compared` maps each reason
    to names of rows.
    """

    SCHEMA = "microgpt.survey-diff/3"

    a: ComparedSurvey
    b: ComparedSurvey
    same_tokens: bool
    rtol: float | None
    same: bool
    first: str | None
    compared: dict[str, int]
    differences: tuple[Difference, ...]
    not_compared: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    _repr_html_ = in_notebook

    @property
    @in_document
    def agree(self) -> bool:
        """True if the surveys are the same, or if no distance exceeds `rtol`."""
        return self.same or (
            self.rtol is not None and all(own.distance <= self.rtol for own in self.differences)
        )


class _RowPlace(NamedTuple):
    """The place of a row in the reports of both surveys."""

    kind: str
    name: str
    event: str = ""


class _Fraction(NamedTuple):
    """The share of an expert of all choices, or the loss of a token, with the scale of its distances."""

    value: float
    scale: float = 1.0


def compare_surveys(
    a: Survey, b: Survey, *, names: Sequence[str] = (), rtol: float | None = None,
    called: tuple[str, str] = ("A", "B"),
) -> SurveyComparison:  # fmt: skip
    """Compare survey B with survey A. If `names` has event names or globs, compare only the matching events,
    their layers, heads and experts, but no predictions. `called` has the names of the two surveys in error
    messages. Raises InputError if the surveys have nothing to compare, or if a name matches no comparable
    event."""
    reports = report_of(a), report_of(b)
    rows_a, rows_b = map(_rows_of, reports)
    same_labels = a.model.labels == b.model.labels
    reasons = {place: _why_not(place, rows_a, rows_b, same_labels) for place in rows_a | rows_b}
    events = [place.event for place, why in reasons.items() if place.kind == "event" and not why]
    chosen = {*select_names(names, events)} if names else {*events, ""}
    places = [place for place in rows_a if not reasons[place] and place.event in chosen]
    figures = [own for place in places for own in _compared(place, rows_a[place], rows_b[place], a, b)]
    if not figures:
        raise InputError(f"{called[1]}: expected an event of {called[0]} with the same size, found none")
    changed, other_tokens = _changed_tallies(a.tallies, b.tallies), _other_tokens(a, b)
    not_compared = grouped((place for place in reasons if reasons[place]), reasons.__getitem__)
    if other_tokens:  # a figure that only one survey has follows from the texts
        for own in figures:
            if own.a is None or own.b is None:
                place = _RowPlace("", f"{own.figure} of {own.name}")
                not_compared.setdefault("known in one survey only", []).append(place)
        figures = [own for own in figures if own.a is not None and own.b is not None]
    far = (own for own in figures if own.kind == "event" and (rtol is None or own.distance > rtol))
    differing = (own for own in figures if own.distance or own.remark)
    sides = [
        ComparedSurvey(
            file, own.model, own.family, own.fingerprint, own.sources, own.texts, own.tokens, own.arithmetic
        )
        for file, own in zip(called, reports, strict=True)
    ]
    return SurveyComparison(
        sides[0], sides[1], not other_tokens, rtol, not (changed & chosen if names else changed),
        next((own.event for own in far if own.event in changed), None),
        dict(Counter(own.kind for own in figures if own.kind != "channel")),
        tuple(sorted(differing, key=lambda own: -own.distance)),
        {reason: tuple(place.name for place in own) for reason, own in not_compared.items()},
        tuple(_notes(a, b, other_tokens)),
    )  # fmt: skip


# --- What can be compared ---------------------------------------------------------------------


def _rows_of(report: SurveyReport) -> dict[_RowPlace, Any]:
    """Return all rows of a report by place, events in order of computation first."""
    rows: dict[_RowPlace, Any] = {_RowPlace("event", own.name, own.name): own for own in report.events}
    rows |= {_RowPlace("layer", f"layer{own.layer}", own.event): own for own in report.layers}
    rows |= {_RowPlace("head", f"layer{own.layer} head {own.head}", own.event): own for own in report.heads}
    for router in report.routers:
        rows[_RowPlace("router", f"layer{router.layer} router", router.event)] = router
        for expert, share in enumerate(router.shares):
            rows[_RowPlace("expert", f"layer{router.layer} expert {expert}", router.event)] = _Fraction(share)
    for part in report.parts:
        rows[_RowPlace("prediction", f"predictions{', ' * bool(part.part)}{part.part}")] = part
        for own in part.by_token:
            name = f"{part.part}{' ' * bool(part.part)}token {own.token} {shown_token(own.label)}"
            rows[_RowPlace("token", name)] = _Fraction(own.loss, (part.loss or 0.0) * part.tokens / own.count)
    return rows


def _why_not(
    place: _RowPlace, rows_a: Mapping[_RowPlace, Any], rows_b: Mapping[_RowPlace, Any], same_labels: bool
) -> str:
    """Return why a row cannot be compared, or ""."""
    if not (place.event or same_labels):
        return "the vocabularies differ"
    if place not in rows_a or place not in rows_b:
        return f"not measured in {'B' if place in rows_a else 'A'}"
    if place.kind != "event":
        return ""
    one, two = (f"{own.kind} of {own.channels:,} channels" for own in (rows_a[place], rows_b[place]))
    return "" if one == two else f"{one} in A, {two} in B"


def _other_tokens(a: Survey, b: Survey) -> list[str]:
    """Return the names of what differs if two surveys ran different tokens, else []."""
    other = [name for name, value in _READING.items() if value(a) != value(b)]
    return other + ["shard"] * (not (a.whole and b.whole) and a.blocks != b.blocks)


def _changed_tallies(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    """Return the names of events, and of other survey parts, with common tallies that differ in any bit."""

    def content(tally: Any) -> Any:
        return {part: (array.shape, array.tobytes()) for part, array in tally.arrays().items()}

    return {name.rpartition("/")[0] for name in a.keys() & b.keys() if content(a[name]) != content(b[name])}


def _notes(a: Survey, b: Survey, other_tokens: Sequence[str]) -> Iterator[str]:
    """Yield notes on what else than the models might explain the distances."""
    if other_tokens:
        what = f"the surveys did not run the same tokens (different: {', '.join(other_tokens)})"
        yield f"{what}; a distance can come from the texts, and only a loss by text has a standard error"
    if a.model.fingerprint == b.model.fingerprint:
        yield "both surveys are of the same model: the fingerprints of the parameters are equal"
    if a.arithmetic != b.arithmetic:
        yield f"the libraries differ: {', '.join(a.arithmetic)} in A, {', '.join(b.arithmetic)} in B"


# --- Distances --------------------------------------------------------------------------------


def _compared(place: _RowPlace, one: Any, two: Any, a: Survey, b: Survey) -> Iterator[Difference]:
    """Yield the compared figures of a row."""
    roles = [getattr(row, "role", "") for row in (one, two)]
    remark = "" if roles[0] == roles[1] else f"role {' → '.join(roles)}"
    for figure in _COMPARED[place.kind]:
        x, y = map(attrgetter(figure.path), (one, two))
        if figure.scale is None or (x is None and y is None):
            continue
        scale = attrgetter(figure.scale)(one) if isinstance(figure.scale, str) else figure.scale
        error = _standard_error(one, two) if figure.path == "document_loss" else None
        yield Difference(*place, figure.name, x, y, _distance(x, y, scale), error, remark)
    if isinstance(one, SurveyedEvent):
        yield from _of_channels(place, (one, two), a, b)


def _distance(a: float | None, b: float | None, scale: float | None) -> float:
    if a is None or b is None:
        return math.inf
    return 0.0 if a == b else abs(b - a) / scale if scale else math.inf


def _standard_error(a: SurveyedPart, b: SurveyedPart) -> float | None:
    """Return the standard error of the change of the mean loss by text. The losses in A and B are treated as
    independent, because a survey does not store the loss of each text."""
    if a.spread is None or b.spread is None:
        return None
    return math.hypot(a.spread / math.sqrt(a.documents), b.spread / math.sqrt(b.documents))


def _of_channels(
    place: _RowPlace, events: tuple[SurveyedEvent, SurveyedEvent], a: Survey, b: Survey
) -> Iterator[Difference]:
    """Yield the change of an event over all channels, and the channels that only one survey lists as dead or
    as outliers."""
    one, two = a.channels(place.name), b.channels(place.name)
    known = (one.count > 0) & (two.count > 0)
    if not known.any():
        return
    rms = one.rms[known]
    of_all = events[0].mean, events[1].mean
    yield Difference(*place, "mean", *of_all, relative_distance(one.mean[known], two.mean[known], rms))
    of_all = events[0].rms, events[1].rms
    yield Difference(*place, "RMS", *of_all, relative_distance(rms, two.rms[known], rms))
    remarks: dict[int, list[str]] = {}
    for word, x, y in (("dead", one.dead, two.dead), ("outlier", one.outliers, two.outliers)):
        for channel in np.setxor1d(x, y).tolist():
            remarks.setdefault(channel, []).append(f"{word} only in {'A' if channel in x else 'B'}")
    for channel in sorted(remarks):
        if known[channel]:
            x, y, name = one.rms[[channel]], two.rms[[channel]], f"{place.name}[{channel}]"
            yield Difference(
                "channel", name, place.event, "RMS", x.item(), y.item(), relative_distance(x, y, rms), None,
                ", ".join(remarks[channel]),
            )  # fmt: skip


@NOT_FINITE
def relative_distance(a: Array, b: Array, scale: Array) -> float:
    """Return ||b - a|| / ||scale||, or 0 if a and b are equal: [C] each -> one number."""
    difference, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(scale))
    return 0.0 if not difference else difference / size if size else math.inf
