"""Comparisons of two models as sections: of their parameters, and of their runs over many prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter

from ...comparison.prompts import PromptComparison, PromptsComparison
from ...grouping import grouped
from ...text.wording import are, counted
from ...weights.stored_rounding import BLOCK
from ...weights.weights_comparison import WeightRow, WeightsComparison
from ..numbers import distance, exponent, two_apart
from ..sections import WIDE, Column, Labelled, Section, Table, Words, alarm, fields, indented, name_of, words

FEW = 40  # a longer table is shortened without --verbose


def weights_sections(result: WeightsComparison, *, verbose: bool = False) -> list[Section]:
    """Return the verdict, the parameters that differ, and a table with a row per parameter."""
    allowed = f"{result.factor:g} times the rounding error of the stored types"
    allowed += f", and more in single blocks of {BLOCK} elements"
    if result.rtol is not None:
        allowed = f"relative L2 of {result.rtol:g}"
    facts = Labelled([("A", result.a), ("B", result.b), ("allowed", allowed)])
    rows = result.rows if verbose or len(result.rows) <= FEW else _farthest(result)
    below = []
    if left_out := len(result.rows) - len(rows):
        which = f"{counted(left_out, 'parameter')} with smaller errors {are(left_out)}"
        below.append(words(f"{which} not shown; --verbose shows all", "dim"))
    for letter, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            below.append(words(f"only in {letter}: {', '.join(names)}"))
    columns = [
        Column("parameter", name_of, whole=True, style=alarm),
        Column("shape", lambda r: str(list(r.shape_a)), from_width=WIDE),
        *fields(str, {"A": "type_a", "B": "type_b"}, right=False),
        Column("relative L2", _relative, right=True, style=alarm),
        Column("expected", lambda r: "exact" if r.expected is None else distance(r.expected), right=True),
        *fields(distance, {"max |a-b|": "max_abs"}),
        Column("at", lambda r: str(list(r.index)) if r.index is not None and r.max_abs else "–"),
        Column("", lambda r: "" if r.holds else "NO", style=alarm),
    ]
    return [Section([facts]), _verdict(result), Section([Table(columns, rows, about=name_of), *below])]


def _verdict(result: WeightsComparison) -> Section:
    if result.agree:
        title, style, lines = _agreement(result), "bold green", [*_unequal(result)]
    else:
        title, style, lines = _difference(result), "bold red", [*_differing(result)]
    lines += [
        indented(f"{row.name}: {row.nowhere:,} of {row.count:,} elements are NaN or infinite on both sides")
        for row in [row for row in result.rows if row.nowhere][:FEW]
    ]
    return Section(lines, title, style=style)


def _agreement(result: WeightsComparison) -> str:
    count = len(result.rows)
    if result.same:
        return f"All {count:,} parameters are equal, number for number"
    named = f"{counted(count, 'parameter')} named (of {result.of:,})"
    if all(row.equal for row in result.rows):
        return f"The {named} {are(count)} equal, number for number"
    which = f"{count:,} parameters" if count == result.of else f"the {named}"
    equal = sum(row.equal for row in result.rows)
    return f"All differences in {which} are allowed; {equal:,} are equal, number for number"


def _difference(result: WeightsComparison) -> str:
    failed, missing = sum(not row.holds for row in result.rows), len(result.only_a) + len(result.only_b)
    more = f", {missing:,} more {are(missing)} in only one model" if missing else ""
    return f"{failed:,} of {len(result.rows):,} parameters differ{more}"


def _differing(result: WeightsComparison) -> Iterator[Words]:
    failed = [row for row in result.rows if not row.holds]
    for row in failed[:FEW]:
        yield indented(f"{row.name}: {_cause(row)}")
    if len(failed) < len(result.rows):
        equal = sum(row.equal for row in result.rows)
        yield indented(f"of the other parameters, {equal:,} are equal, number for number")
        yield from _unequal(result)


def _unequal(result: WeightsComparison) -> Iterator[Words]:
    """Describe the parameters with an allowed difference, in a line for each pair of stored types."""
    unequal = (row for row in result.rows if row.holds and not row.equal)
    for (a, b), rows in grouped(unequal, attrgetter("type_a", "type_b")).items():
        types = f"{a} on both sides" if a == b else f"{a} in A, {b} in B"
        which = rows[0].name if len(rows) == 1 else f"{len(rows):,} parameters"
        elements = f"{sum(row.unequal or 0 for row in rows):,} of {sum(row.count for row in rows):,} elements"
        farthest = max(rows, key=lambda row: row.relative_l2 or 0.0)
        error = f"relative L2 {distance(farthest.relative_l2 or 0.0)}{' at most' * (len(rows) > 1)}"
        if farthest.expected is not None:
            error += f" (rounding explains {distance(farthest.expected)})"
        yield indented(f"{which}, {types}: {elements} differ, {error}")


def _cause(row: WeightRow) -> str:
    """Return the cause of a difference, or the element that differs most if the cause is unknown."""
    if row.shape_a != row.shape_b:
        shapes = f"shape {list(row.shape_a)} in A, {list(row.shape_b)} in B"
        return f"{shapes}; {row.cause}" if row.cause else shapes
    if row.cause or row.index is None:
        return row.cause or "differs"
    a, b = two_apart(row.value_a or 0.0, row.value_b or 0.0)
    return f"element {list(row.index)}: A has {a}, B has {b}"


def _farthest(result: WeightsComparison) -> list[WeightRow]:
    """Return the FEW rows with the largest multiples of the allowed difference, in the model's order."""

    def rank(row: WeightRow) -> tuple[bool, float]:
        return row.holds, -(row.relative_l2 or 0.0) / (row.expected or 1.0)

    chosen = {row.name for row in sorted(result.rows, key=rank)[:FEW]}
    return [row for row in result.rows if row.name in chosen]


