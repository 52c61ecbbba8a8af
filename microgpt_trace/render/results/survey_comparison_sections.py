"""A comparison of two surveys as sections: what was compared, the verdict, and a table of what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from ...grouping import grouped
from ...surveying.survey_comparison import ComparedSurvey, Difference, SurveyComparison
from ...text.wording import abridged, counted, listed
from ..numbers import distance, four_decimals, significant, two_apart
from ..sections import Column, Labelled, Section, facts, fields, indented, name_of, table_section, words

MOST = 8  # largest number of rows of each kind that are shown without --verbose
LEGEND = (
    "distance: the change of a share, a cosine or a mean 1/rank; the relative change of a loss, a spread or "
    "a growth; for an entropy, relative to the largest possible entropy; for a mean or RMS of an event, "
    "||B - A|| / ||rms_A|| over channels; for a channel or a token, its part of the distance of the event or "
    "the loss, with the counts of A",
    "±: standard error of B - A, which treats the texts of both sides as unrelated, because a survey does "
    "not store the loss of each text",
)


def survey_comparison_sections(result: SurveyComparison, *, verbose: bool = False) -> list[Section]:
    """Describe a comparison: unless `verbose`, only the largest differences of each kind."""
    sections = [_header(result), _verdict(result), *_table(result.differences, verbose)]
    if result.not_compared:
        lines = [words(f"{abridged(names)}: {reason}") for reason, names in result.not_compared.items()]
        sections.append(Section(lines, "Not compared"))
    return sections


def _header(result: SurveyComparison) -> Section:
    sides = {"A": result.a, "B": result.b}
    if result.same_tokens:
        corpus = [("corpus", _read(result.a))]
    else:
        corpus = facts("corpus", (f"{name}: {_read(side)}" for name, side in sides.items()))
    same_bits = "only equal bits; --rtol allows differences"
    pairs = [
        *((name, f"{side.file}, of {side.model}") for name, side in sides.items()),
        *corpus,
        *facts("note", result.notes),
        ("allowed", same_bits if result.rtol is None else f"distances up to {result.rtol:g}"),
    ]
    return Section([Labelled(pairs)])


def _read(side: ComparedSurvey) -> str:
    return f"{', '.join(side.sources)}: {counted(side.texts, 'text')}, {counted(side.tokens, 'token')}"


def _verdict(result: SurveyComparison) -> Section:
    title = f"The surveys differ, first in {result.first}" if result.first else "The surveys differ"
    if result.same:
        title = "The surveys are equal, bit for bit"
    elif result.agree:
        title = f"The surveys agree: no distance is above {result.rtol:g}"
    differing = Counter(own.kind for own in result.differences if own.distance)
    counts = (f"{differing[kind]:,} of {count:,} ({kind})" for kind, count in result.compared.items())
    lines = [indented(f"figures that differ: {', '.join(counts)}")]
    return Section(lines, title, style="bold green" if result.agree else "bold red")


def _table(rows: Sequence[Difference], verbose: bool) -> list[Section]:
    shown, left = [], Counter[str]()
    for kind, group in grouped(rows, lambda own: own.kind).items():
        most = len(group) if verbose or kind == "prediction" else MOST
        shown += group[:most]
        left[kind] = len(group[most:])
    counts = [f"{count:,} of kind {kind}" for kind, count in left.items() if count]
    more = (
        [words(f"not shown: {listed(counts)}, with smaller distances; --verbose shows all")] if counts else []
    )
    columns = [
        Column("what", name_of, whole=True),
        *fields(str, {"figure": "figure"}, right=False),
        Column("A", lambda own: _values(own)[0], right=True),
        Column("B", lambda own: _values(own)[1], right=True),
        *fields(distance, {"distance": "distance"}),
        Column("", _remark, remark=True),
    ]
    shown.sort(key=lambda own: -own.distance)
    aside, about = "the largest distances first", attrgetter("event")
    return table_section("Differences", columns, shown, *LEGEND, about=about, aside=aside, more=more)


def _values(own: Difference) -> tuple[str, str]:
    """Return both values with enough digits to show their difference."""
    if own.a is None or own.b is None:
        return significant(own.a), significant(own.b)
    return two_apart(own.a, own.b)


def _remark(own: Difference) -> str:
    return own.remark if own.error is None else f"± {four_decimals(own.error)}"
