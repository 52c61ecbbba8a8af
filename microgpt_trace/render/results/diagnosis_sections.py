"""A diagnosis as sections: the first wrong operation with its cause, and all wrong operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...decoder.catalogue import kind_named
from ...diagnosis.diagnose import Diagnosis, DumpDiagnosis
from ...diagnosis.finding import Finding
from ...grouping import grouped
from ...plans.kinds import Scores
from ...rounding.judging import OVER_THE_PASS, OperationResult
from ...rounding.offers import Offer
from ...text.wording import abridged, counted
from ..numbers import distance, two_apart
from ..sections import Column, Labelled, Section, Words, alarm, facts, indented, table_section, words
from .diff_sections import (
    MAX_LISTED,
    by_reason,
    few_names,
    origin_of,
    place_of,
    tokens_line,
    unpaired_sections,
)


def diagnosis_sections(result: DumpDiagnosis, *, verbose: bool = False) -> list[Section]:
    """Return the sources, the verdict, the cause, the operations, and what could not be judged."""
    diagnosis, dump = result.diagnosis, result.dump
    how = filter(None, [f"{diagnosis.compute}: {diagnosis.compute_how}", str(diagnosis.unseen or "")])
    pairs = [
        *facts("dump", origin_of(dump)),
        ("model", result.model),
        ("tokens", tokens_line(diagnosis.tokens, result.labels)),
        *facts("computes", how),
    ]
    sections = [Section([Labelled(pairs)]), _verdict(result), *_findings(diagnosis)]
    sections += [*_operations(diagnosis, verbose), *_untested(diagnosis)]
    return [*sections, *unpaired_sections(dump.unpaired, "the dump, not judged")]


def _verdict(result: DumpDiagnosis) -> Section:
    diagnosis = result.diagnosis
    count = diagnosis.judged
    if diagnosis.offer is not None:
        return _offer(diagnosis.offer)
    if diagnosis.first_wrong is None:
        title = f"All {count:,} operations follow from their own inputs"
        if diagnosis.untested:
            follow = "follows from its" if count == 1 else "follow from their"
            title = f"The {counted(count, 'judged operation')} (of {diagnosis.of:,}) {follow} own inputs"
        few = few_names(len(result.dump.names), result.dump.unpaired)
        style = "bold red" if diagnosis.findings else "bold yellow" if few else "bold green"
        return Section((), few + title, style=style)
    first = next(o for o in diagnosis.operations if o.name == diagnosis.first_wrong)
    wrong = sum(own.measured != OVER_THE_PASS for own in diagnosis.wrong)
    adds = "adds an error of its own" if wrong == 1 else "add errors of their own"
    others = f"{wrong:,} of {count:,} judged operations {adds}; other operations only pass on earlier errors"
    if not wrong:
        others = (
            "no judged operation adds an error of its own: small errors add up, or the dump lacks the cause"
        )
    whole = first.measured == OVER_THE_PASS
    title = f"First {'difference' if whole else 'wrong operation'}: {place_of(first, result.labels)}"
    return Section([*_wrongness(first), indented(others)], title, style="bold red")


def _wrongness(first: OperationResult) -> Iterator[Words]:
    """Yield the expression, error and worst element of the first wrong operation."""
    yield indented(first.expr, "dim")
    if first.nonfinite:
        yield indented(first.nonfinite)
    if first.error is not None:
        inputs = f"{abridged(first.inputs, MAX_LISTED)} in the dump" if first.inputs else "the tokens"
        off = f"off by {distance(first.error)} {first.measured or 'of the row'}"
        if first.measured == OVER_THE_PASS:
            yield indented(f"a full pass of the model computes another value: {off}, as in `diff`")
        else:
            yield indented(f"the model computes another value from {inputs}: {off}")
        yield indented(f"rounding explains {distance(first.tolerance)}")
    if first.found is not None and first.expected is not None:
        element = f"element {list(first.element)}: " if first.element else ""
        found, expected = two_apart(first.found, first.expected)
        yield indented(f"{element}{found} in the dump, {expected} if computed from the inputs")
    if first.recomputed:
        names = abridged(first.recomputed, MAX_LISTED)
        yield indented(f"recomputed inputs that the dump lacks: {names}")


def _offer(offer: Offer) -> Section:
    """Return a verdict that names no fault, but proposes another precision for `--compute`."""
    return Section([indented(str(offer))], f"No fault is named: {offer.look}", style="bold yellow")


def _findings(diagnosis: Diagnosis) -> Iterator[Section]:
    explaining = [finding for finding in diagnosis.findings if finding.explains]
    for finding in explaining:
        error = f"this cause leaves an error of {distance(finding.residual)}{_reach(finding, diagnosis)}"
        yield Section([words(finding.claim, "bold"), indented(error)])
    if explaining or diagnosis.first_wrong is None:
        return
    nearest = [
        indented(f"closest: {finding.claim}, which leaves an error of {distance(finding.residual)}")
        for finding in diagnosis.findings
    ]
    other = "Does the engine have other weights? `microgpt diff A B --weights` compares two model files."
    none = f"None of {len(diagnosis.tried):,} hypotheses explains the first wrong operation."
    yield Section([*[words(none)] * bool(diagnosis.tried), *nearest, indented(other)])


def _reach(finding: Finding, diagnosis: Diagnosis) -> str:
    count, wrong = len(finding.also_explains), len(diagnosis.wrong)
    text = f", and explains {count} of the {wrong - 1} other wrong operations" if wrong > 1 else ""
    if finding.cannot_be_told_from:
        text += f"; in {diagnosis.compute} this cause cannot be distinguished from the other causes"
    return text


def _layerless(operation: OperationResult) -> str:
    """Return the name of an operation with "layer*" in place of its layer."""
    return operation.name.replace(f"layer{operation.layer}.", "layer*.")


def _operations(diagnosis: Diagnosis, verbose: bool) -> list[Section]:
    """Return a table of the wrong operations, merged over the layers. With `verbose`, list all operations."""
    title = "Operations in order of computation"
    rows = [[operation] for operation in diagnosis.operations]
    if not verbose:
        title = "Operations beyond float32 rounding" if diagnosis.offer else "Wrong operations"
        title += " (--verbose shows all)"
        rows = list(grouped(diagnosis.wrong, _layerless).values())

    def style(operations: Sequence[OperationResult]) -> str:
        return alarm(operations[0])

    def inputs(operations: Sequence[OperationResult]) -> str:
        prefix = f"layer{operations[0].layer}."
        return ", ".join(name.removeprefix(prefix) for name in operations[0].inputs)

    columns = [
        Column("", lambda ops: "" if ops[0].holds else "✗", style=style, whole=True),
        Column("operation", _name, whole=True, style=style),
        Column("layers", lambda ops: "" if ops[0].layer is None else _layers(ops)),
        Column("from", inputs, wrap=True),
        Column("error", lambda ops: _worst(ops, "error"), right=True, style=style),
        Column("allowed", lambda ops: _worst(ops, "tolerance"), right=True),
    ]
    return table_section(title, columns, rows, about=lambda operations: operations[0].name)


def _name(operations: Sequence[OperationResult]) -> str:
    return _layerless(operations[0]) if len(operations) > 1 else operations[0].name


def _layers(operations: Sequence[OperationResult]) -> str:
    layers = [operation.layer for operation in operations]
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]} ({len(layers)})"


def _worst(operations: Sequence[OperationResult], field: str) -> str:
    values = [value for operation in operations if (value := getattr(operation, field)) is not None]
    return distance(max(values)) if values else "–"


def _untested(diagnosis: Diagnosis) -> list[Section]:
    names = (operation.name for operation in diagnosis.operations)
    hidden = [(name, "keys that the mask hides") for name in names if isinstance(kind_named(name), Scores)]
    lines = list(map(words, by_reason([*diagnosis.untested, *hidden])))
    return [Section(lines, "Not judged")] if lines else []