def _relative(row: WeightRow) -> str:
    if row.max_abs == math.inf:  # an element is finite on only one side
        return "NaN/Inf"
    return distance(row.relative_l2)


def prompts_sections(comparison: PromptsComparison) -> list[Section]:
    """Return a table with a row per prompt, and the verdict over all prompts."""
    results = comparison.prompts
    columns = [
        Column("", lambda r: "" if r.agree else "✗", style="red", whole=True),
        Column("prompt", lambda r: r.text, wrap=True),
        Column("same token", lambda r: f"{r.same_argmax}/{r.positions}", right=True),
        *fields(exponent, {"KL": "mean_kl", "max KL": "max_kl"}),
        Column("worst event", lambda r: r.worst, whole=True),
        *fields(distance, {"error": "relative", "band": "tolerance"}, from_width=WIDE),
        Column("of band", _of_band, right=True),
    ]
    agreed, positions = sum(r.same_argmax for r in results), sum(r.positions for r in results)
    same = words(f"the same token at {agreed:,} of {counted(positions, 'position')}")
    return [Section([Table(columns, results)]), Section([same, _gate(results)])]


def _gate(results: Sequence[PromptComparison]) -> Words:
    failed = [r for r in results if not r.agree]
    if failed:
        verdict = f"{len(failed)} of {len(results)} prompts differ"
        return Words(((verdict, "bold red"), (f", the first at {failed[0].first}", "")))
    least = min(results, key=lambda r: r.events)
    named = f" in the {counted(least.events, 'event')} named (of {least.of:,})" * (least.events < least.of)
    agree = f"All {len(results)} prompts agree" if len(results) > 1 else "The prompt agrees"
    return words(f"{agree} within the bands{named}", "bold green")


def _of_band(result: PromptComparison) -> str:
    """Format the error as a multiple of its band."""
    share = result.relative / result.tolerance if result.tolerance else math.inf * result.relative
    return f"{share:.2g}" if math.isfinite(share) else "–"
